"""Logins, judged over the wire: who gets in, who gets PK_OK, and what the log says."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.logger import formatEvent, globalLogPublisher

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX
from mezite.core.audit import EventType
from mezite.core.roles import Role
from mezite.core.template import HOST
from tests.certs.making import KEYS, rsa_key
from tests.ssh.client import (
    CERTIFICATE,
    FAILURE,
    PK_OK,
    REQUEST,
    START,
    SUBJECT,
    SUBJECT_BLOB,
    SUCCESS,
    Wire,
)
from tests.ssh.node import FakeAccess, user_certificate

FOREIGN = keys.generate_ca_key()
FOREIGN_BLOB = keys.public_blob(FOREIGN)


def certificate(**changes: Any) -> bytes:
    return user_certificate(SUBJECT_BLOB, at=START, **changes)


def seconds(offset: int) -> int:
    return int(START.timestamp()) + offset


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("strict", [False, True])
def test_every_kind_of_key_logs_in(kind: str, strict: bool) -> None:
    blob = user_certificate(keys.public_blob(KEYS[kind]), at=START)
    connection = Wire(strict=strict).start_userauth()
    assert connection.numbers(REQUEST, connection.request(blob, signer=None)) == [PK_OK]
    assert connection.numbers(REQUEST, connection.request(blob, signer=KEYS[kind])) == [SUCCESS]
    event = connection.access.events[-1]
    assert (event.type, event.actor, event.client_ip) == (EventType.USER_LOGIN, "bot/ci", "192.0.2.7")
    assert event.fields["login"] == "deploy"
    assert event.fields["serial"] == 12


@pytest.mark.parametrize("algorithm", [b"rsa-sha2-256", b"rsa-sha2-512"])
def test_rsa_logs_in_by_either_hash(algorithm: bytes) -> None:
    blob = user_certificate(keys.public_blob(KEYS["rsa"]), at=START)
    Wire().log_in(blob=blob, signer=KEYS["rsa"], algorithm=algorithm + SUFFIX)


def test_rsa_by_sha1_is_refused() -> None:
    blob = user_certificate(keys.public_blob(KEYS["rsa"]), at=START)
    connection = Wire().start_userauth()
    request = connection.request(blob, signer=KEYS["rsa"], algorithm=b"ssh-rsa" + SUFFIX)
    assert connection.numbers(REQUEST, request) == [FAILURE]


REFUSED: dict[str, tuple[bytes, str]] = {
    "expired": (certificate(valid_before=seconds(0)), "expired"),
    "not yet valid": (certificate(valid_after=seconds(1)), "not_yet_valid"),
    "foreign CA": (user_certificate(SUBJECT_BLOB, FOREIGN, START), "untrusted_ca"),
    "host certificate": (certificate(type=HOST), "wrong_type"),
    "other login": (certificate(principals=("root",)), "wrong_principal"),
    "wildcard": (certificate(principals=("*",)), "wrong_principal"),
    "unknown critical option": (certificate(critical_options=(("x", ""),)), "unknown_critical_option"),
    "other address": (certificate(critical_options=(("source-address", "10.0.0.0/8"),)), "source_address"),
    "weak key": (user_certificate(keys.public_blob(rsa_key(1024)), at=START), "weak_key"),
    "no role": (certificate(extensions=()), "role_gone"),
    "unknown role": (certificate(extensions=(("roles@mezite.com", "other"),)), "role_gone"),
    "CA's signature broken": (CERTIFICATE[:-1] + bytes([CERTIFICATE[-1] ^ 1]), "bad_signature"),
    "truncated": (CERTIFICATE[:-1], "malformed"),
    "tail": (CERTIFICATE + b"\0", "malformed"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("is_probe", [True, False])
def test_refused_with_its_code(what: str, is_probe: bool) -> None:
    """Not even PK_OK for what would not get in; the reason is in the audit log."""
    blob, code = REFUSED[what]
    connection = Wire().start_userauth()
    request = connection.request(blob, signer=None if is_probe else SUBJECT)
    assert connection.numbers(REQUEST, request) == [FAILURE]
    (event,) = connection.access.events
    assert (event.type, event.success, event.reason) == (EventType.AUTHZ_DENIED, False, code)
    assert event.client_ip == "192.0.2.7"
    if code not in ("malformed",):
        assert event.fields["serial"] == 12
        assert str(event.fields["ca"]).startswith("SHA256:")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("bot", "ci"), ("instance", "0b8fd6c0-5b1e-4d0f-a3f7-6f6c2b7a1d11"), ("role", "deployer"),
     ("login", "deploy"), ("node", "node1")],
)
def test_locked_is_refused(kind: str, value: str) -> None:
    access = FakeAccess()
    access.lock(kind, value, START)
    connection = Wire(access).start_userauth()
    assert connection.numbers(REQUEST, connection.request()) == [FAILURE]
    assert connection.reasons() == ["locked"]


def test_other_locks_do_not_matter() -> None:
    access = FakeAccess()
    for kind, value in (("bot", "cd"), ("login", "root"), ("node", "node2")):
        access.lock(kind, value, START)
    Wire(access).log_in()


def test_roles_count_as_they_stand_at_login() -> None:
    """A deny rule set after the certificate was made holds at once."""
    access = FakeAccess()
    denying = Role.from_document(
        {"kind": "role", "metadata": {"name": "deployer"},
         "spec": {"allow": {"node_labels": {"*": "*"}, "logins": ["deploy"]},
                  "deny": {"logins": ["deploy"]}}}
    )
    access.now = replace(access.now, roles={"deployer": denying})
    connection = Wire(access).start_userauth()
    assert connection.numbers(REQUEST, connection.request()) == [FAILURE]
    assert connection.reasons() == ["no_logins"]


def test_other_labels_do_not_let_in() -> None:
    connection = Wire(labels={"env": "production"}).start_userauth()
    assert connection.numbers(REQUEST, connection.request()) == [FAILURE]
    assert connection.reasons() == ["no_logins"]


def test_principals_only_lets_a_foreign_ca_in_without_its_claims() -> None:
    """A CA that only the node trusts vouches for logins, not for bots and roles."""
    connection = Wire(authorization="principals", trusted_user_ca_keys=(FOREIGN_BLOB,))
    connection.log_in(blob=user_certificate(SUBJECT_BLOB, FOREIGN, START))
    user = connection.server.avatar
    assert (user.admitted.identity.bot, user.admitted.identity.roles) == ("", ())
    assert connection.access.events[-1].actor.startswith("certificate/")


def test_foreign_ca_cannot_claim_roles() -> None:
    connection = Wire(trusted_user_ca_keys=(FOREIGN_BLOB,)).start_userauth()
    blob = user_certificate(SUBJECT_BLOB, FOREIGN, START)
    assert connection.numbers(REQUEST, connection.request(blob)) == [FAILURE]
    assert connection.reasons() == ["role_gone"]


def bad_signatures(connection: Wire) -> dict[str, bytes]:
    good = connection.request()
    other = keys.generate_key()
    rsa = user_certificate(keys.public_blob(KEYS["rsa"]), at=START)
    rsa_256 = b"rsa-sha2-256" + SUFFIX
    ready = wire.Reader(connection.request(rsa, signer=KEYS["rsa"], algorithm=rsa_256))
    for _ in range(3):
        ready.string()
    ready.boolean(), ready.string(), ready.string()
    rsa_signature = ready.string()
    return {
        "another key's": connection.request(signer=other),
        "another session's": connection.request(session=b"x" * 32),
        "another login's": good.replace(wire.string(b"deploy"), wire.string(b"root"), 1),
        "empty": connection.request(signature=b""),
        "junk": connection.request(signature=wire.string(b"ssh-nonsense") + wire.string(b"x" * 64)),
        "of the other hash": connection.request(
            rsa, algorithm=b"rsa-sha2-512" + SUFFIX, signature=rsa_signature),
        "with a tail": connection.request(
            signature=keys.sign(SUBJECT, b"whatever") + b"\0"),
    }


@pytest.mark.parametrize("what", bad_signatures(Wire()))
def test_wrong_signature_is_refused(what: str) -> None:
    connection = Wire().start_userauth()
    request = bad_signatures(connection)[what]
    assert connection.numbers(REQUEST, request) == [FAILURE]
    assert connection.reasons() in (["bad_signature"], ["wrong_principal"])
    assert not hasattr(connection.server, "avatar")


def test_algorithm_and_certificate_must_agree() -> None:
    connection = Wire().start_userauth()
    for name in (b"ssh-ed25519" + SUFFIX, b"rsa-sha2-256" + SUFFIX, b"ecdsa-sha2-nistp256", b"nonsense"):
        head, tail = connection.request(signer=None).split(wire.string(b"publickey") + b"\0", 1)
        reader = wire.Reader(tail)
        reader.string()
        request = head + wire.string(b"publickey") + b"\0" + wire.string(name) + reader.rest()
        assert connection.numbers(REQUEST, request) == [FAILURE]


def test_only_certificates_are_taken() -> None:
    """No method but publickey, no plain key, not even the CA's own."""
    connection = Wire().start_userauth()
    none = b"".join(map(wire.string, (b"deploy", b"ssh-connection", b"none")))
    (answer,) = connection.send(REQUEST, none)
    assert answer == (FAILURE, wire.string(b"publickey") + b"\0")
    password = b"".join(map(wire.string, (b"deploy", b"ssh-connection", b"password"))) + b"\0"
    assert connection.numbers(REQUEST, password + wire.string(b"secret")) == [FAILURE]
    assert connection.numbers(REQUEST, connection.request(SUBJECT_BLOB)) == [FAILURE]
    assert connection.access.events == []
    other = Wire().start_userauth()
    assert other.numbers(REQUEST, other.request(service=b"ssh-other")) == [FAILURE]


@pytest.mark.parametrize("changed", [{"service": b"ssh-other"}, {"login": b"root"}])
def test_a_connection_speaks_for_one_login(changed: dict[str, bytes]) -> None:
    """As with sshd: attempts at several logins do not add up in one connection."""
    connection = Wire().start_userauth()
    assert connection.numbers(REQUEST, connection.request(signer=None, **changed)) == [FAILURE]
    assert connection.numbers(REQUEST, connection.request()) == []
    assert connection.client.lost
    assert connection.client.disconnected == b"change of username or service not allowed"


def test_no_truncated_request_gets_in() -> None:
    whole = Wire().request()
    for length in range(0, len(whole), 7):
        connection = Wire().start_userauth()
        assert connection.numbers(REQUEST, Wire.request(connection)[:length]) == [FAILURE]
        assert not hasattr(connection.server, "avatar")


def test_tail_after_the_request_is_refused() -> None:
    connection = Wire().start_userauth()
    assert connection.numbers(REQUEST, connection.request() + b"\0") == [FAILURE]


def test_truth_is_a_zero_or_a_one() -> None:
    """The signature covers a 1; sshd takes no other value either."""
    connection = Wire().start_userauth()
    for value in (b"\2", b"\xff"):
        request = connection.request().replace(wire.string(b"publickey") + b"\1",
        wire.string(b"publickey") + value, 1)
        assert connection.numbers(REQUEST, request) == [FAILURE]
    assert connection.numbers(REQUEST, connection.request()) == [SUCCESS]


def test_six_attempts_end_the_connection() -> None:
    connection = Wire().start_userauth()
    for _ in range(5):
        assert connection.numbers(REQUEST, connection.request(SUBJECT_BLOB)) == [FAILURE]
    assert connection.numbers(REQUEST, connection.request(SUBJECT_BLOB)) == []
    assert connection.client.disconnected == b"too many failed logins"
    assert connection.client.lost
    assert connection.clock.getDelayedCalls() == []


def test_nothing_counts_after_the_last_attempt() -> None:
    """Requests sent ahead of the answers gain nothing."""
    connection = Wire().start_userauth()
    for _ in range(6):
        connection.client.sendPacket(REQUEST, connection.request(SUBJECT_BLOB))
    connection.client.sendPacket(REQUEST, connection.request())
    connection.settle()
    assert SUCCESS not in [number for number, _ in connection.client.received]
    assert connection.reasons() == ["no_certificate"]


def test_login_has_a_minute() -> None:
    connection = Wire().start_userauth()
    connection.clock.advance(59)
    connection.settle()
    assert not connection.client.lost
    connection.clock.advance(1)
    connection.settle()
    assert connection.client.disconnected == b"login took too long"
    assert connection.clock.getDelayedCalls() == []


def test_a_silent_peer_has_a_minute_too() -> None:
    connection = Wire(greet=False)
    connection.clock.advance(60)
    connection.clock.advance(5)
    connection.settle()
    assert connection.client.lost
    assert connection.clock.getDelayedCalls() == []


def test_an_address_of_ipv4_is_one_on_a_socket_for_both() -> None:
    """As in the rows of the auth API, and in the certificate's ``source-address``."""
    blob = certificate(critical_options=(("source-address", "192.0.2.0/24"),))
    connection = Wire(address="::ffff:192.0.2.7").log_in(blob=blob)
    assert connection.access.events[-1].client_ip == "192.0.2.7"
    assert Wire(address="2001:db8::7").log_in().access.events[-1].client_ip == "2001:db8::7"


def test_no_policy_lets_nobody_in(problems: list[str]) -> None:
    access = FakeAccess()
    access.answer = lambda: fail(RuntimeError("database gone"))
    connection = Wire(access).start_userauth()
    assert connection.numbers(REQUEST, connection.request()) == [FAILURE]
    assert connection.reasons() == ["unavailable"]
    assert "database gone" in problems.pop()


def test_requests_wait_for_their_turn() -> None:
    """While one is decided the next ones wait, and few may."""
    access = FakeAccess()
    waiting: list[Deferred[Any]] = []
    access.answer = lambda: waiting.append(Deferred()) or waiting[-1]  # type: ignore[func-returns-value]
    connection = Wire(access).start_userauth()
    assert connection.numbers(REQUEST, connection.request()) == []
    assert connection.numbers(REQUEST, connection.request()) == []
    assert len(waiting) == 1
    waiting[0].callback(access.now)
    connection.settle()
    assert [number for number, _ in connection.client.received] == [SUCCESS]
    assert len(waiting) == 1


def test_too_many_requests_ahead_end_the_connection() -> None:
    access = FakeAccess()
    access.answer = Deferred
    connection = Wire(access).start_userauth()
    for _ in range(6):
        connection.send(REQUEST, connection.request())
    assert connection.client.disconnected == b"too many requests ahead"


def test_no_login_succeeds_after_the_last_words() -> None:
    """The one being decided is given up, and the connection ends though its peer reads nothing."""
    access = FakeAccess()
    waiting: list[Deferred[Any]] = []
    access.answer = lambda: waiting.append(Deferred()) or waiting[-1]  # type: ignore[func-returns-value]
    connection = Wire(access).start_userauth()
    for _ in range(6):
        connection.client.sendPacket(REQUEST, connection.request())
    connection.server.dataReceived(connection.client.transport.getOutBuffer())
    assert connection.server_io.disconnecting
    if not waiting[0].called:
        waiting[0].callback(access.now)
    assert access.events == []
    connection.clock.advance(5)
    connection.settle()
    assert connection.client.lost
    assert connection.clock.getDelayedCalls() == []


def test_login_of_a_lost_connection_ends_quietly() -> None:
    access = FakeAccess()
    access.answer = Deferred
    connection = Wire(access).start_userauth()
    connection.send(REQUEST, connection.request())
    connection.client.transport.loseConnection()
    connection.settle()
    assert access.events == []
    assert connection.clock.getDelayedCalls() == []


def test_strangers_fill_no_log() -> None:
    """A few rows a minute; the next one tells how many were left out."""
    access = FakeAccess()
    blob = user_certificate(SUBJECT_BLOB, FOREIGN, START)
    first = Wire(access)
    for _ in range(10):
        connection = Wire(access, factory=first.factory).start_userauth()
        for _ in range(5):
            connection.send(REQUEST, connection.request(blob))
    assert len(access.events) == 20
    first.clock.advance(61)
    connection = Wire(access, factory=first.factory).start_userauth()
    connection.send(REQUEST, connection.request(blob))
    assert access.events[-1].fields["unrecorded_before"] == 30


def test_one_identity_fills_no_log() -> None:
    """Nor by many connections: what it may not open is told a few times a minute."""
    first = Wire(exec="builtin").log_in()
    told: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("event") == "node.channel_refused":
            told.append(formatEvent(event) or "")

    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(5):
            connection = Wire(factory=first.factory).log_in()
            for _ in range(10):
                tail = wire.u32(1) + wire.u32(2**20) + wire.u32(2**15)
                connection.send(90, wire.string(b"x11") + tail)
    finally:
        globalLogPublisher.removeObserver(observe)
    denied = [event for event in first.access.events if not event.success]
    assert (len(denied), len(told)) == (20, 20)


def test_one_certificate_fills_no_log_either() -> None:
    """A certificate is no secret: whoever has seen one can show it again and again."""
    access = FakeAccess()
    first = Wire(access)
    for blob in (certificate(valid_before=seconds(0)), certificate(valid_before=seconds(0), serial=13)):
        for _ in range(3):
            connection = Wire(access, factory=first.factory).start_userauth()
            connection.send(REQUEST, connection.request(blob, signer=None))
    assert [event.fields["serial"] for event in access.events] == [12, 13]
    first.clock.advance(61)
    connection = Wire(access, factory=first.factory).start_userauth()
    connection.send(REQUEST, connection.request(certificate(valid_before=seconds(0))))
    assert access.events[-1].fields["unrecorded_before"] == 2


def unsigned(blob: bytes) -> bytes:
    """*blob* as somebody makes it who has our CA's public key only."""
    return blob[:-1] + bytes([blob[-1] ^ 1])


def test_made_up_certificates_are_strangers() -> None:
    """The CA's signature is checked last, and who has none of it could name any serial number."""
    access = FakeAccess()
    first = Wire(access)
    for serial in range(1, 31):
        connection = Wire(access, factory=first.factory).start_userauth()
        blob = unsigned(certificate(valid_before=seconds(0), serial=serial))
        connection.send(REQUEST, connection.request(blob, signer=None))
    assert [event.reason for event in access.events] == ["expired"] * 20
    assert {event.fields.get("forged") for event in access.events} == {"yes"}
    connection = Wire(access, factory=first.factory).start_userauth()
    connection.send(REQUEST, connection.request(certificate(valid_before=seconds(0)), signer=None))
    assert access.events[-1].fields["unrecorded_before"] == 10
    assert "forged" not in access.events[-1].fields


def test_one_certificate_with_many_logins_fills_no_log() -> None:
    access = FakeAccess()
    first = Wire(access)
    for number in range(30):
        connection = Wire(access, factory=first.factory).start_userauth()
        login = b"user%d" % number
        connection.send(REQUEST, connection.request(certificate(), signer=None, login=login))
    assert [event.reason for event in access.events] == ["wrong_principal"] * 20


def test_while_the_policy_cannot_be_read_all_are_strangers(problems: list[str]) -> None:
    access = FakeAccess()
    access.answer = lambda: fail(RuntimeError("database gone"))
    first = Wire(access)
    for serial in range(1, 31):
        connection = Wire(access, factory=first.factory).start_userauth()
        blob = user_certificate(SUBJECT_BLOB, FOREIGN, START, serial=serial)
        connection.send(REQUEST, connection.request(blob))
    assert connection.reasons() == ["unavailable"] * 20
    assert len(problems) == 30
    problems.clear()


def test_odd_names_are_escaped_in_the_log() -> None:
    connection = Wire().start_userauth()
    blob = certificate(key_id="a\nb\x1b[31m" + "x" * 9000, valid_before=seconds(-5))
    connection.send(REQUEST, connection.request(blob, login=b"de\nploy"))
    (event,) = connection.access.events
    for text in (*map(str, event.fields.values()), event.message, event.actor):
        assert text.isprintable()
        assert len(text) <= 512


def test_who_shows_no_certificate_is_recorded_once_when_he_leaves() -> None:
    """Passwords and plain keys are refused logins, too; one row for the connection."""
    connection = Wire().start_userauth()
    head = wire.string(b"root") + wire.string(b"ssh-connection")
    password = head + wire.string(b"password") + b"\0" + wire.string(b"hunter2")
    assert connection.numbers(REQUEST, password) == [FAILURE]
    offer = head + wire.string(b"publickey") + b"\0" + wire.string(b"ssh-ed25519") + wire.string(FOREIGN_BLOB)
    assert connection.numbers(REQUEST, offer) == [FAILURE]
    assert connection.access.events == []
    connection.server.loseConnection()
    connection.settle()
    (event,) = connection.access.events
    assert (event.type, event.reason) == (EventType.AUTHZ_DENIED, "no_certificate")
    assert (event.fields["login"], event.client_ip) == ("root", "192.0.2.7")
    assert event.message == "tried without a certificate: password, plain key"


def test_who_is_made_to_leave_is_recorded_once_too() -> None:
    connection = Wire().start_userauth()
    head = wire.string(b"root") + wire.string(b"ssh-connection")
    connection.send(REQUEST, head + wire.string(b"password") + b"\0" + wire.string(b"hunter2"))
    connection.factory.end_all()
    connection.settle()
    assert connection.client.lost
    assert connection.reasons() == ["no_certificate"]


def test_plain_keys_before_a_certificate_are_no_event() -> None:
    """ssh offers its plain keys first."""
    connection = Wire().start_userauth()
    head = wire.string(b"deploy") + wire.string(b"ssh-connection") + wire.string(b"publickey")
    offer = head + b"\0" + wire.string(b"ecdsa-sha2-nistp256") + wire.string(SUBJECT_BLOB)
    assert connection.numbers(REQUEST, offer) == [FAILURE]
    assert connection.numbers(REQUEST, connection.request()) == [SUCCESS]
    connection.server.loseConnection()
    connection.settle()
    assert [event.type for event in connection.access.events] == [EventType.USER_LOGIN]
