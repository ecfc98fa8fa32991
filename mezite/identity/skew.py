"""How far this machine's clock is off, by the server's time in every answer and refusal.

Nothing is planned by it: renewals are counted on the monotonic clock, and the
server judges by its own.  It is measured for the person who wonders why an SSH
server takes a certificate for one not yet or no longer good.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from mezite.errors import Refused
from mezite.identity.events import Action, Answered, Event, Moment, Skew, TellSkew, WasRefused
from mezite.identity.states import State

WARN_FROM = timedelta(seconds=30)


def measure(server_time: datetime, asked: Moment, now: Moment) -> Skew:
    """The server read its clock somewhere between *asked* and *now*: in the
    middle, give or take half of the time between."""
    half = max(timedelta(0), now.monotonic - asked.monotonic) / 2
    return Skew(server_time + half - now.wall, half)


def is_worth_a_warning(skew: Skew) -> bool:
    """Whether the clock is off by :data:`WARN_FROM` at least, however slow the answer was."""
    return abs(skew.ahead) - skew.give_or_take >= WARN_FROM


def noted(state: State, event: Event, now: Moment) -> tuple[State, tuple[Action, ...]]:
    """The state with the skew that *event* shows, if it shows any; told of once
    when it has become worth a warning, and once when it no longer is."""
    server_time = _server_time(event)
    if server_time is None or state.asked is None:
        return state, ()
    skew = measure(server_time, state.asked, now)
    is_off = is_worth_a_warning(skew)
    told = (TellSkew(skew, is_off),) if is_off != state.told_of_skew else ()
    return replace(state, skew=skew, told_of_skew=is_off), told


def _server_time(event: Event) -> datetime | None:
    if isinstance(event, Answered):
        return event.issued.server_time
    if isinstance(event, WasRefused):
        return _time_of_refusal(event.error)
    return None


def _time_of_refusal(error: Refused) -> datetime | None:
    milliseconds = error.server_time_unix_ms
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
