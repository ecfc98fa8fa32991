"""When the daemon does what: the delays, for machine.py."""

from __future__ import annotations

from datetime import timedelta

from mezite.core.lifetime import retry_delay
from mezite.errors import MeziteError, NoAnswer, Reason, Refused
from mezite.identity.events import Moment
from mezite.identity.records import Held
from mezite.identity.states import State

SHORTEST = timedelta(milliseconds=500)
"""Between two renewals, whatever the server says."""
SERVER_TROUBLE = frozenset(
    {Reason.UNAVAILABLE, Reason.SERVER_CLOCK, Reason.DATABASE_RESTORED, Reason.TOO_OFTEN}
)
"""Refusals that say nothing about the machine: as good as no answer."""

_SECOND = timedelta(seconds=1)
_CEILING = timedelta(minutes=5)
_CEILING_WITHOUT_CERTIFICATE = timedelta(minutes=1)
_CEILING_TOLD = timedelta(minutes=15)
_LATER = 0.1
"""A wait that the server asks for is made longer by up to this part, never shorter."""
_REFUSAL_HEAD_START = 3
"""A refusal is an answer: the next question waits as if so many had failed before."""


def renew_in(held: Held) -> timedelta:
    """After the answer that gave *held*: when the server says, unless that is never in time."""
    return held.renew_after if held.renew_after < held.ttl else held.ttl / 2


def retry_in(state: State, failures: int, error: MeziteError, now: Moment) -> timedelta:
    """How long after the last of *failures* failed attempts, with *error*, the next one is due:
    when the server asked for it, a quarter of an hour at the most."""
    if isinstance(error, Refused) and error.retry_after_ms:
        # Its place in the server's line: sooner, it would only be sent to the end of it.
        told = timedelta(milliseconds=error.retry_after_ms)
        return max(_SECOND, min(told, _CEILING_TOLD)) * (1 + _LATER * now.chance)
    is_answer = isinstance(error, Refused) and error.reason not in SERVER_TROUBLE
    head_start = _REFUSAL_HEAD_START if is_answer else 0
    return retry_delay(failures + head_start, now.chance, _ceiling(state, error, is_answer, now))


def republish_in(failures: int, now: Moment) -> timedelta:
    return retry_delay(failures, now.chance, _CEILING_WITHOUT_CERTIFICATE)


def _ceiling(state: State, error: MeziteError, is_answer: bool, now: Moment) -> timedelta:
    """The longest wait: a fifth of what is left of the certificate, so that
    there are tries before it ends; when it has ended, every minute counts.

    Not with a server that takes too long: a fleet that asks it all the time is
    what keeps it from ever catching up (docs/fleet.md has the figures).
    """
    held = state.durable.held
    if held is not None and is_answer:
        return max(_SECOND, min(_CEILING, held.ttl / 2))
    is_slow = isinstance(error, NoAnswer)
    left = state.expires.left(now) if held is not None and state.expires is not None else None
    if held is None or not left:
        return _CEILING if is_slow else _CEILING_WITHOUT_CERTIFICATE
    least = min(_CEILING_WITHOUT_CERTIFICATE, held.ttl / 20) if is_slow else _SECOND
    return max(_SECOND, least, min(_CEILING, left / 5))
