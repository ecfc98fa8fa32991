"""Forwarded connections over the wire: when there are any, how much they hold, how they end."""

from __future__ import annotations

import os
import pwd
from datetime import datetime, timedelta
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IHostResolution, IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.core.audit import EventType
from mezite.core.roles import Role
from tests.ssh.client import START, SUBJECT_BLOB, Wire
from tests.ssh.node import FakeAccess, node_factory, user_certificate

GLOBAL, OPEN, CONFIRM, OPEN_FAILURE, ADJUST, DATA, EOF, CLOSE = 80, 90, 91, 92, 93, 94, 96, 97
ME = pwd.getpwuid(os.geteuid()).pw_name
WINDOW = 256 * 1024


@implementer(IHostResolution)
class Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        pass


@implementer(IReactorPluggableNameResolver)
class Network(MemoryReactorClock):
    """A reactor whose connections tests complete by hand; every name has one address."""

    nameResolver: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = self

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int = 0, *args: Any) -> Any:
        resolution = Resolution(hostName)
        receiver.resolutionBegan(resolution)
        if hostName != "nowhere.test":
            receiver.addressResolved(IPv4Address("TCP", "192.0.2.80", portNumber))
        receiver.resolutionComplete()
        return resolution


class Far(StringTransport):
    """The far side's socket."""

    write_closed = aborting = False

    def abortConnection(self) -> None:
        self.aborting = True

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def data(self) -> bytes:
        got: bytes = self.value()
        self.clear()
        return got


def role(**options: Any) -> Role:
    spec = {"allow": {"node_labels": {"env": "staging"}, "logins": ["deploy"]}, "options": options}
    return Role.from_document({"kind": "role", "metadata": {"name": "deployer"}, "spec": spec})


def logged_in(
    *, allowed: bool = True, permitted: bool = True, network: Network | None = None, instance: str = "",
    factory: Any = None, **settings: Any
) -> Wire:
    """*factory* is the node of another connection, which has its own settings."""
    network = network or Network()

    def now() -> datetime:
        return START + timedelta(seconds=network.seconds())

    access = FakeAccess()
    access.now = type(access.now)(access.now.user_cas, {"deployer": role(port_forwarding=allowed)})
    settings = {"exec": "system", "run_as": ME, **settings}
    connection = Wire(access, factory=factory or node_factory(access, network, now, **settings))
    extensions = [("roles@mezite.com", "deployer"), ("bot@mezite.com", "ci")]
    if instance:
        extensions.append(("instance@mezite.com", instance))
    if permitted:
        extensions.append(("permit-port-forwarding", None))  # type: ignore[arg-type]
    return connection.log_in(blob=user_certificate(SUBJECT_BLOB, at=START, extensions=tuple(extensions)))


def opening(host: bytes = b"db.test", port: int = 5432, window: int = 1 << 20) -> tuple[bytes, ...]:
    return (
        wire.string(b"direct-tcpip"), wire.u32(7), wire.u32(window), wire.u32(32768), wire.string(host),
        wire.u32(port), wire.string(b"127.0.0.1"), wire.u32(40000),
    )


class Tunnel:
    """An open channel, with the far side's socket as ``far``."""

    def __init__(self, connection: Wire, window: int = 1 << 20) -> None:
        self.wire = connection
        self.network: Network = connection.clock
        assert connection.send(OPEN, *opening(window=window)) == []
        _, _, factory, _, _ = self.network.tcpClients[-1]
        self.far = Far()
        self.protocol = factory.buildProtocol(None)
        connection.client.received.clear()
        self.protocol.makeConnection(self.far)
        ((number, payload),) = self.arrived()
        assert number == CONFIRM
        reader = Reader(payload)
        assert reader.u32() == 7
        self.remote = reader.u32()

    def arrived(self) -> list[tuple[int, bytes]]:
        self.wire.settle()
        found = list(self.wire.client.received)
        self.wire.client.received.clear()
        return found

    def send(self, number: int, *parts: bytes) -> list[int]:
        return self.wire.numbers(number, wire.u32(self.remote), *parts)

    def far_sends(self, data: bytes) -> list[int]:
        self.protocol.dataReceived(data)
        return [number for number, _ in self.arrived()]

    def far_ends(self) -> list[int]:
        self.protocol.readConnectionLost()
        return [number for number, _ in self.arrived()]

    def far_is_gone(self) -> list[int]:
        self.protocol.connectionLost(Failure(ConnectionDone()))
        return [number for number, _ in self.arrived()]


def kinds(connection: Wire) -> list[tuple[str, str]]:
    return [(event.type.event_name, event.reason) for event in connection.access.events]


def failure(packets: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    ((number, payload),) = packets
    assert number == OPEN_FAILURE
    reader = Reader(payload)
    assert reader.u32() == 7
    return reader.u32(), reader.string()


# --- may it be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"allowed": False}, {"permitted": False}, {"exec": "builtin"}], ids=["role", "cert", "exec"]
)
def test_forwarding_needs_role_certificate_and_a_node_that_runs_commands(how: dict[str, Any]) -> None:
    connection = logged_in(**how)
    assert failure(connection.send(OPEN, *opening())) == (1, b"port forwarding is not allowed")
    assert connection.clock.tcpClients == []
    event = connection.access.events[-1]
    assert (event.type, event.reason, event.success) == (EventType.AUTHZ_DENIED, "port_forwarding", False)
    assert event.fields["destination"] == "db.test:5432"


@pytest.mark.parametrize(
    ("host", "port"),
    [(b"", 1), (b"x" * 256, 1), (b"a b", 1), (b"a\0", 1), (b"\xc3\xa9", 1), (b"h", 0), (b"h", 65536)],
)
def test_destinations_that_are_none_are_refused(host: bytes, port: int) -> None:
    connection = logged_in()
    assert failure(connection.send(OPEN, *opening(host, port)))[0] == 1
    assert connection.clock.tcpClients == []


@pytest.mark.parametrize("kind", [b"direct-streamlocal@openssh.com", b"forwarded-tcpip", b"tun@openssh.com",
                                  b"auth-agent@openssh.com", b"x11"])
def test_other_kinds_are_refused(kind: bytes) -> None:
    """Unix sockets above all: the node would open them with its own rights."""
    connection = logged_in()
    packets = connection.send(OPEN, wire.string(kind), wire.u32(7), wire.u32(9999), wire.u32(9999), b"junk")
    assert failure(packets)[0] == 1


@pytest.mark.parametrize("kind", [b"tcpip-forward", b"streamlocal-forward@openssh.com"])
def test_the_node_listens_for_nobody(kind: bytes) -> None:
    connection = logged_in()
    assert connection.numbers(GLOBAL, wire.string(kind), b"\1", wire.string(b""), wire.u32(0)) == [82]
    assert kinds(connection)[-1] == ("authz.denied", "port_forwarding")


# --- beginning -----------------------------------------------------------------------------


def test_connections_are_confirmed_when_they_stand() -> None:
    connection = logged_in()
    Tunnel(connection)
    assert connection.clock.tcpClients[0][:2] == ("192.0.2.80", 5432)
    assert kinds(connection)[-1] == ("port.forward", "")


def test_a_destination_that_refuses_is_told() -> None:
    connection = logged_in()
    assert connection.send(OPEN, *opening()) == []
    _, _, factory, _, _ = connection.clock.tcpClients[0]
    connection.client.received.clear()
    factory.clientConnectionFailed(connection.clock.connectors[0], Failure(ConnectionRefusedError()))
    # Another address of the host, if there were one, would have had its turn by then.
    connection.clock.advance(0.3)
    connection.settle()
    assert failure(connection.client.received) == (2, b"the destination refuses the connection")
    assert kinds(connection)[-1] == ("port.forward", "connect_refused")
    assert not connection.access.events[-1].success


def test_a_destination_without_address_is_told() -> None:
    connection = logged_in()
    assert failure(connection.send(OPEN, *opening(b"nowhere.test")))[0] == 2
    assert kinds(connection)[-1] == ("port.forward", "connect_name")


def test_a_destination_that_does_not_answer_is_given_up() -> None:
    connection = logged_in(connect_seconds=15)
    assert connection.send(OPEN, *opening()) == []
    connection.client.received.clear()
    connection.clock.advance(15)
    connection.settle()
    assert failure(connection.client.received)[0] == 2
    assert kinds(connection)[-1] == ("port.forward", "connect_timeout")
    assert connection.numbers(OPEN, *opening()) == []


def test_nothing_can_be_sent_before_the_confirmation() -> None:
    """The peer does not know the channel's number yet: one that guesses it is ended."""
    connection = logged_in()
    connection.send(OPEN, *opening())
    connection.send(DATA, wire.u32(0), wire.string(b"x"))
    assert connection.client.lost
    assert connection.clock.connectors[0].stoppedConnecting


def test_connections_are_few_and_come_back() -> None:
    """Of one client, and of the whole node; sessions are counted apart."""
    connection = logged_in(max_forwards=1)
    tunnel = Tunnel(connection)
    assert failure(connection.send(OPEN, *opening()))[0] == 4
    session = (wire.string(b"session"), wire.u32(8), wire.u32(9), wire.u32(9))
    assert connection.numbers(OPEN, *session) == [CONFIRM]
    tunnel.send(CLOSE)
    tunnel.far_is_gone()
    Tunnel(connection)


def test_one_identity_leaves_slots_for_others() -> None:
    """In however many connections it asks; what it gives back is free again."""
    instances = ["0b8fd6c0-5b1e-4d0f-a3f7-6f6c2b7a1d11", "5c2f8d7e-0a57-4f4e-9a34-6a3f0a8f7c22"]
    first = logged_in(max_forwards_of_node=8, instance=instances[0])
    second = logged_in(instance=instances[0], factory=first.factory)
    other = logged_in(instance=instances[1], factory=first.factory)
    tunnels = [Tunnel(connection) for connection in (first, second, first, second)]
    for connection in (first, second):
        refused = failure(connection.send(OPEN, *opening()))
        assert refused == (4, b"too many forwarded connections of this identity")
    Tunnel(other)
    tunnels[0].far_is_gone()
    Tunnel(second)


def test_connections_of_a_node_are_few() -> None:
    connection = logged_in(max_forwards_of_node=1)
    first = Tunnel(connection)
    assert failure(connection.send(OPEN, *opening()))[0] == 4
    first.far_is_gone()
    Tunnel(connection)


# --- data ----------------------------------------------------------------------------------


def test_data_pass_both_ways_and_are_counted() -> None:
    tunnel = Tunnel(logged_in())
    tunnel.send(DATA, wire.string(b"question"))
    assert tunnel.far.data() == b"question"
    assert tunnel.far_sends(b"answer") == [DATA]
    assert tunnel.far_is_gone() == [EOF, CLOSE]
    event = tunnel.wire.access.events[-1]
    assert (event.type, event.fields["bytes_in"], event.fields["bytes_out"]) == (
        EventType.PORT_FORWARD_END, 8, 6,
    )


def test_a_client_that_does_not_read_stops_the_far_side() -> None:
    tunnel = Tunnel(logged_in(), window=10)
    tunnel.far_sends(b"x" * 100)
    assert tunnel.far.producerState == "paused"
    tunnel.send(ADJUST, wire.u32(1000))
    assert tunnel.far.producerState == "producing"


def test_a_far_side_that_does_not_read_stops_the_client() -> None:
    """No new window is granted; whoever sends over it loses the channel."""
    tunnel = Tunnel(logged_in())
    tunnel.far.producer.pauseProducing()
    sent = 0
    while sent < WINDOW:
        assert tunnel.send(DATA, wire.string(b"x" * 32768)) == []
        sent += 32768
    tunnel.wire.client.received.clear()
    tunnel.far.producer.resumeProducing()
    assert [number for number, _ in tunnel.arrived()] == [ADJUST]
    tunnel.far.producer.pauseProducing()
    for _ in range(WINDOW // 32768):
        tunnel.send(DATA, wire.string(b"x" * 32768))
    assert CLOSE in tunnel.send(DATA, wire.string(b"x"))


def test_data_after_their_end_are_dropped() -> None:
    """The far side's buffer has no bound any more once its end is to be passed on."""
    tunnel = Tunnel(logged_in())
    tunnel.send(DATA, wire.string(b"last"))
    tunnel.send(EOF)
    for _ in range(2 * WINDOW // 32768):
        tunnel.send(DATA, wire.string(b"x" * 32768))
    assert tunnel.far.data() == b"last"
    assert not tunnel.wire.client.lost


# --- ends ----------------------------------------------------------------------------------


def test_either_end_of_data_passes_on_while_the_other_goes_on() -> None:
    tunnel = Tunnel(logged_in())
    assert tunnel.send(EOF) == []
    assert tunnel.far.write_closed
    assert tunnel.far_sends(b"still there") == [DATA]
    assert tunnel.far_ends() == [EOF]
    assert tunnel.far.disconnecting
    assert tunnel.far_is_gone() == [CLOSE]


def test_the_far_sides_end_comes_after_its_data() -> None:
    tunnel = Tunnel(logged_in(), window=2)
    assert tunnel.far_sends(b"four") == [DATA]
    assert tunnel.far_is_gone() == []
    assert tunnel.send(ADJUST, wire.u32(10)) == [DATA, EOF, CLOSE]


def test_a_closed_channel_sends_what_it_holds_but_not_for_ever() -> None:
    tunnel = Tunnel(logged_in())
    assert tunnel.send(CLOSE) == [CLOSE]
    assert tunnel.far.disconnecting
    assert not tunnel.far.aborting
    tunnel.network.advance(30)
    assert tunnel.far.aborting


def test_a_lost_client_leaves_nothing() -> None:
    tunnel = Tunnel(logged_in())
    tunnel.wire.send(OPEN, *opening())
    tunnel.wire.client.transport.loseConnection()
    tunnel.wire.settle()
    assert tunnel.far.disconnecting
    assert tunnel.network.connectors[1].stoppedConnecting
    tunnel.far_is_gone()
    assert tunnel.network.getDelayedCalls() == []


def test_a_lock_ends_it_at_once() -> None:
    tunnel = Tunnel(logged_in())
    tunnel.wire.access.lock("bot", "ci", START)
    tunnel.wire.factory.policy_changed()
    assert tunnel.far.aborting
    assert kinds(tunnel.wire)[-1] == ("port.forward.end", "locked")


def test_a_stop_waits_for_the_last_one() -> None:
    tunnel = Tunnel(logged_in())
    stopped: list[Any] = []
    tunnel.wire.factory.end_all().addBoth(stopped.append)
    tunnel.wire.settle()
    assert tunnel.far.aborting
    tunnel.far_is_gone()
    assert stopped == [None]
    assert tunnel.network.getDelayedCalls() == []
