"""After a restore of the database: no serial twice, no token twice, and the operator knows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.auth import admin, admin_instances, older
from mezite.auth.context import Operator
from mezite.auth.restore import Restored, begin, restore
from mezite.certs.ssh import parse_certificate
from mezite.core.audit import AuditEvent, EventType
from mezite.core.serials import serial_floor
from mezite.errors import Conflict, InvalidInput, Reason
from mezite.storage.interface import Step
from tests.auth.test_join import reason
from tests.auth.test_leave import try_leave
from tests.harness import START, Auth, Machine

OPERATOR = Operator(0, "root")


def start(auth: Auth, last_commit: timedelta = timedelta(minutes=10)) -> None:
    """A server starts on the database, which was written last so long ago."""
    auth.write(lambda tx: begin(auth.context, tx, auth.now - last_commit, clock_is_good=True))


def declare(auth: Auth, **named: object) -> Restored:
    return auth.write(lambda tx: restore(auth.context, tx, OPERATOR, **named))


def serial(machine: Machine) -> int:
    return parse_certificate(machine.certificate).serial


def put_back(auth: Auth, machine: Machine) -> None:
    """The machine renews, and the database forgets it."""
    before = auth.instance(machine.instance_id)
    auth.advance(minutes=5)
    machine.renew()
    after = auth.instance(machine.instance_id)
    auth.write(
        lambda tx: tx.step(
            Step(after.id, after.generation, after.lineage_key, before.generation, before.lineage_key,
                 before.previous_key, before.request_hash, before.renewed_at, before.not_after,
                 before.address, before.host)
        )
    )


def test_every_start_begins_above_all_serials_issued_before(auth: Auth, machine: Machine) -> None:
    """Without a word of the operator, and whatever the backup had counted to: time counts faster."""
    start(auth)
    machine.renew()
    issued = serial(machine)
    assert issued >= serial_floor(auth.now)
    auth.advance(seconds=1)
    assert issued < serial_floor(auth.now)
    start(auth)
    machine.renew()
    assert serial(machine) == serial_floor(auth.now)


def test_a_clock_at_fault_uses_no_serials_up(auth: Auth, machine: Machine) -> None:
    auth.write(lambda tx: begin(auth.context, tx, None, clock_is_good=False))
    machine.renew()
    assert serial(machine) < 1000


def test_serials_fit_every_json_reader_for_two_centuries() -> None:
    assert serial_floor(START + timedelta(days=365 * 210)) < 2**53


def test_tokens_of_the_backup_are_voided_and_those_made_since_are_not(auth: Auth) -> None:
    """And to say it twice does no harm."""
    bot = auth.add_bot()
    old = auth.add_token(bot, uses=3, ttl=timedelta(days=1))
    Machine(auth).join(old)
    auth.advance(minutes=10)
    start(auth)
    auth.advance(minutes=1)
    new = auth.add_token(bot, ttl=timedelta(days=1))
    told = declare(auth)
    assert (told.voided, told.bots) == (1, ("github-deploy",))
    late = Machine(auth)
    assert reason(auth.join(*late.join_request(old))) is Reason.TOKEN_ROTATED
    again = declare(auth)
    assert (again.voided, again.bots) == (0, ())
    late.join(new)
    assert [one.event.fields["voided_tokens"] for one in auth.events("database.restored")] == [0, 1]
    assert auth.events("database.restored")[0].event.actor == "uid:0(root)"


def test_a_machine_that_never_got_the_answer_to_its_join_still_gets_it(auth: Auth) -> None:
    """Its token is voided, its admission is not."""
    token = auth.add_token(auth.add_bot(), uses=2)
    machine = Machine(auth)
    auth.join(*machine.join_request(token))
    start(auth)
    assert declare(auth).voided == 1
    machine.join(token)
    assert machine.generation == 1


def test_the_window_is_told(auth: Auth) -> None:
    """From when the database was written last, or from when the operator says, to the server's start."""
    auth.advance(hours=1)
    start(auth, timedelta(minutes=10))
    at = auth.now
    auth.advance(minutes=5)
    told = declare(auth)
    assert (told.since, told.until) == (at - timedelta(minutes=10), at)
    assert declare(auth, since=at - timedelta(hours=3)).since == at - timedelta(hours=3)
    with pytest.raises(InvalidInput, match="the server started before that"):
        declare(auth, since=auth.now)


def test_a_database_that_no_server_started_on_is_not_restored(auth: Auth) -> None:
    with pytest.raises(Conflict, match="no start of a server"):
        declare(auth)


def test_machines_that_the_database_does_not_know_are_listed(auth: Auth, machine: Machine) -> None:
    """Once each, with where they came from; those that it knows as removed are not among them."""

    def refuse(name: str, address: str) -> None:
        event = AuditEvent(
            EventType.RENEW_REFUSED, auth.now, "machine", "instance", name, address, success=False,
            reason="instance_unknown",
        )
        auth.write(lambda tx: tx.add_event(event))

    refuse("before-the-restore", "192.0.2.1")
    auth.advance(minutes=1)
    start(auth)
    auth.write(lambda tx: tx.remove_instance(machine.instance_id, auth.now))
    for name, address in (("joined-later", "192.0.2.2"), ("joined-later", "192.0.2.3"),
                          (machine.instance_id, "192.0.2.4")):
        auth.advance(minutes=1)
        refuse(name, address)
    strangers = declare(auth).strangers
    assert [(one.instance_id, one.address) for one in strangers] == [("joined-later", "192.0.2.3")]


def test_an_instance_that_joined_after_the_backup_is_not_adopted(auth: Auth, machine: Machine) -> None:
    """Nothing tells it from one that was removed after the backup: it joins again."""
    start(auth)
    declare(auth)
    before = replace(auth.instance(machine.instance_id))
    past = {"removed_before": auth.now, "renewed_before": auth.now + timedelta(days=1)}
    auth.write(lambda tx: tx.prune_instance(before.id, **past))
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN


def test_status_tells_that_machines_are_ahead_until_a_restore_is_declared(
    auth: Auth, machine: Machine
) -> None:
    """Machines that come later, from before the restore, are explained by it; a second restore is not."""

    def ahead() -> tuple[str, ...]:
        found = auth.write(lambda tx: admin.status(auth.context, tx)).ahead
        return found.instances if found else ()

    late = Machine(auth)
    late.join(auth.add_token(auth.add_bot("other")))
    assert ahead() == ()
    put_back(auth, machine)
    put_back(auth, late)
    start(auth)
    machine.renew()
    assert ahead() == (machine.instance_id,)
    auth.advance(minutes=1)
    assert declare(auth).adopted == 1
    assert ahead() == ()
    late.renew()
    assert ahead() == ()
    assert declare(auth).adopted == 2
    auth.advance(minutes=1)
    machine.renew()
    auth.advance(minutes=1)
    put_back(auth, machine)
    machine.renew()
    assert ahead() == (machine.instance_id,)


@pytest.mark.parametrize("how", ["machine", "mark", "declared"])
def test_who_is_removed_after_a_restore_is_locked_for_what_was_given_out_before_it(
    auth: Auth, machine: Machine, how: str
) -> None:
    """The database has forgotten the last renewal, and the certificate may live for a day from then on."""
    auth.advance(hours=20)
    put_back(auth, machine)
    start(auth)
    if how == "machine":
        assert try_leave(machine) is None
        (found,) = auth.events("database.older")
        assert found.event.fields["instance"] == machine.instance_id
    else:
        if how == "mark":
            auth.write(lambda tx: older.note(auth.context, tx, older.Sign.MARK))
        else:
            declare(auth)
        auth.write(
            lambda tx: admin_instances.remove_instance(auth.context, tx, OPERATOR, machine.instance_id)
        )
    (lock,) = auth.locks()
    assert lock.expires_at == auth.now + timedelta(days=1)
