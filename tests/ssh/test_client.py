"""Conch as a client with a certificate, joined in memory to the node: who is let in, and who is talked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from twisted.conch.ssh import transport
from twisted.conch.ssh.connection import SSHConnection
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from mezite.certs import keys, ssh, verify
from mezite.errors import CertificateRejected, PermissionDenied, Unreachable
from mezite.ssh.client import CertificateClient
from mezite.ssh.hostkeys import host_keys
from mezite.ssh.transport import NodeTransport
from tests.ssh.client import START
from tests.ssh.node import (
    HOST_CA,
    HOST_KEY,
    HOST_KEYS,
    FakeAccess,
    host_certificate,
    node_factory,
    user_certificate,
)


@dataclass
class Holder:
    """A certificate and its key, and trust in the Host CA."""

    now: Callable[[], datetime]
    key: keys.PrivateKey = field(default_factory=keys.generate_key)
    certificate_blob: bytes = b""
    trusted: bytes = keys.public_blob(HOST_CA)

    def __post_init__(self) -> None:
        if not self.certificate_blob:
            self.certificate_blob = user_certificate(keys.public_blob(self.key), at=START)

    def sign(self, data: bytes) -> bytes:
        return keys.sign(self.key, data)

    def check_host(self, certificate: bytes, host: str) -> ssh.Certificate:
        parsed = ssh.parse_certificate(certificate)
        verify.check_host_certificate(
            parsed, trusted=[self.trusted], now_unix=int(self.now().timestamp()), host=host
        )
        return parsed


class Joined:
    """A client and a node, with all between them."""

    def __init__(
        self, *, login: str = "deploy", host: str = "node1", holder: dict[str, Any] | None = None,
        shown: Any = None, client: type[CertificateClient] = CertificateClient, **of_client: Any,
    ) -> None:
        self.access, self.clock = FakeAccess(), Clock()
        self.factory = node_factory(self.access, self.clock, self.now)
        if shown is not None:
            self.factory.host_keys = lambda: shown  # type: ignore[method-assign]
        self.server: NodeTransport = self.factory.buildProtocol(None)
        self.client = client(Holder(self.now, **(holder or {})), login, host)
        for name, value in of_client.items():
            setattr(self.client, name, value)
        self.outcome: list[Any] = []
        self.client.opened.addBoth(self.outcome.append)
        peer = IPv4Address("TCP", "192.0.2.7", 50000)
        self.pump: IOPump = connect(
            self.server, FakeTransport(self.server, True, IPv4Address("TCP", "192.0.2.1", 22), peer),
            self.client, FakeTransport(self.client, False), greet=True, clock=self.clock,
        )
        self.settle()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock.seconds())

    def settle(self) -> None:
        self.pump.flush(advanceClock=False)

    @property
    def error(self) -> Any:
        (found,) = self.outcome
        assert isinstance(found, Failure), found
        return found.value

    @property
    def logins(self) -> int:
        return sum(event.type.event_name == "user.login" for event in self.access.events)


def test_a_certificate_logs_in() -> None:
    joined = Joined()
    (connection,) = joined.outcome
    assert isinstance(connection, SSHConnection)
    assert connection.transport is joined.client
    assert joined.client._strict
    assert [joined.server.key_exchanges, joined.logins] == [1, 1]


@pytest.mark.parametrize("key", HOST_KEYS, ids=lambda key: type(key).__name__)
def test_every_kind_of_host_key(key: keys.PrivateKey) -> None:
    shown = host_keys([(key, host_certificate(at=START, key=key))])
    assert isinstance(Joined(shown=shown).outcome[0], SSHConnection)


@pytest.mark.parametrize("key", [keys.generate_ca_key(), keys.generate_rsa_key()],
                         ids=lambda key: type(key).__name__)
def test_every_kind_of_user_key(key: keys.PrivateKey) -> None:
    assert isinstance(Joined(holder={"key": key}).outcome[0], SSHConnection)


@pytest.mark.parametrize("name", CertificateClient.supportedKeyExchanges)
def test_every_key_exchange(name: bytes) -> None:
    class Narrow(CertificateClient):
        supportedKeyExchanges = [name]

    assert isinstance(Joined(client=Narrow).outcome[0], SSHConnection)


@pytest.mark.parametrize("how", [
    {"supportedCiphers": [b"aes256-ctr"], "supportedMACs": [b"hmac-sha2-256-etm@openssh.com"]},
    {"supportedCiphers": [b"aes128-ctr"], "supportedMACs": [b"hmac-sha2-512"]},
])
def test_without_gcm(how: dict[str, Any]) -> None:
    assert isinstance(Joined(**how).outcome[0], SSHConnection)


def _shown(**changes: Any) -> Any:
    changes.setdefault("at", START)
    names = changes.pop("names", ())
    return host_keys([(HOST_KEY, host_certificate(*names, **changes))])


STRANGER = keys.generate_ca_key()


@pytest.mark.parametrize(("how", "code"), [
    ({"host": "node2"}, "wrong_principal"),
    ({"shown": _shown(names=("*.example.com",))}, "wrong_principal"),
    ({"holder": {"trusted": keys.public_blob(STRANGER)}}, "untrusted_ca"),
    ({"shown": _shown(at=START - timedelta(days=2))}, "expired"),
    ({"shown": _shown(at=START + timedelta(days=2))}, "not_yet_valid"),
    ({"shown": _shown(type=1)}, "wrong_type"),
    ({"shown": _shown(critical_options=(("force-command", "x"),))}, "unknown_critical_option"),
    # Whoever has only the public certificate cannot sign the exchange with its key.
    ({"shown": host_keys([(STRANGER, host_certificate(at=START))])}, "bad_signature"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_host_that_does_not_prove_itself_is_told_nothing(how: dict[str, Any], code: str) -> None:
    joined = Joined(**how)
    assert isinstance(joined.error, CertificateRejected)
    assert code == joined.error.code
    assert joined.logins == 0
    assert not joined.server._service_given


def test_a_host_without_a_certificate_has_no_algorithm_in_common() -> None:
    shown = {name: key for name, key in _shown().items() if b"-cert-" not in name}
    joined = Joined(shown=shown)
    assert isinstance(joined.error, Unreachable)
    assert joined.logins == 0


def test_a_login_that_the_certificate_is_not_for() -> None:
    error = Joined(login="root").error
    assert isinstance(error, PermissionDenied)
    assert "node1 does not let root in" in str(error)


def test_a_certificate_of_a_strange_authority() -> None:
    key = keys.generate_key()
    strange = user_certificate(keys.public_blob(key), STRANGER, START)
    assert isinstance(Joined(holder={"key": key, "certificate_blob": strange}).error, PermissionDenied)


def test_keys_change_under_the_same_certificate() -> None:
    joined = Joined()
    joined.server.sendKexInit()
    joined.settle()
    joined.client.sendKexInit()
    joined.settle()
    assert joined.server.key_exchanges == 3
    assert joined.logins == 1
    assert not joined.client.transport.disconnecting


def test_another_host_at_a_change_of_keys_is_left() -> None:
    joined = Joined()
    other = keys.generate_ca_key()
    joined.server._host_keys = host_keys([(other, host_certificate(at=START, key=other))])
    joined.server.sendKexInit()
    joined.settle()
    assert joined.server.key_exchanges == 1
    assert joined.client.transport.disconnected


def test_a_strict_exchange_bears_no_other_message() -> None:
    """The gap that Terrapin (CVE-2023-48795) needs."""

    class Injecting(CertificateClient):
        def check_host(self, shown: bytes, signature: bytes, exchange_hash: bytes) -> None:
            self.dispatchMessage(transport.MSG_IGNORE, b"\0\0\0\0")
            super().check_host(shown, signature, exchange_hash)

    joined = Joined(client=Injecting)
    assert isinstance(joined.error, CertificateRejected)
    assert "inside a strict one" in str(joined.error)


@pytest.mark.parametrize("cut", [b"", b"\0\0\0\1", b"\0\0\0\x01x\0\0\0\0\0\0\0\0"])
def test_a_malformed_reply_ends_the_connection_in_words(cut: bytes) -> None:
    class Fed(CertificateClient):
        def _ssh_KEX_ECDH_REPLY(self, packet: bytes) -> None:
            super()._ssh_KEX_ECDH_REPLY(cut)

    error = Joined(client=Fed).error
    assert isinstance(error, CertificateRejected | Unreachable)
    assert "\n" not in str(error)


def test_a_connection_that_ends_early() -> None:
    client = CertificateClient(Holder(lambda: START), "deploy", "node1")
    outcome: list[Any] = []
    client.opened.addBoth(outcome.append)
    client.makeConnection(FakeTransport(client, False))
    client.connectionLost(Failure(ConnectionError()))
    assert isinstance(outcome[0].value, Unreachable)


def test_cancelling_closes_the_connection() -> None:
    client = CertificateClient(Holder(lambda: START), "deploy", "node1")
    outcome: list[Any] = []
    client.opened.addBoth(outcome.append)
    io = FakeTransport(client, False)
    client.makeConnection(io)
    client.opened.cancel()
    assert isinstance(outcome[0].value, CancelledError)
    assert io.disconnecting or io.disconnected
