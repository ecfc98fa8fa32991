"""Which refusals end a daemon, for machine.py."""

from __future__ import annotations

from mezite.errors import Reason, Refused
from mezite.identity.states import Purpose, State

ENDS_LINEAGE = frozenset(
    {Reason.GENERATION_MISMATCH, Reason.BOT_GONE, Reason.BAD_PROOF, Reason.INSTANCE_UNKNOWN}
)
"""What cannot pass by itself; on any other refusal of a renewal a daemon holds on."""
ENDS_JOIN = ENDS_LINEAGE | {
    Reason.TOKEN_UNKNOWN,
    Reason.TOKEN_EXPIRED,
    Reason.TOKEN_USED,
    Reason.TOKEN_ROTATED,
    Reason.INVALID_REQUEST,
}


def ends_daemon(purpose: Purpose, reason: Reason) -> bool:
    return reason in (ENDS_JOIN if purpose is Purpose.JOIN else ENDS_LINEAGE)


def with_history(state: State, error: Refused) -> Refused:
    """The refusal of a token, and why it was tried where there was an identity."""
    if state.purpose is not Purpose.JOIN or state.refusal is None:
        return error
    before = state.refusal
    return Refused(
        error.reason, f"{error}; before that the identity on disk was refused: {before} ({before.code})"
    )
