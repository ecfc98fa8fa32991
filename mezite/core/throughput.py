"""How many may wait, and how many a second may come again: learnt from what is answered.

Whoever is turned away comes at the pace that he was told, so what arrives says nothing of
what the server can do.  Counted is what it answers in the time that somebody waited; that
is what it can do, where more came than it had room for, and otherwise the least that it
can.  So the pace falls under pressure only, and rises with every proof that it is too low.
A pace too high costs those who come too early one more try, and shows at once; a time that
is too late cannot be taken back: hence no window changes the pace by more than a factor of
two, be it one in which the server stood still.
"""

from __future__ import annotations

_FIRST_PACE = 200.0
"""Answers a second, until it has been measured."""
_LEAST_PACE = 1.0
_MOST_CHANGE = 2.0
"""Of the pace, by one window."""
_WINDOW_S = 1.0
_LONGEST_QUEUE_S = 8.0
"""Nobody waits for longer by the pace measured: clients give up after 20 seconds."""
_LEAST_ROOM = 8
_PRESSED = 4
"""Where never less than this part of the room was taken, the server had all it can do."""


class Throughput:
    """The requests that are being answered, at most *most* of them."""

    __slots__ = (
        "_busy", "_busy_since", "_done", "_least", "_most", "_since", "_was_full", "pace", "waiting",
    )

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self.waiting = 0
        self.pace = _FIRST_PACE
        """Answers a second."""
        self._least = 0
        self._open(now)

    @property
    def room(self) -> int:
        """How many may wait, by the pace that is kept."""
        return self._room(self.pace)

    def enter(self, now: float) -> None:
        """One more waits."""
        if not self.waiting:
            self._busy_since = now
        self.waiting += 1

    def turn_away(self) -> None:
        """There was no room for one more."""
        self._was_full = True

    def leave(self, now: float, *, is_answered: bool, is_awaited: bool) -> None:
        """One waits no more; *is_awaited*: some have been told to come later than *now*."""
        self.waiting -= 1
        self._least = min(self._least, self.waiting)
        if not self.waiting:
            self._busy += now - self._busy_since
        if is_answered:
            self._done += 1
            if now - self._since >= _WINDOW_S:
                self._learn(now, is_awaited)
                self._open(now)

    def _open(self, now: float) -> None:
        """A window begins."""
        self._since = self._busy_since = now
        self._busy, self._done = 0.0, 0
        self._least, self._was_full = self.waiting, False

    def _learn(self, now: float, is_awaited: bool) -> None:
        busy = self._busy + (now - self._busy_since if self.waiting else 0.0)
        if busy <= 0.0:
            return
        shown = self._done / busy
        if self._was_full or self._least >= self._room(shown) // _PRESSED:
            pace = (self.pace + shown) / 2
        else:
            # What nobody waits for is answered fast, too, when it is cheap to refuse.
            pace = max(self.pace, shown if is_awaited else min(shown, _FIRST_PACE))
        self.pace = max(_LEAST_PACE, min(pace, self.pace * _MOST_CHANGE))

    def _room(self, pace: float) -> int:
        return min(self._most, max(_LEAST_ROOM, int(pace * _LONGEST_QUEUE_S)))
