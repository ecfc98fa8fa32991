"""The daemon's behaviour: (state, event) → (state, actions), without I/O, clock or chance.

The promises that the table keeps (docs/protocol.md, "The client"):

- A generation, and a token, is asked for with one set of keys, on the disk
  before the first request, and never with others, whatever the answer.
- A new identity is on the disk before it is published; publishing is done
  again from the disk at every start.
- A token is redeemed only where there is no identity, or after the server has
  answered the one there is with a reason of the class `rejoin` or `stop`, and
  never one that this directory's identity came from.

Every action that can fail answers with an event; `step` wants them one after
another.  An event that the table does not name in a phase changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from mezite.errors import InvalidInput, MeziteError, Reason, ReasonClass, Unreachable, UsageError
from mezite.identity import pace, skew
from mezite.identity.answers import accept
from mezite.identity.events import (
    Action,
    Answered,
    Ask,
    CheckDestination,
    DestinationReady,
    DestinationUnfit,
    Due,
    Event,
    Finish,
    KeysMade,
    MakeKeys,
    Moment,
    Publish,
    Published,
    PublishFailed,
    Removed,
    RenewNow,
    Save,
    Saved,
    SaveFailed,
    Start,
    Stop,
    TellIssued,
    TellOver,
    TellTrouble,
    Tick,
    Unanswered,
    Untrusted,
    WasRefused,
)
from mezite.identity.records import GenerationKeys
from mezite.identity.refusals import ends_daemon, may_pass, with_history
from mezite.identity.requests import request_for
from mezite.identity.states import Phase, Purpose, State

DONE, AGAIN, USAGE, REFUSED = 0, 1, 2, 3
"""Exit codes: done; failed and worth another try; usage; refused."""

PATIENCE = timedelta(seconds=15)
"""So long a one-shot run goes on asking a server that does not answer."""
MAX_PROOFS = 3
"""Nonces answered in a row; a server that wants more is as good as silent."""

Outcome = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event, now: Moment) -> Outcome:
    """The state after *event*, and what is to be done."""
    if isinstance(event, Stop) and state.phase is not Phase.ENDED:
        return _stop(state)
    transition = TABLE.get((state.phase, type(event)))
    if transition is None:
        return state, ()
    state, told = skew.noted(state, event, now)
    state, actions = transition(state, event, now)
    return state, (*told, *actions)


def _stop(state: State) -> Outcome:
    """The end that a daemon is made for; a one-shot run had more to do."""
    if state.options.one_shot:
        return _finish(state, AGAIN, Unreachable("stopped before it was done"))
    return replace(state, phase=Phase.ENDED), (Finish(DONE),)


# --- starting, and what is due -------------------------------------------------------------


def _start(state: State, event: Start, now: Moment) -> Outcome:
    state = replace(state, give_up=Due.after(PATIENCE, now))
    held = state.durable.held
    if held is None:
        if state.options.token is None:
            return _finish(state, USAGE, UsageError(
                "there is no identity here yet; give the join token that `mezctl bots add` printed"
            ))
        return _attempt(state, Purpose.JOIN, now)
    age = now.wall - held.received_at
    renew_in = pace.renew_in(held) - age
    if (
        age < timedelta(0)
        or state.durable.pending is not None
        or not state.has_been_granted
        or state.has_unseen_token
    ):
        renew_in = timedelta(0)
    state = replace(
        state,
        phase=Phase.PUBLISHING,
        expires=Due.after(held.ttl - max(age, timedelta(0)), now),
        renew_due=Due.after(renew_in, now),
    )
    return state, (Publish(held),)


def _tick(state: State, event: Tick, now: Moment) -> Outcome:
    if state.phase is Phase.WAITING and _reached(state.retry_due, now):
        return _attempt(state, state.purpose, now)
    if state.phase is Phase.HOLDING and _reached(state.renew_due, now):
        return _attempt(state, Purpose.RENEW, now)
    if _reached(state.publish_due, now) and state.durable.held is not None:
        return replace(state, phase=Phase.PUBLISHING), (Publish(state.durable.held),)
    return state, ()


def _reached(due: Due | None, now: Moment) -> bool:
    return due is not None and due.reached(now)


def _renew_now(state: State, event: RenewNow, now: Moment) -> Outcome:
    return _attempt(state, Purpose.RENEW if state.phase is Phase.HOLDING else state.purpose, now)


# --- one attempt: keys, saved, checked, sent -----------------------------------------------


def _attempt(state: State, purpose: Purpose, now: Moment) -> Outcome:
    state = replace(state, phase=Phase.PREPARING, purpose=purpose, retry_due=None, proofs=0, request=None)
    if _keys(state) is None:
        return state, (MakeKeys(),)
    return _prepared(state, now)


def _keys(state: State) -> GenerationKeys | None:
    if state.purpose is Purpose.RENEW:
        return state.durable.pending
    assert state.options.token is not None
    return state.durable.join_keys(state.options.token.id)


def _keys_made(state: State, event: KeysMade, now: Moment) -> Outcome:
    if _keys(state) is not None or state.unsaved is not None:
        return state, ()
    if state.purpose is Purpose.RENEW:
        unsaved = replace(state.durable, pending=event.keys)
    else:
        assert state.options.token is not None
        unsaved = state.durable.with_join(state.options.token.id, event.keys)
    return replace(state, unsaved=unsaved), (Save(unsaved),)


def _keys_saved(state: State, event: Saved, now: Moment) -> Outcome:
    assert state.unsaved is not None
    return _prepared(replace(state, durable=state.unsaved, unsaved=None), now)


def _prepared(state: State, now: Moment) -> Outcome:
    """The keys are on the disk.  A join also wants to know where the identity will go."""
    if state.purpose is Purpose.JOIN:
        return state, (CheckDestination(),)
    return _send(state, now)


def _destination_ready(state: State, event: DestinationReady, now: Moment) -> Outcome:
    return _send(state, now)


def _not_prepared(state: State, event: SaveFailed | DestinationUnfit, now: Moment) -> Outcome:
    state = replace(state, unsaved=None)
    if state.options.one_shot:
        return _finish(state, _local_exit_code(event.error), event.error)
    return _wait(state, event.error, now)


def _local_exit_code(error: MeziteError) -> int:
    return USAGE if isinstance(error, UsageError) else AGAIN


def _send(state: State, now: Moment) -> Outcome:
    keys = _keys(state)
    assert keys is not None
    phase = Phase.JOINING if state.purpose is Purpose.JOIN else Phase.RENEWING
    return _ask(replace(state, phase=phase, request=request_for(state, keys, now)), b"", now)


def _ask(state: State, nonce: bytes, now: Moment) -> Outcome:
    held, keys = state.durable.held, _keys(state)
    assert state.request is not None
    assert keys is not None
    if state.purpose is Purpose.JOIN:
        signer = keys.lineage
    else:
        assert held is not None
        signer = held.keys.lineage
    return replace(state, asked=now), (Ask(state.request, signer.private_pem, nonce),)


# --- answers -------------------------------------------------------------------------------


def _answered(state: State, event: Answered, now: Moment) -> Outcome:
    durable, keys = state.durable, _keys(state)
    assert state.request is not None
    assert keys is not None
    known = durable.held if state.purpose is Purpose.RENEW else None
    try:
        held = accept(
            event.issued,
            state.request,
            keys,
            cluster_uuid=known.trust.cluster_uuid if known else None,
            received_at=now.wall,
        )
    except InvalidInput as error:
        return _unanswered(state, Unanswered(InvalidInput(f"the server's answer is invalid: {error}")), now)
    if state.purpose is Purpose.JOIN:
        assert state.options.token is not None
        unsaved = durable.joined(held, state.options.token.id)
    else:
        unsaved = durable.renewed(held)
    unsaved = replace(unsaved, server=state.options.server)
    return replace(state, phase=Phase.KEEPING, unsaved=unsaved, request=None), (Save(unsaved),)


def _kept(state: State, event: Saved, now: Moment) -> Outcome:
    assert state.unsaved is not None
    assert state.unsaved.held is not None
    held = state.unsaved.held
    late = max(timedelta(0), now.wall - held.received_at)
    state = replace(
        state,
        phase=Phase.PUBLISHING,
        durable=state.unsaved,
        unsaved=None,
        is_new=True,
        untold=True,
        expires=Due.after(held.ttl - late, now),
        renew_due=Due.after(max(pace.renew_in(held) - late, pace.SHORTEST), now),
        failures=0,
        trouble=None,
        refusal=None,
    )
    if not state.has_been_granted:
        # It answers a request that was made for other outputs, before a restart.
        state = replace(state, renew_due=Due.after(pace.SHORTEST, now))
    return state, (Publish(held),)


def _refused(state: State, event: WasRefused, now: Moment) -> Outcome:
    error, reason = event.error, event.error.reason
    if reason is Reason.PROVE and state.proofs < MAX_PROOFS:
        return _ask(replace(state, phase=Phase.PROVING, proofs=state.proofs + 1), error.nonce, now)
    if reason is Reason.INTERVAL_TOO_LONG and (state.options.one_shot or not state.has_been_granted):
        return _finish(state, USAGE, error)
    if (
        state.purpose is Purpose.RENEW
        and reason.reason_class in (ReasonClass.REJOIN, ReasonClass.STOP)
        and reason is not Reason.INTERVAL_TOO_LONG
        and state.has_unseen_token
    ):
        state, actions = _attempt(replace(state, refusal=error, failures=0), Purpose.JOIN, now)
        return state, (TellOver(error), *actions)
    if state.options.one_shot:
        if reason in pace.SERVER_TROUBLE:
            return _wait(state, error, now)
        return _finish(state, REFUSED, with_history(state, error))
    if ends_daemon(state.purpose, reason):
        return _finish(state, REFUSED, with_history(state, error))
    return _wait(state, error, now)


def _unanswered(state: State, event: Unanswered, now: Moment) -> Outcome:
    return _wait(state, event.error, now)


def _untrusted(state: State, event: Untrusted, now: Moment) -> Outcome:
    if state.options.one_shot or not may_pass(state, event.error):
        return _finish(state, REFUSED, event.error)
    return _wait(state, event.error, now)


def _wait(state: State, error: MeziteError, now: Moment) -> Outcome:
    failures = state.failures + 1
    delay = pace.retry_in(state, failures, error, now)
    if state.options.one_shot and (state.give_up is None or state.give_up.left(now) <= delay):
        return _finish(state, AGAIN, error)
    state = replace(
        state,
        phase=Phase.WAITING,
        request=None,
        failures=failures,
        retry_due=Due.after(delay, now),
        trouble=error,
    )
    return state, (TellTrouble(error, delay),)


# --- publishing ----------------------------------------------------------------------------


def _published(state: State, event: Published, now: Moment) -> Outcome:
    if state.publish_failures and state.retry_due is None:
        state = replace(state, trouble=None)
    state = replace(state, publish_due=None, publish_failures=0)
    state, actions = _after_publishing(state, now)
    if state.options.one_shot and state.is_new:
        return replace(state, phase=Phase.ENDED), (*actions, Finish(DONE))
    return state, actions


def _after_publishing(state: State, now: Moment) -> Outcome:
    held = state.durable.held
    assert held is not None
    assert state.renew_due is not None
    told: tuple[Action, ...] = ()
    if state.untold:
        told = (TellIssued(held, held.generation == 1, state.renew_due.left(now)),)
        state = replace(state, untold=False)
    if state.retry_due is not None:
        return replace(state, phase=Phase.WAITING), told
    if state.options.one_shot and not state.is_new:
        state, actions = _attempt(state, Purpose.RENEW, now)
        return state, (*told, *actions)
    state, actions = _tick(replace(state, phase=Phase.HOLDING), Tick(), now)
    return state, (*told, *actions)


def _publish_failed(state: State, event: PublishFailed, now: Moment) -> Outcome:
    if state.options.one_shot:
        return _finish(state, _local_exit_code(event.error), event.error)
    failures = state.publish_failures + 1
    delay = pace.republish_in(failures, now)
    state = replace(
        state, publish_failures=failures, publish_due=Due.after(delay, now), trouble=event.error
    )
    trouble = TellTrouble(event.error, delay)
    phase = Phase.HOLDING if state.retry_due is None else Phase.WAITING
    return replace(state, phase=phase), (trouble,)


def _removed(state: State, event: Removed, now: Moment) -> Outcome:
    if (held := state.durable.held) is None or state.publish_due is not None:
        return state, ()
    # Where the state cannot be saved now, the next renewal tells.
    return replace(state, phase=Phase.PUBLISHING), (Save(state.durable), Publish(held))


def _finish(state: State, exit_code: int, error: MeziteError) -> Outcome:
    return replace(state, phase=Phase.ENDED, trouble=error), (Finish(exit_code, error),)


Transition = Callable[[State, Any, Moment], Outcome]

_ASKING: dict[type[Event], Transition] = {
    Answered: _answered,
    WasRefused: _refused,
    Unanswered: _unanswered,
    Untrusted: _untrusted,
}

TABLE: dict[tuple[Phase, type[Event]], Transition] = {
    (Phase.EMPTY, Start): _start,
    (Phase.PREPARING, KeysMade): _keys_made,
    (Phase.PREPARING, Saved): _keys_saved,
    (Phase.PREPARING, SaveFailed): _not_prepared,
    (Phase.PREPARING, DestinationReady): _destination_ready,
    (Phase.PREPARING, DestinationUnfit): _not_prepared,
    **{(Phase.JOINING, event): transition for event, transition in _ASKING.items()},
    **{(Phase.RENEWING, event): transition for event, transition in _ASKING.items()},
    **{(Phase.PROVING, event): transition for event, transition in _ASKING.items()},
    (Phase.KEEPING, Saved): _kept,
    # The answer is lost, as if it had never come; the same keys get it again.
    (Phase.KEEPING, SaveFailed): _not_prepared,
    (Phase.PUBLISHING, Published): _published,
    (Phase.PUBLISHING, PublishFailed): _publish_failed,
    (Phase.HOLDING, Tick): _tick,
    (Phase.HOLDING, Removed): _removed,
    (Phase.HOLDING, RenewNow): _renew_now,
    (Phase.WAITING, Tick): _tick,
    (Phase.WAITING, Removed): _removed,
    (Phase.WAITING, RenewNow): _renew_now,
}
