"""Whether the machine has a valid credential, and will go on having one: red before it is at risk."""

from __future__ import annotations

from datetime import timedelta

from mezite.errors import MeziteError, Refused
from mezite.identity import pace
from mezite.identity.events import Moment
from mezite.identity.report import error_line
from mezite.identity.states import Phase, State

FAILURES = 2
"""So many renewals failed in a row are too many."""
LAST_PART = 0.2
"""Of the certificate's life: a renewal that is due and has not come by then is late."""


def is_published(state: State) -> bool:
    """Whether the destination has the identity that is held."""
    unpublished = (Phase.EMPTY, Phase.PUBLISHING)
    return state.durable.held is not None and state.publish_due is None and state.phase not in unpublished


def has_valid_certificate(state: State, now: Moment) -> bool:
    """Whether there is one in the destination, and its time is not over."""
    return is_published(state) and state.expires is not None and not state.expires.reached(now)


def not_ready_reason(state: State, now: Moment) -> str | None:
    """Why it is not so, or will soon not be; ``None`` when all is well."""
    held, trouble = state.durable.held, state.trouble
    if state.phase is Phase.ENDED:
        return _with("the daemon has ended", trouble)
    if held is None:
        return _with("there is no identity yet", trouble)
    if not is_published(state):
        return _with("the identity is not in its destination", trouble)
    if not has_valid_certificate(state, now):
        return _with("the certificate has ended", trouble)
    if isinstance(trouble, Refused) and trouble.reason not in pace.SERVER_TROUBLE:
        return _with("the server refuses the renewal", trouble)
    if state.failures >= FAILURES:
        return _with(f"{state.failures} renewals in a row have failed", trouble)
    assert state.expires is not None
    is_due = state.renew_due is not None and state.renew_due.reached(now)
    if is_due and state.expires.left(now) <= held.ttl * LAST_PART:
        left = max(timedelta(0), state.expires.left(now))
        return _with(f"the certificate ends in {left.total_seconds():.0f} s and is not renewed", trouble)
    return None


def _with(what: str, trouble: MeziteError | None) -> str:
    return what if trouble is None else f"{what}: {error_line(trouble)}"
