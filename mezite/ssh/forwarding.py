"""``direct-tcpip``: connections that the node makes for a client (RFC 4254 §7.2; ``ssh -J``, ``-L``, ``-D``).

They come from the node's own process, whatever account the login has: so they
are bounded in number, time and memory, and each is in the audit log.  Unix
sockets are never opened: with the node's rights they would give away more.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as GivenUp
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mezite.certs.wire import Reader
from mezite.core.audit import EventType, plain
from mezite.core.shares import Shares
from mezite.ssh.channel import FlowChannel

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

LINGER_SECONDS = 30
"""How long the far side may take to read what was sent before the channel closed."""


class Destination(Struct, frozen=True):
    host: str
    port: int

    @classmethod
    def from_reader(cls, reader: Reader) -> Destination | None:
        """What the channel's opening names, or ``None`` where nothing can be there."""
        host, port = reader.string(1024), reader.u32()
        reader.string(1024)
        reader.u32()
        reader.finish()
        if not 1 <= port <= 65535 or not 1 <= len(host) <= 255:
            return None
        if not host.isascii() or any(byte <= 32 or byte == 127 for byte in host):
            return None
        return cls(host.decode("ascii"), port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Forwards:
    """Makes the connections of all clients, and knows those that live."""

    def __init__(self, reactor: Any, limit: int, connect_seconds: float, files: Shares) -> None:
        """Not more than *limit* live; each is one of the open *files* of its owner, too."""
        self.reactor = reactor
        self._shares = Shares(limit), files
        self._connect_seconds = connect_seconds
        self._live: set[ForwardChannel] = set()
        self._waiting: list[Deferred[None]] = []

    def has_room(self, owner: str) -> bool:
        return all(shares.has_room(owner) for shares in self._shares)

    def connect(self, channel: ForwardChannel) -> Deferred[Any]:
        """Fires with a connected :class:`_Far`, or fails."""
        endpoint = HostnameEndpoint(
            self.reactor, channel.destination.host, channel.destination.port, timeout=self._connect_seconds
        )
        connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: _Far(channel)))
        # The endpoint's own limit is one for each address of the host.
        return connecting.addTimeout(self._connect_seconds, self.reactor)

    def add(self, channel: ForwardChannel) -> None:
        self._live.add(channel)
        for shares in self._shares:
            shares.take(channel.owner)

    def discard(self, channel: ForwardChannel) -> None:
        if channel in self._live:
            self._live.discard(channel)
            for shares in self._shares:
                shares.give_back(channel.owner)
        self._tell()

    def abort_all(self) -> Deferred[None]:
        """Ends every connection; fires when nothing of them is left."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        for channel in list(self._live):
            channel.abort()
        self._tell()
        return done

    def _tell(self) -> None:
        if not self._live:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)


class ForwardChannel(FlowChannel):
    """One connection of a client through the node."""

    name = b"direct-tcpip"
    is_confirmed = False
    """Before it is, the peer does not know its number, and nothing of it arrives here."""

    def __init__(self, destination: Destination, forwards: Forwards, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.destination = destination
        self._forwards = forwards
        self._connecting: Deferred[Any] | None = None
        self._far: _Far | None = None
        self._far_full = False
        self._far_ended = self._far_gone = False
        self._eof_received = self._eof_sent = False
        self._aborted = False
        self._linger: Any = None
        self._started: datetime | None = None

    @property
    def _user(self) -> NodeUser:
        user: NodeUser = self.avatar
        return user

    @property
    def owner(self) -> str:
        """Whose share of the node's places it uses."""
        return self._user.admitted.owner

    # --- beginning ---------------------------------------------------------------------------

    def open(self) -> None:
        """Connects; then the channel is confirmed, or refused with a plain reason."""
        self._forwards.add(self)
        self._connecting = self._forwards.connect(self)
        self._connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, far: _Far) -> None:
        self._connecting = None
        self._far = far
        if self._aborted:
            far.transport.abortConnection()
            return
        self._started = self._user.record(EventType.PORT_FORWARD, self._what())
        far.transport.registerProducer(_FarFlow(self), True)
        self.is_confirmed = True
        self.conn.confirm(self)
        self.flow_changed()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        self._forwards.discard(self)
        if self._aborted:
            return
        code, message = _why(failure)
        self._user.record(EventType.PORT_FORWARD, self._what(), reason=code, message=message)
        self.conn.refuse(self, message)

    def _what(self) -> dict[str, str | int]:
        return {"session": self._user.session_name(self.id), "destination": plain(str(self.destination))}

    # --- from the client -----------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._far is None or self._far_gone or self._eof_received:
            # After its end nothing may come; the far side's buffer has no bound then.
            self.taken(len(data))
            return
        self.received += len(data)
        self._far.transport.write(data)
        self.taken(len(data))

    def wants_input(self) -> bool:
        return not self._far_full

    def far_full(self, full: bool) -> None:
        self._far_full = full
        if not full:
            self.taken(0)

    def eofReceived(self) -> None:
        self._eof_received = True
        if self._far is not None and not self._far_gone:
            # A registered producer would keep the writing side open.
            self._far.transport.unregisterProducer()
            if self._far_ended:
                self._far.transport.loseConnection()
            else:
                self._far.transport.loseWriteConnection()

    def closeReceived(self) -> None:
        self._leave()
        self._finish()

    def _leave(self) -> None:
        """What the client has sent still goes out; what comes back is dropped."""
        if self._far is not None and not self._far_gone and self._linger is None:
            self._far.transport.unregisterProducer()
            self._far.transport.loseConnection()
            self._linger = self._forwards.reactor.callLater(LINGER_SECONDS, self.abort)

    def loseConnection(self) -> None:
        self.abort()
        self._finish()

    def closed(self) -> None:
        """Also when the whole connection is gone: at once where the node has ended it."""
        self._record_end()
        if self._user.was_ended:
            self.abort()
        else:
            self._leave()

    # --- from the far side ---------------------------------------------------------------------

    def far_ended(self) -> None:
        """No more data comes from there."""
        self._far_ended = True
        if self._eof_received and self._far is not None:
            self._far.transport.loseConnection()
        self.flow_changed()

    def far_gone(self) -> None:
        self._far_ended = self._far_gone = True
        self._forwards.discard(self)
        if self._linger is not None:
            if self._linger.active():
                self._linger.cancel()
            self._linger = None
        if not self.localClosed:
            self.flow_changed()

    def pause_output(self, paused: bool) -> None:
        if self._far is not None and not self._far_gone and not self._far_ended:
            if paused:
                self._far.transport.pauseProducing()
            else:
                self._far.transport.resumeProducing()

    def drained(self) -> bool:
        if not self.is_confirmed:
            return False
        if self._far_ended and not self._eof_sent and not self.localClosed:
            self._eof_sent = True
            self.conn.sendEOF(self)
        if self._far_gone:
            self._finish()
        return self._far_gone

    # --- end -----------------------------------------------------------------------------------

    def abort(self) -> None:
        """Ends it at once, at whatever point it is."""
        self._aborted = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._far is not None and not self._far_gone:
            self._far.transport.abortConnection()

    def _finish(self) -> None:
        self._out.clear()
        self._record_end()
        if self.is_confirmed:
            self.conn.sendClose(self)

    def _record_end(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            counts = {"bytes_in": self.received, "bytes_out": self.sent}
            self._user.record(EventType.PORT_FORWARD_END, {**self._what(), **counts}, since=started)


def _why(failure: Failure) -> tuple[str, str]:
    """A stable code and a sentence; no more of the network than the client must know."""
    # Cancelled by our own limit, which is one for all addresses together.
    if failure.check(TimeoutError, GivenUp, ConnectingCancelledError) is not None:
        return "connect_timeout", "the destination does not answer"
    if failure.check(ConnectionRefusedError) is not None:
        return "connect_refused", "the destination refuses the connection"
    if failure.check(DNSLookupError) is not None:
        return "connect_name", "the destination has no address"
    return "connect_failed", "the destination cannot be reached"


@implementer(IHalfCloseableProtocol)
class _Far(Protocol):
    """The node's side of a connection to the destination."""

    transport: Any

    def __init__(self, channel: ForwardChannel) -> None:
        self._channel = channel

    def dataReceived(self, data: bytes) -> None:
        self._channel.write(data)

    def readConnectionLost(self) -> None:
        self._channel.far_ended()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._channel.far_gone()


class _FarFlow:
    """Hears from the far socket whether it is full."""

    def __init__(self, channel: ForwardChannel) -> None:
        self._channel = channel

    def pauseProducing(self) -> None:
        self._channel.far_full(True)

    def resumeProducing(self) -> None:
        self._channel.far_full(False)

    def stopProducing(self) -> None:
        self._channel.far_full(False)
