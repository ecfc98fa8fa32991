"""What the service manager is told of the daemon: ready, its status, signs of life."""

from __future__ import annotations

from datetime import timedelta

from mezite.identity import readiness, report
from mezite.identity.events import Moment
from mezite.identity.states import State
from mezite.supervision import ALIVE, READY, STOPPING, ServiceManager, status

_SIGNS = 3
"""Signs of life in the time in which one is wanted."""


class Supervised:
    """Tells *manager* what is new.

    ``READY=1`` is told once, when a certificate that is good is in the
    destination for the first time: whatever systemd orders after this unit can
    log in.  What comes later is told as the status.
    """

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._is_ready = False
        self._status = ""
        self._next_sign: timedelta | None = None

    def look(self, state: State, now: Moment) -> None:
        """After every step of the machine."""
        lines = []
        if not self._is_ready and readiness.has_valid_certificate(state, now):
            self._is_ready = True
            lines.append(READY)
        text = _status(state, now)
        if text != self._status:
            self._status = text
            lines.append(status(text))
        if lines:
            self._manager.tell(*lines)

    def live(self, now: Moment) -> None:
        """At every turn of the daemon's loop."""
        wanted = self._manager.watchdog
        if wanted is None or (self._next_sign is not None and now.monotonic < self._next_sign):
            return
        self._next_sign = now.monotonic + wanted / _SIGNS
        self._manager.tell(ALIVE)

    def stop(self) -> None:
        self._manager.tell(STOPPING, status("stopping"))


def _status(state: State, now: Moment) -> str:
    reason = readiness.not_ready_reason(state, now)
    if reason is not None:
        return f"not ready: {reason}"
    held = state.durable.held
    assert held is not None
    until = report.valid_until(held)
    return f"bot {held.bot}, generation {held.generation}, certificate valid until {until}"
