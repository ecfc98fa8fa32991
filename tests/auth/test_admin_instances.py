"""Instances: what operators do with the machines that have joined."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest

from mezite.auth import admin_instances, admin_locks
from mezite.auth.admin_instances import InstanceView, Unlocked
from mezite.auth.context import Operator
from mezite.certs import keys
from mezite.core.model import MISMATCH, Lock, LockKind, LockTarget
from mezite.errors import Conflict, InvalidInput, NotFound, Reason, Refused
from mezite.storage.interface import Step
from tests.harness import Auth, Machine, Pending

ANN = Operator(1000, "ann")


def show(auth: Auth, machine: Machine) -> InstanceView:
    return auth.write(lambda tx: admin_instances.show_instance(auth.context, tx, machine.instance_id))


def unlock(auth: Auth, machine: Machine, keep_key: str | None = None) -> Unlocked:
    return auth.write(
        lambda tx: admin_instances.unlock_instance(
            auth.context, tx, ANN, machine.instance_id, keep_key=keep_key
        )
    )


def fork(machine: Machine, thief: Machine) -> None:
    """*thief* has renewed; *machine* proves that there are two, and locks the instance."""
    thief.pending = Pending()
    thief.renew()
    prove = machine.try_renew()
    assert isinstance(prove, Refused)
    locked = machine.try_renew(prove.nonce)
    assert isinstance(locked, Refused)
    assert locked.reason is Reason.GENERATION_MISMATCH


def fingerprint(machine: Machine) -> str:
    assert machine.lineage is not None
    return keys.fingerprint(keys.public_blob(machine.lineage))


def reason(outcome: object) -> Reason:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_an_instances_state_is_told(auth: Auth, machine: Machine) -> None:
    view = show(auth, machine)
    assert (view.bot_name, view.state, view.locks) == ("github-deploy", "active", ())
    lock = auth.lock(LockKind.BOT, "github-deploy")
    assert (show(auth, machine).state, show(auth, machine).locks) == ("locked", (lock,))
    auth.write(lambda tx: tx.delete_lock(lock.id))
    auth.advance(days=7)
    assert show(auth, machine).state == "expired"
    auth.lock(LockKind.INSTANCE, machine.instance_id)
    assert show(auth, machine).state == "locked"


def test_instances_are_listed_for_all_or_one_bot(auth: Auth, machine: Machine) -> None:
    other = Machine(auth)
    other.join(auth.add_token(auth.add_bot("other")))

    def listed(bot: str | None) -> set[str]:
        page = auth.write(lambda tx: admin_instances.list_instances(auth.context, tx, bot, "", 10))
        return {view.instance.id for view in page.items}

    assert listed(None) == {machine.instance_id, other.instance_id}
    assert listed("other") == {other.instance_id}
    with pytest.raises(NotFound, match="there is no bot 'nobody'"):
        listed("nobody")


def test_a_locked_instance_is_refused_until_it_is_unlocked(auth: Auth, machine: Machine) -> None:
    auth.write(
        lambda tx: admin_instances.lock_instance(auth.context, tx, ANN, machine.instance_id, message="odd")
    )
    assert reason(machine.try_renew()) is Reason.LOCKED
    done = unlock(auth, machine)
    assert (len(done.locks), done.risk) == (1, "")
    machine.renew()


def test_a_lock_that_stands_is_not_made_twice(auth: Auth, machine: Machine) -> None:
    def lock(**settings: Any) -> str:
        return auth.write(
            lambda tx: admin_instances.lock_instance(
                auth.context, tx, ANN, machine.instance_id, **settings
            )
        ).id

    first = lock()
    assert lock() == first
    assert len(auth.locks()) == 1


def test_unlocking_what_is_not_locked_is_told(auth: Auth, machine: Machine) -> None:
    told = f"instance {machine.instance_id} is not locked; what is: mezctl locks ls$"
    with pytest.raises(Conflict, match=told):
        unlock(auth, machine)
    with pytest.raises(Conflict, match=told):
        unlock(auth, machine, "SHA256:x")


def test_a_fork_is_not_unlocked_plainly(auth: Auth, machine: Machine) -> None:
    """Neither by its instance nor by its lock; each refusal says what is possible."""
    fork(machine, machine.copy())
    told = r"final \(generation_mismatch.*instances rm .*--keep-key FINGERPRINT"
    with pytest.raises(Conflict, match=told):
        unlock(auth, machine)
    (lock,) = auth.locks()
    with pytest.raises(Conflict, match=told):
        auth.write(lambda tx: admin_locks.remove_lock(auth.context, tx, ANN, lock.id))
    assert auth.locks() == (lock,)
    assert show(auth, machine).state == "forked"


def test_the_operators_lock_besides_a_final_one_unlocks_neither(auth: Auth, machine: Machine) -> None:
    fork(machine, machine.copy())
    auth.lock(LockKind.INSTANCE, machine.instance_id)
    with pytest.raises(Conflict, match="final"):
        unlock(auth, machine)
    assert len(auth.locks()) == 2


def test_keeping_the_key_given_out_last_lets_its_holder_go_on(auth: Auth, machine: Machine) -> None:
    """The other side proves a fork again, which locks again: the thief is not forgotten."""
    owner, thief = machine.copy(), machine
    fork(thief, owner)
    kept = fingerprint(owner)
    done = unlock(auth, owner, kept)
    (stored,) = auth.events("instance.key_kept")
    assert stored.event.fields == {"kept_key": kept, "kept_generation": 2, "stored_generation": 2}
    assert [lock.reason for lock in done.locks] == [MISMATCH]
    assert "if you chose wrong" in done.risk
    assert "until they end, the certificates that both hold open our nodes again" in done.risk
    owner.renew()
    asked = thief.try_renew()
    assert reason(asked) is Reason.PROVE
    assert auth.locks() == ()
    assert isinstance(asked, Refused)
    assert reason(thief.try_renew(asked.nonce)) is Reason.GENERATION_MISMATCH
    assert "its next renewal locks the instance again" in done.risk
    assert reason(owner.try_renew()) is Reason.GENERATION_MISMATCH


def test_the_risk_speaks_of_no_certificates_that_have_ended(auth: Auth, machine: Machine) -> None:
    owner, thief = machine.copy(), machine
    fork(thief, owner)
    auth.advance(hours=24)
    assert "certificates" not in unlock(auth, owner, fingerprint(owner)).risk


def test_keeping_the_key_before_puts_the_lineage_back(auth: Auth, machine: Machine) -> None:
    """Its holder renews; the side that had renewed is found out when it comes again."""
    thief = machine.copy()
    fork(machine, thief)
    done = unlock(auth, machine, fingerprint(machine))
    assert "whoever has a copy of that key can go on with it" in done.risk
    kept = auth.instance(machine.instance_id)
    assert (kept.generation, kept.lineage_key) == (1, fingerprint(machine))
    machine.renew()
    assert reason(thief.try_renew()) is Reason.PROVE


def test_the_key_decided_against_gets_nothing_though_it_is_ahead(auth: Auth, machine: Machine) -> None:
    """It is no machine that is ahead of a restored database: its holder may only prove the fork again."""
    thief = machine.copy()
    fork(machine, thief)
    unlock(auth, machine, fingerprint(machine))
    prove = thief.try_renew()
    assert reason(prove) is Reason.PROVE
    assert auth.instance(machine.instance_id).generation == 1
    assert auth.events("generation_adopted") == []
    assert isinstance(prove, Refused)
    assert reason(thief.try_renew(prove.nonce)) is Reason.GENERATION_MISMATCH
    unlock(auth, machine, fingerprint(machine))
    assert machine.renew().generation == 2


def test_after_the_key_before_was_kept_only_that_one_can_be_kept_again(auth: Auth, machine: Machine) -> None:
    thief = machine.copy()
    fork(machine, thief)
    unlock(auth, machine, fingerprint(machine))
    auth.write(lambda tx: tx.add_lock(final_lock(auth, machine)))
    with pytest.raises(InvalidInput, match=r"known: [^,]*\(generation 1, given out last\)$"):
        unlock(auth, machine, fingerprint(thief))


def test_a_machine_put_back_is_still_adopted_by_a_restored_database(auth: Auth, machine: Machine) -> None:
    """The backup was made between the operator's decision and the machine's next renewal."""
    fork(machine, machine.copy())
    unlock(auth, machine, fingerprint(machine))
    backup = auth.instance(machine.instance_id)
    machine.renew()
    now = auth.instance(machine.instance_id)
    auth.write(
        lambda tx: tx.step(
            Step(now.id, now.generation, now.lineage_key, backup.generation, backup.lineage_key,
                 backup.previous_key, backup.request_hash, auth.now, auth.now, "", "")
        )
    )
    assert machine.renew().generation == 3
    assert auth.locks() == ()


@pytest.mark.parametrize("key", ["", "SHA256:nonsense", "of another machine"])
def test_no_other_key_can_be_kept(auth: Auth, machine: Machine, key: str) -> None:
    """The refusal names those that can; generation 1 has none before it."""
    if key == "of another machine":
        key = keys.fingerprint(keys.public_blob(keys.generate_key()))
    auth.write(lambda tx: tx.add_lock(final_lock(auth, machine)))
    told = rf"keep_key: .* is no key of this instance; known: {re.escape(fingerprint(machine))} \(gen"
    with pytest.raises(InvalidInput, match=told):
        unlock(auth, machine, key)
    assert len(auth.locks()) == 1


def final_lock(auth: Auth, machine: Machine) -> Lock:
    target = LockTarget(LockKind.INSTANCE, machine.instance_id)
    return Lock(str(uuid.uuid4()), target, MISMATCH, "", "system", auth.now)


def test_a_plain_lock_asks_for_no_key(auth: Auth, machine: Machine) -> None:
    auth.lock(LockKind.INSTANCE, machine.instance_id)
    with pytest.raises(Conflict, match="not locked for a fork; unlock it without --keep-key"):
        unlock(auth, machine, fingerprint(machine))


def recover(auth: Auth, machine: Machine) -> InstanceView:
    return auth.write(lambda tx: admin_instances.recover_instance(auth.context, tx, ANN, machine.instance_id))


def test_an_expired_instance_renews_once_more(auth: Auth, machine: Machine) -> None:
    auth.advance(days=8)
    assert reason(machine.try_renew()) is Reason.EXPIRED
    assert recover(auth, machine).state == "recoverable"
    machine.renew()
    assert show(auth, machine).state == "active"
    (stored,) = auth.events("instance.recovered")
    assert (stored.event.actor, stored.event.resource_name) == ("uid:1000(ann)", machine.instance_id)


def test_there_is_nothing_to_recover_in_a_living_or_forked_instance(auth: Auth, machine: Machine) -> None:
    with pytest.raises(Conflict, match="is not expired"):
        recover(auth, machine)
    fork(machine, machine.copy())
    auth.advance(days=8)
    with pytest.raises(Conflict, match="locked for good"):
        recover(auth, machine)


def remove(auth: Auth, machine: Machine) -> tuple[Lock, ...]:
    _, left = auth.write(
        lambda tx: admin_instances.remove_instance(auth.context, tx, ANN, machine.instance_id)
    )
    return left


def test_a_removed_instance_needs_a_new_token(auth: Auth, machine: Machine) -> None:
    """And is locked as long as its certificate might open a node."""
    (lock,) = remove(auth, machine)
    assert (lock.target.value, lock.expires_at) == (machine.instance_id, auth.now + timedelta(hours=24))
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN
    assert [stored.event.resource_name for stored in auth.events("instance.deleted")] == [machine.instance_id]


def test_a_removed_instance_stays_locked_until_its_last_certificate_has_ended(
    auth: Auth, machine: Machine
) -> None:
    """Whichever holder of a fork still has one finds our nodes closed; then the lock is over by itself."""
    fork(machine, machine.copy())
    auth.lock(LockKind.INSTANCE, machine.instance_id, expires_at=auth.now + timedelta(hours=2))
    left = remove(auth, machine)
    assert {(lock.reason, lock.expires_at) for lock in left} == {
        (MISMATCH, auth.now + timedelta(hours=24)), ("operator", auth.now + timedelta(hours=2))
    }
    assert set(auth.locks()) == set(left)
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN
    assert [stored.event.fields["lock_reason"] for stored in auth.events("lock.shortened")] == [MISMATCH]


def test_a_removed_instance_is_not_opened_by_the_end_of_an_earlier_lock(
    auth: Auth, machine: Machine
) -> None:
    auth.lock(LockKind.INSTANCE, machine.instance_id, expires_at=auth.now + timedelta(hours=2))
    assert {lock.expires_at for lock in remove(auth, machine)} == {
        auth.now + timedelta(hours=2), auth.now + timedelta(hours=24)
    }


def test_the_locks_of_a_removed_instance_without_certificates_go(auth: Auth, machine: Machine) -> None:
    fork(machine, machine.copy())
    auth.advance(hours=24)
    assert remove(auth, machine) == ()
    assert auth.locks() == ()
    assert [stored.event.fields["lock_reason"] for stored in auth.events("lock.deleted")] == [MISMATCH]


def test_the_final_lock_of_a_removed_instance_can_be_removed(auth: Auth, machine: Machine) -> None:
    fork(machine, machine.copy())
    (lock,) = remove(auth, machine)
    auth.write(lambda tx: admin_locks.remove_lock(auth.context, tx, ANN, lock.id))
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN


@pytest.mark.parametrize("removed", [False, True])
def test_an_instance_that_is_not_there_is_told(auth: Auth, machine: Machine, removed: bool) -> None:
    if removed:
        remove(auth, machine)
    else:
        machine.instance_id = str(uuid.UUID(int=0))
    told = f"instance '{machine.instance_id}' {'has been removed' if removed else 'does not exist'}; mezctl"
    for use_case in (show, unlock, recover):
        with pytest.raises(NotFound, match=told):
            use_case(auth, machine)
