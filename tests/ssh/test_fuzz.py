"""Bytes of any kind from strangers: nobody gets in, nothing is logged as an error, nothing stays behind."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.transport import MSG_KEXINIT
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mezite.certs import wire
from mezite.ssh.transport import NodeTransport
from mezite.ssh.userauth import ALGORITHMS, NodeUserAuth
from tests.ssh.client import CERTIFICATE, PK_OK, REQUEST, START, SUCCESS, Wire
from tests.ssh.node import FakeAccess, node_factory

# The fixture that watches the log is good for all examples of a test.
FUZZ = settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
REQUEST_PACKET = Wire().request(signature=b"x")


class Peer:
    """A node's side of one connection, without a client, its packets in a list."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.access = FakeAccess()
        self.server: Any = node_factory(self.access, self.clock, lambda: START).buildProtocol(None)
        self.io = StringTransport()
        self.io.abortConnection = lambda: None  # type: ignore[method-assign]
        self.sent: list[int] = []
        self.server.makeConnection(self.io)

    def at_login(self) -> Peer:
        """As after a key exchange, in the clear."""
        server = self.server
        server.dataReceived(b"SSH-2.0-x\r\n")
        server.sessionID = b"s" * 32
        server._first_exchange, server._awaited = False, None
        server._keyExchangeState = server._KEY_EXCHANGE_NONE
        server.setService(NodeUserAuth())
        send = server.sendPacket
        server.sendPacket = lambda number, payload: (self.sent.append(number), send(number, payload))
        return self

    def close(self) -> None:
        """Nothing of the connection is left: neither a login nor a timer."""
        assert not hasattr(self.server, "avatar")
        assert not {SUCCESS, PK_OK} & set(self.sent)
        self.server.connectionLost(None)
        assert self.clock.getDelayedCalls() == []


@FUZZ
@given(st.lists(st.tuples(st.sampled_from([REQUEST] * 4 + [51, 60, 61, 80, 90, 255]),
st.binary(max_size=300)),
                max_size=8))
def test_any_packets_at_the_login(packets: list[tuple[int, bytes]]) -> None:
    peer = Peer().at_login()
    for number, payload in packets:
        peer.server.dispatchMessage(number, payload)
    peer.close()


STRINGS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"deploy", b"ssh-connection", b"publickey", b"none", CERTIFICATE, *ALGORITHMS]),
)


@FUZZ
@given(st.lists(STRINGS, max_size=3), st.sampled_from([b"", b"\0", b"\1", b"\xff"]), st.lists(STRINGS,
max_size=4),
       st.binary(max_size=3))
def test_any_fields_of_a_login_request(
    head: list[bytes], flag: bytes, tail: list[bytes], behind: bytes
) -> None:
    """Right fields in the right order are a probe of a good certificate: that one alone is left out."""
    payload = b"".join(map(wire.string, head)) + flag + b"".join(map(wire.string, tail)) + behind
    peer = Peer().at_login()
    peer.server.dispatchMessage(REQUEST, payload)
    is_probe = head == [b"deploy", b"ssh-connection", b"publickey"] and flag == b"\0" and CERTIFICATE in tail
    if is_probe:
        peer.sent.clear()
    peer.close()


@FUZZ
@given(st.data())
def test_any_change_of_a_login_request(data: st.DataObject) -> None:
    changed = bytearray(REQUEST_PACKET)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    peer = Peer().at_login()
    peer.server.dispatchMessage(REQUEST, bytes(changed))
    # A flag of 0 with a signature behind it is no probe but malformed.
    peer.close()


NAMES = st.lists(
    st.one_of(
        st.sampled_from([
            *NodeTransport.supportedKeyExchanges, *NodeTransport.supportedCiphers,
            *NodeTransport.supportedMACs,
            b"none", b"zlib", b"ssh-ed25519", b"rsa-sha2-512", b"ext-info-c", b"ext-info-s",
            b"kex-strict-c-v00@openssh.com", b"kex-strict-s-v00@openssh.com", b"",
        ]),
        st.binary(max_size=12),
    ),
    max_size=6,
).map(b",".join)


@FUZZ
@given(st.binary(max_size=16), st.lists(NAMES, max_size=11), st.binary(max_size=8), st.binary(max_size=80))
def test_any_offer_of_a_key_exchange(
    cookie: bytes, lists: list[bytes], behind: bytes, answer: bytes
) -> None:
    peer = Peer()
    peer.server.dataReceived(b"SSH-2.0-x\r\n")
    peer.server.dispatchMessage(MSG_KEXINIT, cookie.ljust(16) + b"".join(map(wire.string, lists)) + behind)
    peer.server.dispatchMessage(30, answer)
    agreed = getattr(peer.server, "_kexAlg", None)
    assert agreed is None or not agreed.startswith((b"ext-info", b"kex-strict")) or peer.io.disconnecting
    peer.close()


@FUZZ
@given(st.lists(st.binary(max_size=400), max_size=5), st.booleans())
def test_any_first_bytes(pieces: list[bytes], is_ssh: bool) -> None:
    peer = Peer()
    if is_ssh:
        peer.server.dataReceived(b"SSH-2.0-x\r\n")
    for piece in pieces:
        peer.server.dataReceived(piece)
    assert len(peer.server._arrived) < 300_000
    peer.close()
