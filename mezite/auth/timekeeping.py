"""Whether the server's clock can be trusted: a jump must not expire the fleet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mezite.auth.context import Transaction
from mezite.core.lifetime import clock_fault

HEARTBEAT = timedelta(seconds=30)
"""How often the time is committed."""
_KEY = "clock_seen_us"


class ClockGuard:
    """Compares the clock with the last time that was committed.

    *boottime* gives seconds of a clock that nobody sets and that runs while
    the machine sleeps (CLOCK_BOOTTIME).  While the clock is at fault the time
    is not committed any more, so that a restart does not hide the fault.
    """

    def __init__(self, clock: Callable[[], datetime], boottime: Callable[[], float]) -> None:
        self._clock = clock
        self._boottime = boottime
        self._last_seen: datetime | None = None
        self._seen_at: float | None = None
        self._stored: bytes | None = None

    @property
    def last_seen(self) -> datetime | None:
        """The time that was committed last."""
        return self._last_seen

    def load(self, tx: Transaction) -> None:
        """Reads the time that an earlier run has committed last."""
        stored = tx.value(_KEY)
        self._stored = stored
        if stored is not None:
            self._last_seen = datetime.fromtimestamp(int(stored) / 1_000_000, UTC)

    def fault(self) -> str | None:
        """Why nothing that depends on the time may be judged now, or ``None``."""
        elapsed = None if self._seen_at is None else timedelta(seconds=self._boottime() - self._seen_at)
        return clock_fault(self._clock(), self._last_seen, elapsed)

    def follow(self, tx: Transaction) -> None:
        """A use case: what another process has committed holds here, too."""
        stored = tx.value(_KEY)
        if stored is not None and stored != self._stored:
            self.load(tx)
            self._seen_at = self._boottime()

    def commit(self, tx: Transaction) -> None:
        """A use case: the time is noted, unless the clock is at fault."""
        self.follow(tx)
        if self.fault() is None:
            self.accept(tx)

    def accept(self, tx: Transaction) -> datetime:
        """A use case: an operator says that the clock is right as it stands."""
        self._last_seen, self._seen_at = self._clock(), self._boottime()
        self._stored = b"%d" % int(self._last_seen.timestamp() * 1_000_000)
        tx.set_value(_KEY, self._stored)
        return self._last_seen
