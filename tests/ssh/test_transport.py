"""The transport: order of messages, strict key exchange, host keys, and silence in the log."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from twisted.conch.ssh.transport import MSG_KEXINIT
from twisted.internet.abstract import FileDescriptor
from twisted.internet.task import Clock

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX, parse_certificate
from mezite.ssh import conch_private, process, transport
from mezite.ssh.hostkeys import host_keys
from tests.ssh.client import (
    FAILURE,
    IGNORE,
    REQUEST,
    SERVICE_ACCEPT,
    SERVICE_REQUEST,
    START,
    SUCCESS,
    RawClient,
    Wire,
)
from tests.ssh.node import HOST_KEY, certified

USERAUTH = wire.string(b"ssh-userauth")


@pytest.mark.parametrize("names", [conch_private.PRIVATE_NAMES, process.PRIVATE_NAMES])
def test_private_names_are_still_there(names: dict[Any, tuple[str, ...]]) -> None:
    """A Twisted that moves one of these must be looked at before it is used."""
    for owner, wanted in names.items():
        for name in wanted:
            assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
    assert FileDescriptor(Clock())._tempDataLen == 0


def test_conchs_private_names_are_used_in_one_file() -> None:
    names = {name for wanted in conch_private.PRIVATE_NAMES.values() for name in wanted} - {"_log"}
    for path in Path(conch_private.__file__).parent.glob("*.py"):
        if path.name != "conch_private.py":
            used = {name for name in names if re.search(rf"\b{name}\b", path.read_text())}
            assert used == set(), path.name


def test_nothing_weak_is_offered() -> None:
    kinds = transport.NodeTransport
    offered = b",".join(
        [*kinds.supportedKeyExchanges, *kinds.supportedCiphers, *kinds.supportedMACs,
         *kinds.supportedCompressions, *transport.USER_SIGNATURES]
    )
    for weak in (b"sha1", b"cbc", b"md5", b"zlib", b"3des", b"group", b"ssh-rsa", b"ssh-dss"):
        assert weak not in offered
    assert b"curve25519-sha256" in kinds.supportedKeyExchanges


def test_host_certificates_come_before_the_plain_keys() -> None:
    """Every kind with each of its signatures, and no SHA-1."""
    offered = list(certified(START))
    plain = [b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"rsa-sha2-512", b"rsa-sha2-256"]
    assert offered == [name + SUFFIX for name in plain] + plain
    for name in plain:
        key, shown = certified(START)[name], parse_certificate(certified(START)[name + SUFFIX].blob())
        assert shown.subject_blob == key.blob()
        assert shown.type_name == keys.key_type(key.blob()) + SUFFIX
    assert list(host_keys([(HOST_KEY, b"")])) == [b"ssh-ed25519"]


def test_new_connections_show_the_renewed_certificate() -> None:
    connection = Wire()
    before = connection.factory.host_keys()[b"ssh-ed25519-cert-v01@openssh.com"].blob()
    connection.clock.advance(30)
    after = Wire(factory=connection.factory)
    shown = after.server._host_keys[b"ssh-ed25519-cert-v01@openssh.com"].blob()
    assert parse_certificate(shown).valid_before == parse_certificate(before).valid_before + 30


class Impatient(RawClient):
    """Sends IGNORE at a chosen point of the first key exchange."""

    def __init__(self, *, strict: bool, before_kexinit: bool) -> None:
        super().__init__(strict=strict)
        self._before = before_kexinit

    def sendKexInit(self) -> None:
        if self._before:
            self.sendIgnore(b"x")
        super().sendKexInit()
        if not self._before:
            self.sendIgnore(b"x")


def joined(client: RawClient, monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr("tests.ssh.client.RawClient", lambda **_: client)
    return Wire()


@pytest.mark.parametrize("before_kexinit", [True, False])
def test_strict_exchange_takes_nothing_but_itself(
    before_kexinit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix attack of 2023 (Terrapin) needs exactly these messages."""
    connection = joined(Impatient(strict=True, before_kexinit=before_kexinit), monkeypatch)
    assert connection.client.lost
    assert connection.client.disconnected == b"protocol error"


@pytest.mark.parametrize("before_kexinit", [True, False])
def test_old_clients_may_still_send_ignore(before_kexinit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = joined(Impatient(strict=False, before_kexinit=before_kexinit), monkeypatch)
    connection.log_in()


def test_strict_marker_is_in_the_first_offer_only() -> None:
    connection = Wire()
    first = connection.server.ourKexInitPayload
    connection.client.sendKexInit()
    connection.settle()
    assert transport.STRICT_SERVER in first
    assert transport.STRICT_SERVER not in connection.server.ourKexInitPayload
    assert transport.STRICT_SERVER not in connection.server.supportedKeyExchanges


@pytest.mark.parametrize("number", [5, 6, 7, 21, 30, 31, 32, 34, 50, 80, 90, 94, 98, 192])
def test_nothing_but_the_key_exchange_comes_first(number: int) -> None:
    connection = Wire(greet=False)
    connection.client._keyExchangeState = connection.client._KEY_EXCHANGE_NONE
    connection.client.sendPacket(number, USERAUTH)
    connection.settle()
    assert connection.client.lost
    assert connection.server.service is None
    assert connection.clock.getDelayedCalls() == []


@pytest.mark.parametrize("number", [21, 30, 31, 32, 34])
def test_key_exchange_messages_need_a_key_exchange(number: int) -> None:
    connection = Wire()
    connection.send(number, wire.string(b"x" * 32))
    assert connection.client.lost


def test_userauth_is_started_once() -> None:
    connection = Wire().start_userauth()
    connection.send(SERVICE_REQUEST, USERAUTH)
    assert connection.client.disconnected == b"no such service now"


def test_a_live_connection_cannot_change_its_user() -> None:
    connection = Wire().log_in()
    user = connection.server.avatar
    connection.send(SERVICE_REQUEST, USERAUTH)
    assert connection.client.lost
    assert connection.server.avatar is user


def test_connection_service_needs_a_login() -> None:
    connection = Wire()
    connection.send(SERVICE_REQUEST, wire.string(b"ssh-connection"))
    assert connection.client.disconnected == b"no such service now"


def test_channels_need_a_login() -> None:
    connection = Wire().start_userauth()
    opening = wire.string(b"session") + wire.u32(0) + wire.u32(9999) + wire.u32(9999)
    assert connection.send(90, opening) == []
    assert len(connection.client.unimplemented) == 1


def test_unknown_packet_is_named_rightly() -> None:
    """RFC 4253 §11.4: the sequence number of the packet that was not understood."""
    connection = Wire(strict=True)
    connection.send(SERVICE_REQUEST, USERAUTH)
    connection.send(192, b"x")
    connection.send(193, b"x")
    assert connection.client.unimplemented == [1, 2]


def test_requests_after_the_login_are_ignored() -> None:
    connection = Wire().log_in()
    connection.send(REQUEST, connection.request())
    assert not connection.client.lost


def test_malformed_packets_leave_no_traceback() -> None:
    """Any packet, cut anywhere: the connection ends, the log stays clean, no timer stays."""
    chance = random.Random(7)
    for round_number in range(150):
        connection = Wire()
        if round_number % 3:
            connection.start_userauth()
        if round_number % 3 == 2:
            connection.send(REQUEST, connection.request())
        for _ in range(4):
            number = chance.choice([1, 2, 3, 4, 5, 7, 20, 50, 80, 81, 82, *range(90, 101)])
            junk = bytes(chance.choices(range(8), k=chance.randrange(24)))
            connection.send(number, junk)
        connection.client.transport.loseConnection()
        connection.settle()
        connection.factory._cancel_recheck()
        assert connection.clock.getDelayedCalls() == []


def test_cut_key_exchange_offers_leave_no_traceback() -> None:
    for length in range(0, 500, 23):
        connection = Wire(greet=False)
        offer = connection.client.ourKexInitPayload[1:]
        connection.client._keyExchangeState = connection.client._KEY_EXCHANGE_NONE
        connection.server_io.stream.clear()
        fresh = Wire(greet=False)
        fresh.server.dataReceived(b"SSH-2.0-x\r\n")
        fresh.server.dispatchMessage(MSG_KEXINIT, offer[:length])
        assert fresh.server.sessionID is None


def test_peer_that_reads_nothing_is_cut_off() -> None:
    """Our last words may wait a few seconds for a reader, not for ever."""
    connection = Wire().log_in()
    connection.server.end("locked", b"bye")
    assert [call.getTime() - connection.clock.seconds() for call in connection.clock.getDelayedCalls()
            if call.func == connection.server_io.abortConnection] == [5]


def test_oldest_goes_when_too_many_log_in() -> None:
    """Strangers who only sit there keep nobody out; who is logged in stays."""
    user = Wire(max_logging_in=2).log_in()
    idle = [Wire(factory=user.factory) for _ in range(3)]
    for connection in (user, *idle):
        connection.settle()
    assert [connection.client.lost for connection in (user, *idle)] == [False, True, False, False]
    idle[2].log_in()


def test_answers_are_those_expected() -> None:
    connection = Wire()
    assert connection.numbers(SERVICE_REQUEST, USERAUTH) == [SERVICE_ACCEPT]
    assert connection.numbers(IGNORE, wire.string(b"")) == []
    assert connection.numbers(REQUEST, b"") == [FAILURE]
    assert connection.numbers(REQUEST, connection.request()) == [SUCCESS]
