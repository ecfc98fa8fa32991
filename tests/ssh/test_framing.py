"""Packets, their keys, and the change of keys by either side."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.conch.ssh.transport import MSG_KEXINIT
from twisted.internet.testing import StringTransport

from mezite.certs import wire
from mezite.ssh import framing
from mezite.ssh.transport import NodeTransport, supported_key_exchanges
from tests.ssh.client import START, Wire
from tests.ssh.node import FakeAccess, certified, node_factory

CTR = [{"cipher": cipher, "mac": mac} for cipher in (b"aes256-ctr", b"aes128-ctr") for mac in framing.MACS]
SUITES = [*CTR, {"cipher": b"aes192-ctr"}, *({"cipher": cipher} for cipher in framing.GCM)]
KEEPALIVE = wire.string(b"keepalive@openssh.com") + b"\1"
GLOBAL_REQUEST, REQUEST_FAILURE = 80, 82


def names(suite: dict[str, bytes]) -> str:
    return b" ".join(suite.values()).decode()


@pytest.mark.parametrize("suite", SUITES, ids=names)
@pytest.mark.parametrize("strict", [False, True])
def test_keys_can_change_again(strict: bool, suite: dict[str, bytes]) -> None:
    connection = Wire(strict=strict, client=suite).log_in()
    agreed = connection.server.currentEncryptions
    assert agreed.inCipType == agreed.outCipType == suite["cipher"]
    before = connection.client.sessionID
    for _ in range(3):
        connection.client.sendKexInit()
        connection.settle()
        assert connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
    assert connection.client.sessionID == before
    assert not connection.server.output_blocked


@pytest.mark.parametrize("cipher", [*framing.GCM, b"aes256-ctr"])
def test_macs_matter_only_where_they_are_used(cipher: bytes) -> None:
    """AES-GCM needs none, so a client that shares none with us is served, as by OpenSSH."""
    connection = Wire(client={"cipher": cipher, "mac": b"umac-64@openssh.com"})
    if cipher in framing.GCM:
        connection.log_in()
        assert connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
    else:
        assert connection.client.lost


@pytest.mark.parametrize("suite", SUITES, ids=names)
def test_changed_byte_ends_the_connection(suite: dict[str, bytes]) -> None:
    """Wherever it is: in the length, the body or the code behind it."""
    for at in (0, 2, 3, 4, 5, 20, -1):
        connection = Wire(client=suite).log_in()
        connection.client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
        (packet,) = connection.client.transport.stream
        changed = bytearray(packet)
        changed[at] ^= 1
        connection.client.transport.stream[:] = [bytes(changed)]
        # A changed length makes the node wait for more, which then is wrong.
        connection.settle()
        for _ in range(70):
            if connection.client.lost:
                break
            connection.client.sendPacket(2, wire.string(b"x" * 30000))
            connection.settle()
        assert connection.client.lost
        assert REQUEST_FAILURE not in [number for number, _ in connection.client.received]


@pytest.mark.parametrize("suite", SUITES, ids=names)
def test_packets_may_come_in_any_pieces(suite: dict[str, bytes]) -> None:
    connection = Wire(client=suite).log_in()
    for _ in range(3):
        connection.client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
    whole = b"".join(connection.client.transport.stream)
    connection.client.transport.stream.clear()
    for at in range(len(whole)):
        connection.server.dataReceived(whole[at : at + 1])
    connection.settle()
    assert [number for number, _ in connection.client.received][-3:] == [REQUEST_FAILURE] * 3


@pytest.mark.parametrize("name", list(certified(START)))
def test_every_host_key_is_served(name: bytes) -> None:
    """The certificates' signatures are checked by the real ssh elsewhere."""
    if b"-cert-" in name:
        key = certified(START)[name]
        kind = wire.Reader(key.sign(b"data")).string()
        assert name == kind + b"-cert-v01@openssh.com"
    else:
        Wire(client={"host_key": name}).log_in()


@pytest.mark.parametrize("kex", [one for one in supported_key_exchanges() if not one.startswith(b"mlkem")])
def test_every_key_exchange_is_served(kex: bytes) -> None:
    """Conch's client has no mlkem; other clients try that one."""
    Wire(client={"kex": kex}).log_in()


# --- changes of keys that the node starts ----------------------------------------------------


def exchanges(connection: Wire) -> int:
    return int(connection.server.key_exchanges)


def test_node_changes_keys_after_so_many_bytes() -> None:
    connection = Wire(strict=True, client={"cipher": b"aes128-gcm@openssh.com"}).log_in()
    connection.client.received.clear()
    connection.server.rekey_bytes = 20_000
    for _ in range(100):
        connection.client.sendPacket(GLOBAL_REQUEST, wire.string(b"x" * 3000) + b"\1")
        connection.settle()
    assert [number for number, _ in connection.client.received] == [REQUEST_FAILURE] * 100
    assert exchanges(connection) > 10
    assert not connection.client.lost


def test_node_changes_keys_before_packet_numbers_wrap() -> None:
    """Without strict key exchange the numbers go on; they must not come again under the same keys."""
    connection = Wire().log_in()
    assert connection.server.rekey_packets <= 2**31
    for side in (connection.client, connection.server):
        side.outgoingPacketSequence = side.incomingPacketSequence = 2**32 - 30
    connection.server.rekey_packets = 20
    for _ in range(100):
        assert connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
    assert connection.server.incomingPacketSequence < 2**31
    assert exchanges(connection) > 5


def test_node_changes_keys_after_an_hour() -> None:
    connection = Wire().log_in()
    connection.clock.advance(3599)
    connection.send(GLOBAL_REQUEST, KEEPALIVE)
    assert exchanges(connection) == 1
    connection.clock.advance(1)
    assert connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
    assert exchanges(connection) == 2
    connection.send(GLOBAL_REQUEST, KEEPALIVE)
    assert exchanges(connection) == 2


def test_no_change_of_keys_before_the_login() -> None:
    """Many clients cannot do it then (OpenSSH's packet.c waits, too)."""
    connection = Wire()
    connection.server.rekey_bytes = 1
    connection.log_in()
    assert exchanges(connection) == 1


class Deaf:
    """A client that does not answer the node's KEXINIT before it wakes."""

    def __init__(self) -> None:
        self.connection = Wire().log_in()
        self.connection.server.rekey_bytes = 1
        self._offers: list[bytes] = []
        self.connection.client.ssh_KEXINIT = self._offers.append
        assert self.connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
        assert self.connection.server.output_blocked


    def wake(self) -> None:
        client = self.connection.client
        del client.ssh_KEXINIT
        self.connection.server.rekey_bytes = 2**30
        for offer in self._offers:
            client.ssh_KEXINIT(offer)
        self.connection.settle()


def test_client_that_sleeps_goes_on_when_it_wakes() -> None:
    """As with sshd: a laptop's lid is closed over the weekend."""
    sleeper = Deaf()
    connection = sleeper.connection
    for _ in range(3):
        connection.clock.advance(86_400)
        connection.settle()
    assert not connection.client.lost
    sleeper.wake()
    assert connection.send(GLOBAL_REQUEST, KEEPALIVE) == [(REQUEST_FAILURE, b"")]
    assert exchanges(connection) == 2


def test_lock_ends_a_connection_that_sleeps() -> None:
    connection = Deaf().connection
    connection.access.lock("bot", "ci", START)
    connection.factory.policy_changed()
    connection.settle()
    assert connection.client.disconnected == b"this identity is locked"


def test_client_that_is_awake_and_takes_no_new_keys_is_ended() -> None:
    """What the old ones cover is bounded, too."""
    connection = Deaf().connection
    for _ in range(260):
        # No answer is asked for.
        connection.client.sendPacket(GLOBAL_REQUEST, wire.string(b"x" * 255_000) + b"\0")
        connection.settle()
    assert not connection.client.lost
    for _ in range(5):
        connection.client.sendPacket(GLOBAL_REQUEST, wire.string(b"x" * 255_000) + b"\0")
        connection.settle()
    assert connection.client.lost


def test_answers_do_not_pile_up_in_a_change_of_keys() -> None:
    connection = Deaf().connection
    for _ in range(5000):
        if connection.client.lost:
            break
        connection.client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
        connection.settle()
    assert connection.client.lost
    assert len(connection.server._blockedByKeyExchange) < 5000


def test_a_peer_in_a_change_of_keys_sends_nothing_else() -> None:
    """RFC 4253 §7.1: after its KEXINIT only the exchange, up to NEWKEYS."""
    connection = Wire().log_in()
    client = connection.client
    client.ssh_KEXINIT = lambda packet: None
    client.sendPacket(MSG_KEXINIT, client.ourKexInitPayload[1:])
    client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
    connection.settle()
    assert client.lost


# --- the first line --------------------------------------------------------------------------


def told(*pieces: bytes) -> Any:
    server = node_factory(FakeAccess(), Wire().clock).buildProtocol(None)
    io = StringTransport()
    io.abortConnection = lambda: None  # type: ignore[method-assign]
    server.makeConnection(io)
    for piece in pieces:
        server.dataReceived(piece)
    return server


@pytest.mark.parametrize("line", [
    b"SSH-2.0-x\r\n", b"SSH-2.0-x\n", b"SSH-1.99-x\n", b"SSH-2.0-\n", b"SSH-2.0-" + b"x" * 245 + b"\r\n",
])
def test_identification_is_taken_in_any_pieces(line: bytes) -> None:
    for server in (told(line), told(*(line[at : at + 1] for at in range(len(line))))):
        assert server.gotVersion
        assert server.otherVersionString == line.rstrip(b"\r\n")


@pytest.mark.parametrize("line", [
    b"SSH-1.5-x\r\n", b"SSH-2\n", b"GET / HTTP/1.1\r\n", b"\n", b"hello\nSSH-2.0-x\n", b"SSH-2.0-a\0b\n",
    b"SSH-2.0-" + b"x" * 300, b"\x16\x03\x01\x02\x00\x01", b"ssh-2.0-x\n",
])
def test_anything_else_ends_the_connection_at_once(line: bytes) -> None:
    server = told(line, b"SSH-2.0-x\r\n")
    assert not server.gotVersion
    assert server.transport.disconnecting
    assert server.sessionID is None


@pytest.mark.parametrize("head", [
    b"\0\0\0\0", b"\0\0\0\5", b"\0\0\0\6", b"\0\4\0\4", b"\xff\xff\xff\xff", b"\0\0\0\x0c\0",
    b"\0\0\0\x0c\x0b", b"\0\0\0\x0c\xff",
])
def test_lengths_are_bounded_before_anything_is_kept(head: bytes) -> None:
    server = told(b"SSH-2.0-x\r\n", head + b"\x02" * 12)
    assert server.transport.disconnecting
    assert not server._arrived


def test_nothing_weak_is_offered() -> None:
    offered = b",".join([
        *NodeTransport.supportedCiphers, *NodeTransport.supportedMACs, *certified(START),
        *NodeTransport.supportedKeyExchanges,
    ]).split(b",")
    for weak in (b"ssh-rsa", b"ssh-rsa-cert-v01@openssh.com", b"ssh-dss", b"none", b"hmac-sha1", b"arcfour"):
        assert weak not in offered
