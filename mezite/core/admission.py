"""Who is served now, and when the others may come again: rates, and a queue with an end.

Times are seconds of a clock that nobody sets.  Guessing is bounded by the failures
of an address and of all together; joins by their rate; and all by how many may wait,
of which joins get half, so that renewals go on through a flood of either.  Whoever
is turned away is given a time of his own, in the order that they came.  A renewal that
proves itself pays for nobody else's failures: who floods can take all that the others
would share with him, and times that he does not keep.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from mezite.core.throughput import Throughput

MOST_WAIT_S = 900.0
"""The longest that anybody is told to stay away."""
_LEAST_WAIT_S = 1.0
_KEPT_ADDRESSES = 20_000
_BURST = 20
"""Seconds of a rate that may come at once."""


class Limits(Struct, frozen=True):
    """A second; so much of :data:`_BURST` seconds may come at once."""

    joins: float = 200
    joins_of_address: float = 50
    failures: float = 200
    """Of proofs, by all addresses together; beyond it only those that have proven
    themselves before are served at full rate."""
    failures_of_address: float = 5
    """Beyond it no join of the address is served, and few renewals."""
    renewals_of_suspects: float = 20
    """Of an address that has failed too often, or of all unknown ones together in a flood:
    of those that do not prove themselves."""
    renewals_of_instance: float = 5
    """Granted ones; the only limit that is asked for after the proof (core/renewals.py)."""
    waiting: int = 1000
    """Requests that are being answered, at most; fewer where they take long.  Not a rate."""


class Kind(Enum):
    JOIN = "join"
    RENEW = "renew"


class Bucket:
    """So many a second on average, and so many at once."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = self._left = max(1.0, rate * _BURST)
        self._at = now

    def is_empty(self, now: float, spoken_for: int = 0) -> bool:
        """Whether nothing is left, once those *spoken_for* have taken theirs."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        return self._left < 1 + spoken_for

    def take(self, now: float) -> None:
        self.is_empty(now)
        self._left = max(0.0, self._left - 1)


class Line:
    """Gives each who is turned away a time to come again, one after the other."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.0

    def is_awaited(self, now: float) -> bool:
        """Whether some have been told to come later than *now*."""
        return self._next > now

    def wait(self, now: float, pace: float, ahead: int = 0) -> float:
        """Seconds; *ahead* of them are still served before him, *pace* a second."""
        # Nobody is told less than a second: that is where it begins, else all the first came at once.
        head = now + max(ahead / pace, _LEAST_WAIT_S)
        if self._next > now + MOST_WAIT_S:
            # Longer than anybody is sent away for: a second one begins beside it, so that
            # they come all the time, and not all in the end.
            self._next = head
        self._next = max(self._next, head) + 1 / pace
        return min(self._next - now, MOST_WAIT_S)


class _Addresses:
    """Buckets of addresses, the least lately used of them forgotten."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._known: OrderedDict[str, tuple[Bucket, Line]] = OrderedDict()

    def __contains__(self, address: str) -> bool:
        return address in self._known

    def of(self, address: str, now: float) -> tuple[Bucket, Line]:
        found = self._known.get(address)
        if found is None:
            found = self._known[address] = (Bucket(self._rate, now), Line())
            if len(self._known) > _KEPT_ADDRESSES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(address)
        return found


class Admission:
    """One server process's own; nothing of it is kept."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._throughput, self._queue = Throughput(limits.waiting, now), Line()
        self._joins, self._joins_line = Bucket(limits.joins, now), Line()
        self._joins_of = _Addresses(limits.joins_of_address)
        self._failures = Bucket(limits.failures, now)
        self._failures_of = _Addresses(limits.failures_of_address)
        self._joining: Counter[str] = Counter()
        """Joins that are being answered, by address."""
        self._suspects_of = _Addresses(limits.renewals_of_suspects)
        self._strangers = Bucket(limits.renewals_of_suspects, now), Line()
        self._proven: OrderedDict[str, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        return self._throughput.waiting

    @property
    def room(self) -> int:
        """How many may wait, by the pace that is kept."""
        return self._throughput.room

    @property
    def pace(self) -> float:
        """Of those a second who are turned away for want of room, and come again."""
        return self._throughput.pace

    def enter(
        self, kind: Kind, address: str, now: float, proves_itself: Callable[[], bool] = lambda: False
    ) -> float | None:
        """``None``: the request is served, and :meth:`leave` follows; else in how
        many seconds its sender may come again.  *proves_itself* is asked of a renewal
        that would be turned away for the failures of others."""
        is_join = kind is Kind.JOIN
        throughput = self._throughput
        if throughput.waiting >= (throughput.room // 2 if is_join else throughput.room):
            throughput.turn_away()
            return self._queue.wait(now, throughput.pace, throughput.waiting)
        if "." not in address:
            address = _network(address)
        is_suspect = False
        if address in self._failures_of:
            # Of who has failed before, those under way count as guesses that fail: else many
            # would be let in at once for the one guess that is left.
            under_way = self._joining[address] if is_join else 0
            is_suspect = self._failures_of.of(address, now)[0].is_empty(now, under_way)
        if is_join:
            wait = self._join_wait(address, now, is_suspect)
        else:
            wait = self._renewal_wait(address, now, is_suspect, proves_itself)
        if wait is None:
            throughput.enter(now)
            if is_join:
                self._joining[address] += 1
        return wait

    def _join_wait(self, address: str, now: float, is_suspect: bool) -> float | None:
        limits = self._limits
        if is_suspect:
            return self._failures_of.of(address, now)[1].wait(now, limits.failures_of_address)
        if self._failures.is_empty(now) and address not in self._proven:
            return self._joins_line.wait(now, limits.joins)
        own, line = self._joins_of.of(address, now)
        if own.is_empty(now):
            return line.wait(now, limits.joins_of_address)
        if self._joins.is_empty(now):
            return self._joins_line.wait(now, limits.joins)
        own.take(now)
        self._joins.take(now)
        return None

    def _renewal_wait(
        self, address: str, now: float, is_suspect: bool, proves_itself: Callable[[], bool]
    ) -> float | None:
        if is_suspect:
            bucket, line = self._suspects_of.of(address, now)
        elif self._failures.is_empty(now) and address not in self._proven:
            bucket, line = self._strangers
        else:
            return None
        if bucket.is_empty(now):
            return None if proves_itself() else line.wait(now, self._limits.renewals_of_suspects)
        bucket.take(now)
        return None

    def leave(
        self, kind: Kind, address: str, now: float, *, proven: bool = False, failed: bool = False,
        given_up: bool = False,
    ) -> None:
        """A request that had been let in has been judged, though *given_up* by its sender."""
        self._throughput.leave(now, is_answered=not given_up, is_awaited=self._queue.is_awaited(now))
        if "." not in address:
            address = _network(address)
        if kind is Kind.JOIN:
            self._joining[address] -= 1
            if not self._joining[address]:
                del self._joining[address]
        if failed:
            self._failures_of.of(address, now)[0].take(now)
            self._failures.take(now)
        elif proven:
            self._proven[address] = None
            self._proven.move_to_end(address)
            if len(self._proven) > _KEPT_ADDRESSES:
                self._proven.popitem(last=False)


def _network(address: str) -> str:
    """Of an IPv6 address the /64, which is one customer's; anything else as it is."""
    if ":" not in address:
        return address
    head, gap, tail = address.partition("::")
    groups = head.split(":") if head else []
    after = [group for group in tail.split(":") if group] if gap else []
    groups += ["0"] * (8 - len(groups) - len(after)) + after
    return ":".join(groups[:4])
