"""Whether the server's clock can be trusted: a jump must not expire the fleet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from mezite.auth.context import Transaction
from mezite.core.lifetime import clock_fault

HEARTBEAT = timedelta(seconds=30)
"""How often the time is committed."""
_KEY = "clock_seen_us"


class Seen(Struct, frozen=True):
    """The last time that was committed."""

    at: datetime
    stored: bytes
    """As it lies in the database."""
    since: float | None = None
    """When that was, by the clock that nobody sets; ``None``: in an earlier run."""


class ClockGuard:
    """Compares the clock with the last time that was committed.

    *boottime* gives seconds of a clock that nobody sets and that runs while
    the machine sleeps (CLOCK_BOOTTIME).  While the clock is at fault the time
    is not committed any more, so that a restart does not hide the fault.

    Its use cases change nothing here: what they return is given to :meth:`hold`
    once it is committed, or a time that never was would be compared with.
    """

    def __init__(self, clock: Callable[[], datetime], boottime: Callable[[], float]) -> None:
        self._clock = clock
        self._boottime = boottime
        self._seen: Seen | None = None

    @property
    def last_seen(self) -> datetime | None:
        """The time that was committed last."""
        return None if self._seen is None else self._seen.at

    def hold(self, seen: Seen | None) -> None:
        """*seen*, which a use case has returned, is committed."""
        self._seen = seen

    def fault(self) -> str | None:
        """Why nothing that depends on the time may be judged now, or ``None``."""
        return self.fault_of(self._seen)

    def fault_of(self, seen: Seen | None) -> str | None:
        """The same where *seen* is what was committed last."""
        if seen is None:
            return None
        elapsed = None if seen.since is None else timedelta(seconds=self._boottime() - seen.since)
        return clock_fault(self._clock(), seen.at, elapsed)

    def load(self, tx: Transaction) -> Seen | None:
        """A use case: the time that an earlier run has committed last."""
        stored = tx.value(_KEY)
        return None if stored is None else _seen(stored, None)

    def follow(self, tx: Transaction) -> Seen | None:
        """A use case: what another process has committed holds here, too."""
        stored, held = tx.value(_KEY), self._seen
        if stored is None or (held is not None and stored == held.stored):
            return held
        return _seen(stored, self._boottime())

    def commit(self, tx: Transaction) -> Seen | None:
        """A use case: the time is noted, unless the clock is at fault."""
        seen = self.follow(tx)
        return self.accept(tx) if self.fault_of(seen) is None else seen

    def accept(self, tx: Transaction) -> Seen:
        """A use case: an operator says that the clock is right as it stands."""
        now = self._clock()
        stored = b"%d" % int(now.timestamp() * 1_000_000)
        tx.set_value(_KEY, stored)
        return Seen(now, stored, self._boottime())


def _seen(stored: bytes, since: float | None) -> Seen:
    return Seen(datetime.fromtimestamp(int(stored) / 1_000_000, UTC), stored, since)
