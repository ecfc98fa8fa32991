"""How long things live, and when to act next."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from mezite.core.duration import format_duration
from mezite.core.model import DEFAULT_CERTIFICATE_TTL, Bot, Instance

MIN_INTERVAL = timedelta(seconds=1)
SPREAD = 0.1
"""A renewal is moved earlier by up to this part of its interval."""

CLIENT_SKEW = timedelta(hours=24)
"""A client whose clock is off by more could not use what it gets: host and
X.509 certificates reach this far back."""

_CLOCK_BACK = timedelta(minutes=5)
_CLOCK_STEP = timedelta(hours=1)
_CLOCK_AHEAD = timedelta(days=90)


def asked_ttl(asked: timedelta | None, bot: Bot) -> timedelta:
    """The TTL to start from, before roles and the 24 h cap shorten it."""
    return asked or bot.ttl or DEFAULT_CERTIFICATE_TTL


class IntervalTooLong(Struct, frozen=True):
    interval: timedelta
    ttl: timedelta

    def __str__(self) -> str:
        return (
            f"the renewal interval {format_duration(self.interval)} is not shorter than the "
            f"certificate's TTL {format_duration(self.ttl)}; ask for a shorter renewal interval"
        )


def renewal_interval(asked: timedelta | None, ttl: timedelta) -> timedelta | IntervalTooLong:
    """The interval to renew at: *asked*, or half of *ttl*; at least a second."""
    interval = asked if asked is not None else ttl / 2
    if interval >= ttl:
        return IntervalTooLong(interval, ttl)
    return max(MIN_INTERVAL, interval)


def renew_after(interval: timedelta, chance: float) -> timedelta:
    """When to renew next, counted from now: *interval*, or up to a tenth earlier.

    *chance* is in [0, 1); it spreads the load of machines that started together.
    """
    return max(MIN_INTERVAL, interval * (1 - SPREAD * chance))


def retry_delay(failures: int, chance: float, ceiling: timedelta) -> timedelta:
    """The wait after *failures* failures in a row: doubling from one second up
    to *ceiling*, and of that a random part between half and all."""
    full = min(timedelta(seconds=2 ** min(max(failures - 1, 0), 16)), ceiling)
    return full * (0.5 + 0.5 * chance)


class LineageExpired(Struct, frozen=True):
    """Why a lineage does not renew any more by itself."""

    since: datetime
    rule: str

    def __str__(self) -> str:
        return f"the lineage has been expired since {self.since:%Y-%m-%dT%H:%M:%SZ} ({self.rule})"


def lineage_expiry(instance: Instance, bot: Bot, now: datetime) -> LineageExpired | None:
    """Whether *instance* is past its last renewal plus ``renewable_for``, or
    past its join plus ``max_lineage_age``; the operator's recovery is not looked at."""
    idle_end = instance.renewed_at + bot.renewable_for
    if now >= idle_end:
        return LineageExpired(idle_end, f"renewable for {format_duration(bot.renewable_for)}")
    if bot.max_lineage_age is not None and now >= instance.created_at + bot.max_lineage_age:
        return LineageExpired(
            instance.created_at + bot.max_lineage_age,
            f"lineages of this bot end after {format_duration(bot.max_lineage_age)}",
        )
    return None


def clock_fault(now: datetime, last_seen: datetime | None, elapsed: timedelta | None) -> str | None:
    """Why the server's clock cannot be trusted, or ``None``.

    *last_seen* is the last time it committed; *elapsed* is how long ago that
    was by a clock that nobody sets (CLOCK_BOOTTIME), ``None`` when the server
    has been started since.
    """
    if last_seen is None:
        return None
    if now < last_seen - _CLOCK_BACK:
        return f"the server's clock is {format_duration(last_seen - now)} behind its last commit"
    if elapsed is not None and now - last_seen - elapsed > _CLOCK_STEP:
        return f"the server's clock has jumped ahead by {format_duration(now - last_seen - elapsed)}"
    if elapsed is None and now - last_seen > _CLOCK_AHEAD:
        return f"the server's clock is {format_duration(now - last_seen)} ahead of its last commit"
    return None
