"""Attacks by hand on what the model does not reach: each with its one outcome."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.auth import admin_instances
from mezite.auth.context import Operator
from mezite.certs import keys, wire
from mezite.core.request import Issued
from mezite.errors import Conflict, Reason, Refused
from tests.auth.test_join import reason
from tests.harness import Auth, Machine, Pending

OPERATOR = Operator(0, "root")
DAY = timedelta(days=1)


def stolen(machine: Machine) -> Machine:
    """A copy of its directory, in other hands."""
    thief = machine.copy()
    thief.pending = Pending()
    return thief


def answering(holder: Machine) -> Issued | Refused:
    outcome = holder.try_renew()
    if isinstance(outcome, Refused) and outcome.reason is Reason.PROVE:
        outcome = holder.try_renew(outcome.nonce)
    return outcome


def recover(auth: Auth, machine: Machine) -> None:
    auth.write(
        lambda tx: admin_instances.recover_instance(auth.context, tx, OPERATOR, machine.instance_id)
    )


def fingerprint(holder: Machine) -> str:
    assert holder.lineage is not None
    return keys.fingerprint(keys.public_blob(holder.lineage))


# --- recovery -------------------------------------------------------------------------------


def test_a_thief_who_uses_up_the_recovery_is_found_by_the_owner(auth: Auth, machine: Machine) -> None:
    """The recovery is one renewal, whoever takes it; the other side's next one locks."""
    thief = stolen(machine)
    auth.now += 30 * DAY
    assert {reason(one.try_renew()) for one in (machine, thief)} == {Reason.EXPIRED}
    recover(auth, machine)
    thief.renew()
    assert reason(answering(machine)) is Reason.GENERATION_MISMATCH
    assert reason(answering(thief)) is Reason.GENERATION_MISMATCH
    assert len(auth.events("generation_mismatch")) == 1


def test_a_thief_cannot_keep_an_expired_lineage_expired_or_use_a_recovery_twice(
    auth: Auth, machine: Machine
) -> None:
    """His refused renewals use nothing up; and the owner's lost reply does not need another recovery."""
    thief = stolen(machine)
    auth.now += 30 * DAY
    recover(auth, machine)
    lost = auth.renew(*machine.renew_request())
    assert isinstance(lost, Issued)
    assert reason(thief.try_renew()) is Reason.PROVE
    machine.accept(auth.renew(*machine.renew_request()))
    assert auth.instance(machine.instance_id).recoverable is False
    assert machine.renew().generation == 3


def test_an_expired_fork_is_still_proven_and_locked(auth: Auth, machine: Machine) -> None:
    """The generation is judged before the expiry: a thief does not escape by waiting."""
    thief = stolen(machine)
    machine.renew()
    auth.now += 30 * DAY
    assert reason(answering(thief)) is Reason.GENERATION_MISMATCH
    with pytest.raises(Conflict, match="locked for good"):
        recover(auth, machine)


def test_a_lineage_past_its_age_gets_one_certificate_for_each_recovery_thief_or_not(auth: Auth) -> None:
    bot = auth.add_bot(max_lineage_age=2 * DAY)
    machine = Machine(auth)
    machine.join(auth.add_token(bot))
    thief = stolen(machine)
    auth.now += 3 * DAY
    recover(auth, machine)
    thief.renew()
    assert reason(thief.try_renew()) is Reason.EXPIRED
    assert reason(answering(machine)) is Reason.GENERATION_MISMATCH


# --- the nonce ------------------------------------------------------------------------------


def test_a_nonce_is_good_for_the_instance_and_key_it_was_made_for_only(auth: Auth, machine: Machine) -> None:
    """Another instance's nonce, and one made for another key of the same instance, ask anew."""
    other = Machine(auth)
    other.join(auth.add_token(auth.add_bot("other")))
    thief, other_thief = stolen(machine), stolen(other)
    machine.renew()
    other.renew()
    asked = other_thief.try_renew()
    assert isinstance(asked, Refused)
    assert reason(thief.try_renew(asked.nonce)) is Reason.PROVE
    older = stolen(machine)
    machine.renew()
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    assert reason(older.try_renew(asked.nonce)) is Reason.PROVE
    assert auth.locks() == ()


def test_a_nonce_answered_for_other_keys_locks_all_the_same(auth: Auth, machine: Machine) -> None:
    """What is proven is that the key is held now, not what it asks for."""
    thief = stolen(machine)
    machine.renew()
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    thief.pending = Pending()
    assert reason(thief.try_renew(asked.nonce)) is Reason.GENERATION_MISMATCH


def test_a_recorded_answer_to_a_nonce_is_worth_nothing_after_its_minute(auth: Auth, machine: Machine) -> None:
    """Within it the instance is locked by it anyway; after an unlock it does not lock again."""
    thief = stolen(machine)
    machine.renew()
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    recorded = thief.renew_request(asked.nonce)
    auth.advance(seconds=61)
    assert reason(auth.renew(*recorded)) is Reason.PROVE
    assert auth.locks() == ()


def test_the_owner_who_is_put_back_by_an_operator_is_not_locked_by_what_was_recorded(
    auth: Auth, machine: Machine
) -> None:
    """unlock --keep-key for the owner; the thief's old proof, and his old requests, lock nobody."""
    thief = stolen(machine)
    machine.renew()
    before = thief.renew_request()
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    proof = thief.renew_request(asked.nonce)
    assert reason(auth.renew(*proof)) is Reason.GENERATION_MISMATCH
    auth.advance(minutes=2)
    auth.write(
        lambda tx: admin_instances.unlock_instance(
            auth.context, tx, OPERATOR, machine.instance_id, keep_key=fingerprint(machine)
        )
    )
    for recorded in (before, proof):
        assert reason(auth.renew(*recorded)) is Reason.PROVE
    assert machine.renew().generation == 3
    assert auth.locks() == ()


# --- the join -------------------------------------------------------------------------------


def test_whoever_has_the_keys_of_an_unanswered_join_and_answers_first_is_found(auth: Auth) -> None:
    """The same request gives both the same generation 1; the first renewal of the two splits them."""
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    request = machine.join_request(token)
    thief = machine.copy()
    thief.accept(auth.join(*request))
    machine.accept(auth.join(*request))
    assert (thief.instance_id, thief.generation) == (machine.instance_id, machine.generation)
    thief.pending = Pending()
    thief.renew()
    assert reason(answering(machine)) is Reason.GENERATION_MISMATCH


def test_a_token_stolen_with_its_pending_keys_is_repeatable_at_generation_1_only(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    thief = machine.copy()
    recorded = thief.join_request(token)
    machine.accept(auth.join(*machine.join_request(token)))
    machine.renew()
    outcome = auth.join(*recorded)
    assert reason(outcome) is Reason.PROVE
    assert auth.locks() == ()
    assert isinstance(outcome, Refused)
    thief.pending = replace(thief.pending)
    proven = auth.join(*thief.join_request(token, outcome.nonce))
    assert reason(proven) is Reason.GENERATION_MISMATCH


def test_the_same_key_in_two_tokens_makes_two_instances_that_cannot_pass_for_each_other(auth: Auth) -> None:
    bot = auth.add_bot()
    first, second = auth.add_token(bot), auth.add_token(bot)
    one = Machine(auth)
    other = one.copy()
    one.accept(auth.join(*one.join_request(first)))
    other.accept(auth.join(*other.join_request(second)))
    assert one.instance_id != other.instance_id
    mixed = replace(one, certificate=other.certificate, pending=Pending())
    assert reason(mixed.try_renew()) is Reason.BAD_PROOF
    other.pending = Pending()
    one.renew()
    other.renew()
    assert auth.locks() == ()


# --- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [True, False])
def test_no_signature_is_checked_by_a_key_of_another_kind(auth: Auth, machine: Machine, *, new: bool) -> None:
    """One by RSA with 16384 bits costs the server a hundred times what a machine's does."""
    request, signed = machine.renew_request()
    modulus = (1 << 16383) | 1
    blob = wire.string(keys.RSA) + wire.mpint(2**63 - 25) + wire.mpint(modulus)
    changed = replace(request, new_lineage_key=blob) if new else replace(request, lineage_key=blob)
    signature = wire.string(b"rsa-sha2-512") + wire.string(b"\1" * 64)
    outcome = auth.renew(changed, replace(signed, signature=signature))
    assert reason(outcome) is Reason.INVALID_REQUEST
    assert "a lineage key is" in str(outcome)
