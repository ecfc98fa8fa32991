"""Roles, authorities, audit, nodes, status: what operators do with the cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from msgspec.structs import replace

from mezite.auth import admin
from mezite.auth.context import Operator
from mezite.auth.timekeeping import ClockGuard
from mezite.certs import keys
from mezite.certs.x509 import spki_pin
from mezite.core.model import LockKind, Node
from mezite.core.roles import Role, Rules
from mezite.errors import Conflict, InvalidInput, NotFound
from tests.harness import ROLE, START, Auth, Machine

ANN = Operator(1000, "ann")
BACKUP = Role("backup", allow=Rules(logins=("backup",)))


def put(auth: Auth, role: Role) -> bool:
    return auth.write(lambda tx: admin.put_role(auth.context, tx, ANN, role))


def test_a_role_is_created_and_then_updated(auth: Auth) -> None:
    assert put(auth, BACKUP)
    assert not put(auth, replace(BACKUP, description="nightly"))
    assert auth.write(lambda tx: admin.get_role(tx, "backup")).description == "nightly"
    created, updated = auth.events("role.created")[0].event, auth.events("role.updated")[0].event
    assert (created.actor, created.resource_name) == ("uid:1000(ann)", "backup")
    assert (updated.actor, updated.resource_name) == ("uid:1000(ann)", "backup")


def test_a_role_in_use_cannot_become_unfit_for_bots(auth: Auth) -> None:
    auth.add_bot("ci")
    with pytest.raises(Conflict, match=r"require_session_mfa.*these bots use it: ci$"):
        put(auth, replace(ROLE, require_session_mfa=True))
    assert auth.write(lambda tx: admin.get_role(tx, ROLE.name)) == ROLE
    assert put(auth, replace(BACKUP, require_session_mfa=True)), "a role of no bot's may"


def test_a_role_in_use_is_not_deleted(auth: Auth) -> None:
    """The refusal names the bots."""
    auth.add_bot("deploy-b")
    auth.add_bot("deploy-a")
    with pytest.raises(Conflict, match="used by the bots deploy-a, deploy-b; remove them first"):
        auth.write(lambda tx: admin.delete_role(auth.context, tx, ANN, ROLE.name))
    assert auth.events("role.deleted") == []


def test_a_role_of_very_many_bots_is_refused_in_one_line(auth: Auth) -> None:
    for number in range(23):
        auth.add_bot(f"bot-{number:02}")
    with pytest.raises(Conflict, match=r"bot-19 and 3 more; remove"):
        auth.write(lambda tx: admin.delete_role(auth.context, tx, ANN, ROLE.name))


def test_a_role_that_no_bot_uses_is_deleted(auth: Auth) -> None:
    put(auth, BACKUP)
    auth.write(lambda tx: admin.delete_role(auth.context, tx, ANN, "backup"))
    with pytest.raises(NotFound, match="there is no role 'backup'; mezctl roles ls"):
        auth.write(lambda tx: admin.get_role(tx, "backup"))
    assert [stored.event.resource_name for stored in auth.events("role.deleted")] == ["backup"]


def test_deleting_no_role_is_told(auth: Auth) -> None:
    with pytest.raises(NotFound):
        auth.write(lambda tx: admin.delete_role(auth.context, tx, ANN, "nobody"))


def test_user_cas_are_lines_for_sshd(auth: Auth, tmp_path: Path) -> None:
    """ssh-keygen reads the line, and agrees on the fingerprint."""
    (key,) = admin.export_ca(auth.context, admin.CaType.USER)
    assert keys.parse_public_line(key.text) == auth.context.authorities().user_cas[0]
    file = tmp_path / "ca.pub"
    file.write_text(key.text + "\n")
    told = subprocess.run(["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True)
    assert told.stdout.split()[1] == key.fingerprint


def test_host_cas_are_lines_for_known_hosts(auth: Auth) -> None:
    (key,) = admin.export_ca(auth.context, admin.CaType.HOST)
    marker, hosts, line = key.text.split(" ", 2)
    assert (marker, hosts) == ("@cert-authority", "*")
    assert keys.parse_public_line(line) == auth.context.authorities().host_cas[0]


def test_server_cas_are_certificates_named_by_their_pin(auth: Auth) -> None:
    (key,) = admin.export_ca(auth.context, admin.CaType.SERVER)
    assert spki_pin(x509.load_pem_x509_certificate(key.text.encode())) == key.fingerprint
    assert key.fingerprint == auth.context.authorities().server_pin


def test_events_are_found_by_type_and_resource(auth: Auth) -> None:
    put(auth, BACKUP)
    put(auth, BACKUP)
    put(auth, replace(BACKUP, name="other"))

    def found(type_name: str | None = None, resource: str | None = None) -> list[tuple[str, str]]:
        events = auth.write(
            lambda tx: admin.list_events(tx, before=None, limit=3, type_name=type_name, resource=resource)
        )
        return [(stored.event.type.event_name, stored.event.resource_name) for stored in events]

    assert found() == [("role.created", "other"), ("role.updated", "backup"), ("role.created", "backup")]
    assert found("role.created") == [("role.created", "other"), ("role.created", "backup")]
    assert found("role.created", "backup") == [("role.created", "backup")]
    assert found(resource="nobody") == []


def test_an_unknown_event_type_is_told_with_the_known_ones(auth: Auth) -> None:
    """Or the one that was meant, where that is plain."""
    for given, told in (("x", r"known: .*bot\.created"), ("bot.creatd", r"did you mean bot\.created\?$")):
        with pytest.raises(InvalidInput, match=rf"^type: there is no event type '{given}'; {told}"):
            auth.write(
                lambda tx, given=given: admin.list_events(  # type: ignore[misc]  # bound at once
                    tx, before=None, limit=1, type_name=given, resource=None
                )
            )


def test_nodes_come_by_name(auth: Auth) -> None:
    nodes = (Node("web", "web:22"), Node("db", "db:22", {"env": "staging"}))
    context = replace(auth.context, nodes=lambda: nodes)
    assert admin.list_nodes(context) == (nodes[1], nodes[0])


def test_status_tells_what_there_is(auth: Auth, machine: Machine) -> None:
    auth.lock(LockKind.INSTANCE, machine.instance_id)
    auth.lock(LockKind.LOGIN, "gone", expires_at=START)
    told = auth.write(lambda tx: admin.status(auth.context, tx))
    assert (told.cluster_name, told.public_addr, told.server_time) == (
        "example", "auth.example.com:3025", START
    )
    assert dict(told.counts) == {
        "roles": 1, "bots": 1, "instances": 1, "tokens": 1, "locks": 2, "events": told.counts["events"]
    }
    assert [lock.target.value for lock in told.active_locks] == [machine.instance_id]
    assert {(ca.kind, ca.state) for ca in told.authorities} == {
        ("user", "active"), ("host", "active"), ("server", "active")
    }
    assert told.reused_tokens == ()


def test_status_has_the_authorities_in_one_order(auth: Auth) -> None:
    """Those of the first start are of one second, and their ids are random."""
    for number, one in enumerate(reversed(auth.write(lambda tx: tx.authorities()))):
        for first in "0f":
            copy = replace(one, id=f"{first}{number}", state="trusted")
            auth.write(lambda tx, copy=copy: tx.add_authority(copy))  # type: ignore[misc]  # bound at once
    told = auth.write(lambda tx: admin.status(auth.context, tx)).authorities
    assert [one.kind for one in told] == [*["user"] * 3, *["host"] * 3, *["server"] * 3]


def test_status_tells_of_reused_tokens(auth: Auth) -> None:
    """Somebody else may have joined first."""
    token = auth.add_token(auth.add_bot())
    first = Machine(auth).join(token)
    Machine(auth).auth.join(*Machine(auth).join_request(token))
    (stored,) = auth.write(lambda tx: admin.status(auth.context, tx)).reused_tokens
    assert stored.event.resource_name == token.id
    assert stored.event.fields["instance"] == first.instance_id


def test_an_operator_accepts_a_clock_that_has_jumped(auth: Auth) -> None:
    guard = ClockGuard(lambda: auth.now, lambda: 0.0)
    guard.hold(auth.write(guard.commit))
    auth.advance(hours=-2)
    assert guard.fault() is not None
    accepted = auth.write(lambda tx: admin.accept_clock(auth.context, tx, ANN, guard))
    assert accepted.at == auth.now
    assert guard.fault() is not None
    guard.hold(accepted)
    assert guard.fault() is None
    (stored,) = auth.events("clock.accepted")
    assert (stored.event.actor, stored.event.message) == (
        "uid:1000(ann)", "the server's clock is 2h behind its last commit"
    )
