"""Which refusals end a daemon, and which strangers, for machine.py."""

from __future__ import annotations

from mezite.errors import MeziteError, Reason, Refused, UntimelyServer
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


def may_pass(state: State, error: MeziteError) -> bool:
    """With an identity in hand (a captive network, a wrong route), or where a clock is not set yet;
    else the address or the pin is wrong."""
    return state.durable.held is not None or isinstance(error, UntimelyServer)


def with_history(state: State, error: Refused) -> Refused:
    """The refusal of a token, and why it was tried where there was an identity."""
    if state.purpose is not Purpose.JOIN or state.refusal is None:
        return error
    before = state.refusal
    return Refused(
        error.reason, f"{error}; before that the identity on disk was refused: {before} ({before.code})"
    )
