"""A machine ends its own instance: only the newest holder can, and only its own."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mezite.auth import admin_instances
from mezite.auth.context import Operator
from mezite.auth.forks import unanswered
from mezite.certs import keys
from mezite.core.model import LockKind
from mezite.core.request import LEAVE, RENEW, LeaveRequest, Signed, signed_bytes
from mezite.errors import Reason, Refused
from mezite.rpc import messages
from tests.harness import PEER, Auth, Machine, Pending


def joined(auth: Auth) -> Machine:
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    return machine


def try_leave(machine: Machine, nonce: bytes = b"", method: str = LEAVE) -> Refused | None:
    auth = machine.auth
    assert machine.lineage is not None
    request = LeaveRequest(
        machine.instance_id, machine.generation, keys.public_blob(machine.lineage), machine.certificate
    )
    body = messages.leave_body(request)
    assert messages.leave_request_from(body) == request
    message = signed_bytes(method, auth.context.cluster.uuid, nonce, body)
    return auth.leave(request, Signed(body, keys.sign(machine.lineage, message), nonce))


def reason_of(outcome: object) -> Reason:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_it_is_over(auth: Auth) -> None:
    """Removed, audited as the bot's own doing, and its certificates locked out until they end."""
    machine = joined(auth)
    machine.renew()
    assert try_leave(machine) is None
    assert auth.instance(machine.instance_id).removed_at == auth.now
    (event,) = auth.events("instance.left")
    assert (event.event.actor, event.event.resource_name, event.event.client_ip) == (
        "bot/github-deploy", machine.instance_id, PEER.address
    )
    (lock,) = auth.locks()
    assert (lock.target.kind, lock.target.value) == (LockKind.INSTANCE, machine.instance_id)
    assert lock.expires_at is not None
    assert lock.expires_at >= auth.now + timedelta(minutes=59)
    assert reason_of(machine.try_renew()) is Reason.INSTANCE_UNKNOWN


def test_done_twice_is_done_once(auth: Auth) -> None:
    """The reply was lost."""
    machine = joined(auth)
    assert [try_leave(machine), try_leave(machine)] == [None, None]
    assert len(auth.events("instance.left")) == 1


def test_an_old_copy_ends_nothing(auth: Auth) -> None:
    """It is asked for a proof; whoever gives it has shown the fork."""
    machine = joined(auth)
    copy = machine.copy()
    machine.renew()
    asked = try_leave(copy)
    assert isinstance(asked, Refused)
    assert asked.reason is Reason.PROVE
    assert auth.instance(machine.instance_id).removed_at is None
    machine.renew()
    assert reason_of(try_leave(copy, asked.nonce)) is Reason.GENERATION_MISMATCH
    assert reason_of(machine.try_renew()) is Reason.GENERATION_MISMATCH


@pytest.mark.parametrize("with_pending_keys", [True, False])
def test_a_thief_does_not_hide_by_leaving(auth: Auth, *, with_pending_keys: bool) -> None:
    """He renews with a copy and ends the instance: the owner's next renewal still proves the fork, once."""
    machine = joined(auth)
    thief = machine.copy()
    if not with_pending_keys:
        thief.pending = Pending()
    thief.renew()
    assert try_leave(thief) is None
    asked = machine.try_renew()
    assert isinstance(asked, Refused)
    assert asked.reason is Reason.PROVE
    assert [one.event.resource_name for one in auth.write(unanswered)] == [machine.instance_id]
    assert reason_of(machine.try_renew(asked.nonce)) is Reason.GENERATION_MISMATCH
    (proven,) = auth.events("generation_mismatch")
    assert proven.event.fields["stored_generation"] == 2
    (final,) = (lock for lock in auth.locks() if lock.is_final)
    assert final.expires_at is None
    assert auth.write(unanswered) == ()
    for one in (machine, thief):
        assert reason_of(one.try_renew()) is Reason.INSTANCE_UNKNOWN
    assert try_leave(machine) is None
    # What `status` tells to do ends the alarm; on a node the certificates stay locked out.
    left = auth.write(
        lambda tx: admin_instances.remove_instance(auth.context, tx, Operator(0, "root"), machine.instance_id)
    )[1]
    assert {lock.expires_at for lock in left} == {lock.expires_at for lock in auth.locks()}
    assert all(lock.expires_at is not None for lock in left)
    assert reason_of(machine.try_renew()) is Reason.INSTANCE_UNKNOWN


@pytest.mark.parametrize("renews", [True, False])
def test_nor_does_the_owner_s_leave_or_repeated_join_miss_it(auth: Auth, *, renews: bool) -> None:
    machine = Machine(auth)
    token = auth.add_token(auth.add_bot())
    unanswered_yet = machine.copy()
    machine.join(token)
    thief = machine.copy()
    if renews:
        thief.renew()
    assert try_leave(thief) is None
    if renews:
        assert reason_of(try_leave(machine)) is Reason.PROVE
    asked = auth.join(*unanswered_yet.join_request(token))
    assert isinstance(asked, Refused)
    assert asked.reason is Reason.PROVE
    proven = auth.join(*unanswered_yet.join_request(token, asked.nonce))
    assert reason_of(proven) is Reason.GENERATION_MISMATCH


def test_an_operator_s_removal_is_no_leave(auth: Auth) -> None:
    """He knows of the copy, or may: its holder is told that the instance was removed, and raises no alarm."""
    machine = joined(auth)
    copy = machine.copy()
    machine.renew()
    auth.write(
        lambda tx: admin_instances.remove_instance(auth.context, tx, Operator(0, "root"), machine.instance_id)
    )
    assert reason_of(copy.try_renew()) is Reason.INSTANCE_UNKNOWN
    assert try_leave(copy) is None
    assert not auth.events("renew.prove_asked")


def test_a_signature_for_another_method_is_none(auth: Auth) -> None:
    assert reason_of(try_leave(joined(auth), method=RENEW)) is Reason.BAD_PROOF


def test_another_machines_instance_is_not_ones_own(auth: Auth) -> None:
    machine, other = joined(auth), Machine(auth)
    other.join(auth.add_token(auth.add_bot("other")))
    other.instance_id = machine.instance_id
    assert reason_of(try_leave(other)) is Reason.BAD_PROOF


@pytest.mark.parametrize("kind", [LockKind.INSTANCE, LockKind.BOT])
def test_who_is_locked_stays(auth: Auth, kind: LockKind) -> None:
    """What an operator wants to look at does not go away by itself."""
    machine = joined(auth)
    auth.lock(kind, machine.instance_id if kind is LockKind.INSTANCE else "github-deploy")
    assert reason_of(try_leave(machine)) is Reason.LOCKED
    assert auth.instance(machine.instance_id).removed_at is None
