"""The daemon's table of behaviour, against the real rules of the server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.core.model import LockKind
from mezite.core.request import JoinRequest, RenewRequest
from mezite.errors import (
    InvalidInput,
    NoAnswer,
    Reason,
    ReasonClass,
    Refused,
    Unreachable,
    UntimelyServer,
    UntrustedServer,
)
from mezite.identity import machine, skew
from mezite.identity.events import (
    Answered,
    Ask,
    Finish,
    Moment,
    Publish,
    Removed,
    RenewNow,
    Skew,
    Start,
    Stop,
    TellIssued,
    TellSkew,
    TellTrouble,
    Tick,
    Unanswered,
    Untrusted,
    WasRefused,
)
from mezite.identity.machine import TABLE, step
from mezite.identity.report import error_line
from mezite.identity.states import Options, Phase, State
from tests.harness import Auth
from tests.identity.fakes import LOST_REPLY, LOST_REQUEST, Rig, joined_rig, keys_of

SECOND = timedelta(seconds=1)


def refusal(reason: Reason, nonce: bytes = b"") -> Refused:
    return Refused(reason, f"no: {reason.code}", nonce=nonce)


def test_join(auth: Auth) -> None:
    """A token gives generation 1: on the disk, then published, then told."""
    rig = joined_rig(auth)
    kinds = [type(action).__name__ for action in rig.actions]
    expected = ["MakeKeys", "Save", "CheckDestination", "Ask", "Save", "Publish", "TellIssued"]
    assert expected == kinds
    assert rig.state.phase is Phase.HOLDING
    assert rig.disk.joins == ()
    assert rig.disk.redeemed == (rig.options.token.id,)
    assert set(rig.destination.published()) == {"ssh_key", "ssh_key-cert.pub", "known_hosts", "ssh_config"}


def test_renewal_is_due_when_the_server_said(auth: Auth) -> None:
    rig = joined_rig(auth)
    held = rig.disk.held
    rig.advance(held.renew_after - SECOND)
    rig.feed(Tick())
    assert rig.generation == 1
    rig.advance(SECOND)
    rig.feed(Tick())
    assert rig.generation == 2
    assert isinstance(rig.actions[-1], TellIssued)


def test_keys_are_on_the_disk_before_they_are_asked_for(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.feed(RenewNow())
    join, renew = rig.on_disk_when_asked
    assert keys_of(rig.asked[0].request)[0] == join.joins[0].keys.lineage.public
    assert keys_of(rig.asked[1].request)[0] == renew.pending.lineage.public


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_REPLY])
def test_the_same_keys_until_answered(auth: Auth, fault: str) -> None:
    """Whatever was lost, and however often, also across restarts."""
    rig = joined_rig(auth)
    rig.faults.extend([fault] * 5)
    rig.feed(RenewNow())
    for _ in range(2):
        rig.advance(timedelta(minutes=5))
        rig.feed(Tick())
    for _ in range(3):
        rig.restart()
    assert rig.generation == 2
    assert len({keys_of(ask.request) for ask in rig.asked[1:]}) == 1
    assert auth.instance(rig.disk.held.instance_id).generation == 2


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_REPLY])
def test_a_join_is_repeated_with_the_same_keys(auth: Auth, fault: str) -> None:
    token = auth.add_token(auth.add_bot())
    rig = Rig(auth, Options(token=token))
    rig.faults.extend([fault] * 2)
    rig.feed(Start())
    assert rig.state.phase is Phase.WAITING
    rig.restart()
    rig.restart()
    assert rig.generation == 1
    assert len({keys_of(ask.request) for ask in rig.asked}) == 1
    assert auth.events("token_reused") == []


def test_a_failed_save_of_the_answer_loses_nothing(auth: Auth) -> None:
    """It counts as unanswered: the server gives the same generation to the same keys again."""
    rig = joined_rig(auth)
    rig.feed(RenewNow())
    # The keys of generation 3 are saved; then the save of the answer fails.
    rig.faults.append(LOST_REQUEST)
    rig.feed(RenewNow())
    rig.fail_save_in = 0
    rig.feed(RenewNow())
    assert rig.generation == 2
    assert rig.state.phase is Phase.WAITING
    rig.feed(RenewNow())
    assert rig.generation == 3
    assert len({keys_of(ask.request) for ask in rig.asked[2:]}) == 1


def test_nothing_is_sent_when_the_keys_cannot_be_saved(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.fail_save_in = 0
    rig.feed(RenewNow())
    assert len(rig.asked) == 1
    assert rig.disk.pending is None
    rig.feed(RenewNow())
    assert rig.generation == 2


def test_no_token_is_used_for_a_destination_that_cannot_be_written(auth: Auth) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot()), one_shot=True))
    rig.destination.has_room = False
    rig.feed(Start())
    assert rig.asked == []
    assert rig.finished.exit_code == 1


def test_publishing_is_tried_again_and_renewals_go_on(auth: Auth) -> None:
    rig = joined_rig(auth)
    before = rig.destination.published()
    rig.destination.has_room = False
    rig.feed(RenewNow())
    assert rig.generation == 2
    assert before == rig.destination.published()
    assert "no room" in str(rig.state.trouble)
    rig.feed(RenewNow())
    assert rig.generation == 3
    rig.destination.has_room = True
    rig.advance(timedelta(minutes=1))
    rig.feed(Tick())
    assert before != rig.destination.published()
    assert isinstance(rig.actions[-1], TellIssued)
    assert (rig.state.publish_due, rig.state.trouble) == (None, None)


@pytest.mark.parametrize("fault", [None, LOST_REQUEST])
def test_what_was_removed_is_published_again_and_nothing_is_asked(auth: Auth, fault: str | None) -> None:
    """Whether or not a renewal waits for its next try, which comes when it would have."""
    rig = joined_rig(auth)
    rig.advance(timedelta(minutes=5))
    if fault is not None:
        rig.faults.append(fault)
        rig.feed(RenewNow())
    before, asked = rig.state, len(rig.asked)
    files = rig.destination.published()
    rig.destination.empty()
    rig.feed(Removed())
    assert rig.destination.published().keys() == files.keys()
    assert rig.destination.published()["ssh_key-cert.pub"] == files["ssh_key-cert.pub"]
    assert (rig.state, len(rig.asked)) == (before, asked)


def test_what_is_to_be_published_again_later_is_not_published_at_each_look(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.destination.empty()
    rig.destination.has_room = False
    rig.feed(Removed())
    assert "no room" in str(rig.state.trouble)
    tries = sum(isinstance(action, Publish) for action in rig.actions)
    rig.feed(Removed())
    assert sum(isinstance(action, Publish) for action in rig.actions) == tries
    rig.destination.has_room = True
    rig.advance(timedelta(minutes=1))
    rig.feed(Tick())
    assert rig.destination.published()
    assert (rig.state.phase, rig.state.trouble) == (Phase.HOLDING, None)


def test_publishing_is_done_again_at_start(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.destination = type(rig.destination)()
    rig.restart(token=None)
    assert isinstance(rig.actions[-1], Publish)
    assert rig.destination.published()
    assert rig.state.phase is Phase.HOLDING
    assert len(rig.asked) == 1


def test_start_without_identity_and_token(auth: Auth) -> None:
    rig = Rig(auth).feed(Start())
    assert rig.finished.exit_code == 2
    assert rig.asked == []


def test_restart_with_the_redeemed_token_goes_on_from_disk(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.advance(timedelta(hours=2))
    rig.restart()
    assert rig.generation == 2
    assert isinstance(rig.asked[-1].request, RenewRequest)


# --- proofs --------------------------------------------------------------------------------


def test_prove_is_answered_at_once_with_the_same_request(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.faults.extend([refusal(Reason.PROVE, b"n" * 32), LOST_REQUEST])
    rig.feed(RenewNow())
    first, proof = rig.asked[1:3]
    assert first.request == proof.request
    assert proof.nonce == b"n" * 32
    assert first.signer_pem == proof.signer_pem


def test_endless_proofs_count_as_silence(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.faults.extend([refusal(Reason.PROVE, b"n" * 32)] * 20)
    rig.feed(RenewNow())
    assert len(rig.asked) == 1 + 1 + machine.MAX_PROOFS
    assert rig.state.phase is Phase.WAITING


@pytest.mark.parametrize("owner_first", [True, False])
def test_a_copied_state_is_uncovered_by_whoever_comes_second(auth: Auth, owner_first: bool) -> None:
    """The second to renew answers the nonce, and the instance is locked for good."""
    owner = joined_rig(auth)
    thief = Rig(auth, Options(), owner.disk)
    thief.feed(Start())
    first, second = (owner, thief) if owner_first else (thief, owner)
    first.feed(RenewNow())
    second.feed(RenewNow())
    assert second.finished.exit_code == 3
    assert Reason.GENERATION_MISMATCH is second.finished.error.reason
    assert [lock.reason for lock in auth.locks()] == ["generation_mismatch"]
    first.feed(RenewNow())
    assert first.finished.exit_code == 3


# --- refusals ------------------------------------------------------------------------------

ENDS = {
    Reason.GENERATION_MISMATCH: 3,
    Reason.BOT_GONE: 3,
    Reason.BAD_PROOF: 3,
    Reason.INSTANCE_UNKNOWN: 3,
}
JOIN_ENDS = ENDS | {
    Reason.TOKEN_UNKNOWN: 3,
    Reason.TOKEN_EXPIRED: 3,
    Reason.TOKEN_USED: 3,
    Reason.TOKEN_ROTATED: 3,
    Reason.INVALID_REQUEST: 3,
    Reason.INTERVAL_TOO_LONG: 2,
}
ASKED = [reason for reason in Reason if reason is not Reason.PROVE]


@pytest.mark.parametrize("reason", ASKED)
def test_refused_renewal_of_a_daemon(auth: Auth, reason: Reason) -> None:
    """It ends on what cannot pass, and holds on otherwise."""
    rig = joined_rig(auth)
    rig.restart(token=None)
    rig.faults.append(refusal(reason))
    rig.feed(RenewNow())
    if reason in ENDS:
        assert ENDS[reason] == rig.finished.exit_code
    else:
        assert rig.finished is None
        assert rig.state.phase is Phase.WAITING
        rig.advance(timedelta(minutes=6))
        rig.feed(Tick())
        assert rig.generation == 2


@pytest.mark.parametrize("reason", ASKED)
def test_refused_join_of_a_daemon(auth: Auth, reason: Reason) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())))
    rig.faults.append(refusal(reason))
    rig.feed(Start())
    if reason in JOIN_ENDS:
        assert JOIN_ENDS[reason] == rig.finished.exit_code
    else:
        assert rig.state.phase is Phase.WAITING
        rig.advance(timedelta(minutes=6))
        rig.feed(Tick())
        assert rig.generation == 1


@pytest.mark.parametrize("reason", ASKED)
def test_refused_one_shot(auth: Auth, reason: Reason) -> None:
    """Any refusal ends it, but trouble of the server's own, which is tried again for a while."""
    rig = joined_rig(auth)
    rig.faults.extend([refusal(reason)] * 100)
    rig.restart(token=None, one_shot=True)
    while rig.finished is None:
        rig.advance(SECOND)
        rig.feed(Tick())
    passing = dict.fromkeys(
        (Reason.UNAVAILABLE, Reason.SERVER_CLOCK, Reason.DATABASE_RESTORED, Reason.TOO_OFTEN), 1
    )
    expected = {Reason.INTERVAL_TOO_LONG: 2, **passing}.get(reason, 3)
    assert expected == rig.finished.exit_code
    assert reason is rig.finished.error.reason


def test_a_new_interval_that_is_too_long_is_the_persons_fault(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.restart(token=None, interval=timedelta(hours=3))
    assert rig.finished.exit_code == 2
    assert Reason.INTERVAL_TOO_LONG is rig.finished.error.reason


def test_one_shot_gives_up_on_silence_after_a_while(auth: Auth) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot()), one_shot=True))
    rig.faults.extend([LOST_REQUEST] * 100)
    rig.feed(Start())
    begun = rig.monotonic
    while rig.finished is None:
        rig.advance(SECOND)
        rig.feed(Tick())
    assert rig.finished.exit_code == 1
    assert rig.monotonic - begun <= machine.PATIENCE
    assert len(rig.asked) > 2


def test_one_shot_joins_and_ends(auth: Auth) -> None:
    rig = joined_rig(auth, one_shot=True)
    assert Finish(0) == rig.finished


def test_one_shot_renews_once_what_is_on_the_disk(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.restart(one_shot=True)
    assert rig.generation == 2
    assert Finish(0) == rig.finished


@pytest.mark.parametrize("one_shot", [True, False])
def test_a_wrong_pin_ends_a_join(auth: Auth, one_shot: bool) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot()), one_shot=one_shot))
    state = State(rig.options, rig.disk, phase=Phase.JOINING)
    state, actions = step(state, Untrusted(UntrustedServer("not the pinned one")), rig.moment())
    assert actions[0].exit_code == 3


@pytest.mark.parametrize("one_shot", [True, False])
def test_a_clock_that_is_not_set_yet_ends_no_daemon_that_joins(auth: Auth, one_shot: bool) -> None:
    """A machine without a battery boots in 1970; one-shot runs are over before NTP is there."""
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot()), one_shot=one_shot))
    state = State(rig.options, rig.disk, phase=Phase.JOINING)
    state, actions = step(state, Untrusted(UntimelyServer("not valid yet")), rig.moment())
    if one_shot:
        assert actions == (Finish(3, state.trouble),)
    else:
        assert state.phase is Phase.WAITING
        assert "set this machine's clock right" in error_line(state.trouble)


def test_an_untrusted_server_does_not_end_a_daemon_that_holds_an_identity(auth: Auth) -> None:
    rig = joined_rig(auth)
    state = replace(rig.state, phase=Phase.RENEWING)
    state, _ = step(state, Untrusted(UntrustedServer("another")), rig.moment())
    assert state.phase is Phase.WAITING


# --- a second token ------------------------------------------------------------------------

OVER = [r for r in ASKED if r.reason_class is not ReasonClass.RETRY and r is not Reason.INTERVAL_TOO_LONG]


@pytest.mark.parametrize("reason", OVER)
def test_a_new_token_is_used_after_the_state_is_over(auth: Auth, reason: Reason) -> None:
    rig = joined_rig(auth)
    old = rig.disk.held.instance_id
    token = auth.add_token(auth.add_bot("other"))
    rig.faults.append(refusal(reason))
    rig.restart(token=token)
    assert rig.disk.held.instance_id != old
    assert token.id in rig.disk.redeemed
    assert len(rig.disk.redeemed) == 2


@pytest.mark.parametrize("reason", [r for r in ASKED if r not in OVER])
def test_a_new_token_stays_unused_while_the_state_may_go_on(auth: Auth, reason: Reason) -> None:
    rig = joined_rig(auth)
    token = auth.add_token(auth.add_bot("other"))
    rig.faults.append(refusal(reason))
    rig.restart(token=token)
    assert (token.id in rig.disk.redeemed, rig.disk.joins) == (False, ())


def test_a_new_token_stays_unused_while_the_server_is_silent(auth: Auth) -> None:
    rig = joined_rig(auth)
    token = auth.add_token(auth.add_bot("other"))
    rig.faults.extend([LOST_REQUEST] * 50)
    rig.restart(token=token)
    rig.feed(RenewNow())
    for _ in range(20):
        rig.advance(timedelta(minutes=5))
        rig.feed(Tick())
    assert not any(isinstance(ask.request, JoinRequest) for ask in rig.asked[1:])


def test_a_refused_token_tells_of_the_lineage_too(auth: Auth) -> None:
    rig = joined_rig(auth)
    token = auth.add_token(auth.add_bot("other"))
    rig.faults.extend([refusal(Reason.EXPIRED), refusal(Reason.TOKEN_EXPIRED)])
    rig.restart(token=token)
    assert rig.finished.exit_code == 3
    assert rig.finished.error.reason is Reason.TOKEN_EXPIRED
    assert "no: expired (expired)" in str(rig.finished.error)


def test_the_redeemed_token_is_never_used_again(auth: Auth) -> None:
    """Not even when its lineage is over: the server would take us for a second machine."""
    rig = joined_rig(auth)
    rig.faults.append(refusal(Reason.GENERATION_MISMATCH))
    rig.feed(RenewNow())
    assert rig.finished.exit_code == 3
    assert auth.events("token_reused") == []


# --- time ----------------------------------------------------------------------------------


def test_a_machine_that_slept_is_late_when_it_wakes(auth: Auth) -> None:
    """Its monotonic clock stood still; the wall clock tells."""
    rig = joined_rig(auth)
    auth.now += timedelta(days=2)
    rig.feed(Tick())
    assert rig.generation == 2


@pytest.mark.parametrize("off", [timedelta(days=-300), timedelta(minutes=-20)])
def test_a_clock_set_back_does_not_delay_a_renewal(auth: Auth, off: timedelta) -> None:
    rig = joined_rig(auth)
    rig.wall_off = off
    rig.advance(rig.disk.held.renew_after)
    # The server would refuse the clock, which is its right; that it is asked is ours.
    rig.faults.append(LOST_REQUEST)
    rig.feed(Tick())
    assert len(rig.asked) == 2


def test_restart_keeps_the_schedule(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.advance(timedelta(minutes=10))
    rig.restart()
    assert rig.disk.held.renew_after - timedelta(minutes=10) == rig.state.renew_due.left(rig.moment())


@pytest.mark.parametrize(
    "change",
    [
        {"wall_off": timedelta(hours=-3)},
        {"options": Options(interval=timedelta(minutes=5))},
        {"options": Options(ttl=timedelta(minutes=30))},
    ],
    ids=["clock set back", "other interval", "other ttl"],
)
def test_restart_renews_at_once(auth: Auth, change: dict[str, object]) -> None:
    rig = joined_rig(auth)
    for name, value in change.items():
        setattr(rig, name, value)
    rig.restart()
    rig.feed(Tick())
    assert rig.generation == 2


def test_the_back_off_fits_the_rest_of_the_certificate(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.faults.extend([LOST_REQUEST] * 10_000)
    rig.advance(rig.disk.held.renew_after)
    rig.feed(Tick())
    end = rig.state.expires
    tries = 0
    while not end.reached(rig.moment()):
        rig.advance(SECOND)
        before = len(rig.asked)
        rig.feed(Tick())
        tries += len(rig.asked) - before
    waits = [action.retry_in for action in rig.actions if isinstance(action, TellTrouble)]
    assert max(waits) <= timedelta(minutes=5)
    assert tries > 15
    # Near the end it asks every few seconds, not every few minutes.
    assert min(waits[-3:]) < timedelta(seconds=10)


def test_a_server_that_takes_too_long_is_asked_less_often(auth: Auth) -> None:
    """A fleet without certificates that asked every minute would keep it from catching up."""
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())))
    rig.faults.extend([NoAnswer("no answer in 20 s")] * 12)
    rig.feed(Start())
    for _ in range(11):
        rig.advance(timedelta(minutes=5))
        rig.feed(Tick())
    waits = [action.retry_in for action in rig.actions if isinstance(action, TellTrouble)]
    assert waits[0] < SECOND
    assert timedelta(minutes=2) < waits[-1] <= timedelta(minutes=5)
    rig.faults.extend([LOST_REQUEST])
    rig.advance(timedelta(minutes=5))
    rig.feed(Tick())
    waits = [action.retry_in for action in rig.actions if isinstance(action, TellTrouble)]
    assert waits[-1] <= timedelta(minutes=1)


def test_a_slow_server_meets_no_stampede_before_the_certificate_ends(auth: Auth) -> None:
    """With a minute left it is asked every minute at the most, not every second."""
    rig = joined_rig(auth)
    rig.advance(rig.disk.held.ttl - timedelta(minutes=1))
    rig.faults.extend([NoAnswer("no answer in 20 s")] * 8)
    for _ in range(8):
        rig.feed(RenewNow())
    waits = [action.retry_in for action in rig.actions if isinstance(action, TellTrouble)]
    assert timedelta(seconds=30) <= waits[-1] <= timedelta(minutes=1)


@pytest.mark.parametrize(("asked", "least", "most"), [(25_000, 25, 28), (1, 1, 1.2), (86_400_000, 900, 990)])
def test_a_server_with_too_much_to_do_is_asked_again_when_it_wants(
    auth: Auth, asked: int, least: float, most: float
) -> None:
    """Never sooner than that, within a quarter of an hour, and however much is left of the certificate."""
    rig = joined_rig(auth)
    rig.advance(rig.disk.held.ttl - timedelta(minutes=1))
    for _ in range(5):
        rig.faults.append(Refused(Reason.UNAVAILABLE, "too much to do", retry_after_ms=asked))
        rig.feed(RenewNow())
    waits = [action.retry_in.total_seconds() for action in rig.actions if isinstance(action, TellTrouble)]
    assert len(waits) == 5
    assert all(least <= wait <= most for wait in waits)
    rig.feed(RenewNow())
    assert rig.generation == 2


def test_skew_is_measured(auth: Auth) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())), wall_off=timedelta(minutes=-7))
    rig.feed(Start())
    assert timedelta(minutes=7) == rig.disk.held.skew


def skews(rig: Rig) -> list[TellSkew]:
    return [action for action in rig.actions if isinstance(action, TellSkew)]


def test_half_of_the_way_is_taken_into_account(auth: Auth) -> None:
    """An answer that took long proves little: only a skew beyond doubt is warned of."""
    asked = Moment(timedelta(seconds=100), auth.now, 0.5)
    late = Moment(timedelta(seconds=120), auth.now + timedelta(seconds=20), 0.5)
    found = skew.measure(auth.now + timedelta(seconds=45), asked, late)
    assert Skew(ahead=timedelta(seconds=35), give_or_take=timedelta(seconds=10)) == found
    assert not skew.is_worth_a_warning(found)
    assert skew.is_worth_a_warning(replace(found, give_or_take=timedelta(seconds=5)))


@pytest.mark.parametrize("off", [30, -30, 3600, -3600])
def test_a_clock_that_is_off_is_told_once_and_so_is_its_cure(auth: Auth, off: int) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())), wall_off=timedelta(seconds=off))
    rig.feed(Start())
    rig.feed(RenewNow())
    assert [told.is_off for told in skews(rig)] == [True]
    assert timedelta(seconds=-off) == skews(rig)[0].skew.ahead
    rig.wall_off = timedelta(seconds=29)
    rig.feed(RenewNow()).feed(RenewNow())
    assert [told.is_off for told in skews(rig)] == [True, False]


def test_a_refusal_shows_the_skew_too(auth: Auth) -> None:
    rig = joined_rig(auth)
    at = int((auth.now + timedelta(minutes=2)).timestamp() * 1000)
    rig.faults.append(Refused(Reason.LOCKED, "looked odd", server_time_unix_ms=at))
    rig.feed(RenewNow())
    assert rig.state.skew == Skew(timedelta(minutes=2), timedelta(0))
    rig.faults.append(Refused(Reason.LOCKED, "an old server tells no time"))
    rig.feed(RenewNow())
    assert rig.state.skew == Skew(timedelta(minutes=2), timedelta(0))


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_a_clock_off_by_an_hour_neither_hastens_nor_delays_anything(auth: Auth, off: timedelta) -> None:
    """Such a machine joins, renews when the server said, and again after a restart from its disk."""
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())), wall_off=off)
    rig.feed(Start())
    for generation in (2, 3, 4):
        assert rig.disk.held.renew_after == rig.state.renew_due.left(rig.moment())
        rig.advance(rig.disk.held.renew_after - SECOND)
        rig.feed(Tick())
        assert rig.generation == generation - 1
        rig.restart()
        rig.advance(SECOND)
        rig.feed(Tick())
        assert rig.generation == generation


@pytest.mark.parametrize("step_by", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "back"])
def test_a_step_of_the_clock_costs_one_early_renewal_at_most(auth: Auth, step_by: timedelta) -> None:
    rig = joined_rig(auth)
    rig.wall_off = step_by
    rig.feed(Tick()).feed(Tick())
    asked = len(rig.asked) - 1
    assert asked == (1 if step_by > timedelta(0) else 0)
    assert rig.state.renew_due.left(rig.moment()) <= rig.disk.held.renew_after
    rig.advance(rig.disk.held.renew_after)
    rig.feed(Tick())
    assert rig.generation == 2 + asked


# --- answers that are not what was asked for -----------------------------------------------


def test_an_invalid_answer_counts_as_none(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.restart(token=None)
    rig.faults.append(InvalidInput("the certificate is for another key"))
    rig.feed(RenewNow())
    assert rig.generation == 1
    assert rig.disk.pending is not None
    rig.feed(RenewNow())
    assert rig.generation == 2
    assert keys_of(rig.asked[1].request) == keys_of(rig.asked[2].request)


# --- ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_stop_ends_every_phase(auth: Auth, phase: Phase) -> None:
    rig = Rig(auth)
    state, actions = step(replace(rig.state, phase=phase), Stop(), rig.moment())
    assert (Phase.ENDED, (Finish(0),)) == (state.phase, actions)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_stopping_a_one_shot_run_is_no_success(auth: Auth, phase: Phase) -> None:
    rig = Rig(auth, Options(one_shot=True))
    state, actions = step(replace(rig.state, phase=phase), Stop(), rig.moment())
    assert (state.phase, actions[0].exit_code) == (Phase.ENDED, 1)


def test_nothing_happens_after_the_end(auth: Auth) -> None:
    assert not any(phase is Phase.ENDED for phase, _ in TABLE)


def test_late_answers_change_nothing(auth: Auth) -> None:
    """An answer in a phase that did not ask is dropped."""
    rig = joined_rig(auth)
    for event in (WasRefused(refusal(Reason.LOCKED)), Unanswered(Unreachable("late"))):
        assert (rig.state, ()) == step(rig.state, event, rig.moment())
    assert not any(event is Answered for phase, event in TABLE if phase is Phase.HOLDING)


def test_secrets_are_in_no_repr(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.feed(RenewNow())
    shown = repr(rig.state) + repr(rig.actions)
    assert "PRIVATE KEY" not in shown
    assert rig.options.token.secret not in shown


def test_a_lock_by_an_operator_is_waited_out(auth: Auth) -> None:
    rig = joined_rig(auth)
    lock = auth.lock(LockKind.BOT, "github-deploy")
    rig.feed(RenewNow())
    assert Reason.LOCKED is rig.answers[-1].reason
    assert rig.finished is None
    auth.write(lambda tx: tx.delete_lock(lock.id))
    rig.advance(timedelta(minutes=5))
    rig.feed(Tick())
    assert rig.generation == 2


def test_moment_of_the_actions(auth: Auth) -> None:
    """An Ask carries this machine's clock, by which the server judges its skew."""
    rig = joined_rig(auth)
    ask = next(action for action in rig.actions if isinstance(action, Ask))
    assert isinstance(rig.moment(), Moment)
    assert auth.now == ask.request.wishes.client_time
