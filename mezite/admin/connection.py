"""One peer of a unix socket: framing, limits, order, and whether it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from mezite.admin import jsonrpc
from mezite.admin.caller import Allowed, Caller, caller_of
from mezite.core.audit import plain
from mezite.errors import MeziteError

Method = Callable[[Caller, Mapping[str, Any]], "Awaitable[Any] | Any"]
"""Answers one request; what it awaits are Deferreds and coroutines, not asyncio futures."""

IDLE_SECONDS = 60
"""How long a connection may be silent, or leave its answers unread."""
MAX_CONNECTIONS = 64
GRACE_SECONDS = 5
"""What a request in hand is given when the service stops."""


@implementer(IHalfCloseableProtocol)
class Connection(Protocol, TimeoutMixin):
    """One peer: its requests are answered one after the other, in order.

    While one is being answered nothing more is read than what has come already,
    and no further request begins before the peer has taken the answers.
    """

    factory: Connections
    transport: Any
    _log = Logger()

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._lines: deque[bytes] = deque()
        self._begun = False
        """A loop below us on the stack begins requests already."""
        self._busy = False
        self._choked = False
        self._retired = False
        self._heard_all = False
        """The peer will send nothing more, and may still read."""
        self._closing = False
        self.caller: Caller | None = None

    # Twisted's part.

    def callLater(self, seconds: float, function: Callable[[], None]) -> Any:
        """TimeoutMixin's clock."""
        return self.factory.reactor.callLater(seconds, function)

    def connectionMade(self) -> None:
        self.factory.connected(self)
        self.transport.registerProducer(self, True)
        self.setTimeout(self.factory.idle_seconds)
        try:
            caller = self.caller = self.factory.identify(self.transport)
        except OSError as error:
            self._log.warn("{where}: cannot tell who connected: {error}", event="admin.caller_unknown",
                           where=self.factory.where, error=error)
            self.close()
            return
        if not self.factory.allowed.admits(caller):
            self._log.warn(
                "{where}: refused {caller}, process {pid}: not root, the owner or in the group",
                event="admin.caller_refused",
                where=self.factory.where, caller=caller, pid=caller.pid,
            )
            self._refuse("permission_denied", f"{caller} may not use this socket; {self.factory.remedy}")
        elif self.factory.is_full:
            self._log.warn("{where}: too many connections, refused {caller}", event="admin.crowded",
                           where=self.factory.where, caller=caller)
            self._refuse("busy", "too many connections; try again later")

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._buffer += data
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0 and end < jsonrpc.MAX_LINE:
            self._lines.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            self._scanned = 0
        self._scanned = len(self._buffer)
        if len(self._buffer) >= jsonrpc.MAX_LINE:
            self._buffer.clear()
            self._scanned = 0
            self._lines.append(b"\n")  # no line has one: it stands for the oversize one
        self._next()

    def timeoutConnection(self) -> None:
        self._log.info("{where}: closed a silent connection of {caller}", event="admin.silent",
                       where=self.factory.where, caller=self.caller)
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.setTimeout(None)
        self._lines.clear()
        self._buffer.clear()
        self.factory.disconnected(self)

    # `printf … | nc -N -U PATH` sends, closes its side, and reads on.

    def readConnectionLost(self) -> None:
        self._heard_all = True
        self._next()

    def writeConnectionLost(self) -> None:
        """Nothing more can be answered; the end of the connection follows."""

    # The transport asks us, as a producer of answers, to wait until the peer has read them.

    def pauseProducing(self) -> None:
        self._choked = True

    def resumeProducing(self) -> None:
        self._choked = False
        self._next()

    def stopProducing(self) -> None:
        self._closing = True

    # Our part.

    def close(self) -> None:
        """At once, whatever is unread."""
        self._closing = True
        self.transport.abortConnection()

    def retire(self) -> None:
        """Once the request that is being answered has been; nothing further begins."""
        self._retired = True
        self._lines.clear()
        if not self._busy:
            self._hang_up()

    def _hang_up(self) -> None:
        """When what was written has been read; the timeout sees to a peer that does not."""
        self._closing = True
        self._lines.clear()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _next(self) -> None:
        """Begins the next request if there is one and nothing stands against it."""
        if self._begun:
            return
        self._begun = True
        while self._lines and not (self._busy or self._choked or self._closing):
            self._begin(self._lines.popleft())
        self._begun = False
        if self._closing:
            return
        if self._heard_all:
            if not (self._busy or self._lines):
                self._hang_up()
        elif self._busy or self._lines:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def _begin(self, line: bytes) -> None:
        if line == b"\n":
            self._log.warn("{where}: {caller} sent a line larger than 1 MiB", event="admin.too_large",
                           where=self.factory.where, caller=self.caller)
            self._refuse("too_large", "a request has at most 1 MiB; the connection is closed")
            return
        self._busy = True
        self.setTimeout(None)
        answering = Deferred.fromCoroutine(self._answer(line))
        answering.addCallbacks(self._answered, self._broken)

    async def _answer(self, line: bytes) -> bytes:
        assert self.caller is not None
        try:
            request = jsonrpc.parse_request(line)
        except jsonrpc.Malformed as malformed:
            return malformed.to_line()
        method = self.factory.methods.get(request.method)
        if method is None:
            return jsonrpc.error_line(
                request.id, jsonrpc.METHOD_NOT_FOUND, "method_not_found",
                f"there is no method {plain(request.method)}",
            )
        try:
            result = method(self.caller, request.params)
            if isawaitable(result):
                result = await result
            return jsonrpc.result_line(request.id, result)
        except MeziteError as error:
            self._log.info(
                "{where}: {caller} {method}: {code}: {error}",
                event="admin.refused", where=self.factory.where,
                caller=self.caller, method=request.method, code=error.code, error=plain(str(error)),
            )
            return jsonrpc.failure_line(request.id, error)
        except Exception:
            self._log.failure("{where}: {caller} {method} failed",
                              event="admin.failed", where=self.factory.where,
                              caller=self.caller, method=request.method)
            return jsonrpc.error_line(
                request.id, jsonrpc.INTERNAL_ERROR, "internal", "internal error; the server's log says more"
            )

    def _answered(self, answer: bytes) -> None:
        self._busy = False
        if self._closing:
            return
        self.setTimeout(self.factory.idle_seconds)
        self.transport.write(answer)
        if self._retired:
            self._hang_up()
        else:
            self._next()

    def _broken(self, failure: Failure) -> None:
        self._log.failure(
            "{where}: a connection broke", failure, event="admin.broke", where=self.factory.where,
        )
        self.close()

    def _refuse(self, code: str, message: str) -> None:
        """Answers whatever was or will be asked, and closes."""
        self.transport.write(jsonrpc.error_line(None, jsonrpc.FAILED, code, message))
        self._hang_up()


class Connections(Factory):
    """Makes connections and knows those that are open.

    *identify* tells whose a transport is; tests give their own.
    """

    protocol: Any = Connection
    noisy = False

    def __init__(
        self,
        reactor: Any,
        methods: Mapping[str, Method],
        allowed: Allowed,
        *,
        where: str = "admin socket",
        remedy: str = "ask its owner",
        idle_seconds: float = IDLE_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        identify: Callable[[Any], Caller] | None = None,
    ) -> None:
        self.reactor = reactor
        self.methods = methods
        self.allowed = allowed
        self.where = where
        self.remedy = remedy
        self.idle_seconds = idle_seconds
        self.max_connections = max_connections
        self.identify = identify or _identify
        self._open: set[Connection] = set()
        self._emptied: Deferred[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether more are open than may be."""
        return len(self._open) > self.max_connections

    def connected(self, connection: Connection) -> None:
        self._open.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def close_all(self) -> Deferred[None]:
        """Fires when none is open any more: requests in hand get :data:`GRACE_SECONDS`."""
        for connection in tuple(self._open):
            connection.retire()
        if not self._open:
            return succeed(None)
        emptied = self._emptied = Deferred()
        cut = self.reactor.callLater(GRACE_SECONDS, self._cut)
        emptied.addCallback(_cancel, cut)
        return emptied

    def _cut(self) -> None:
        for connection in tuple(self._open):
            connection.close()


def _cancel(result: None, call: Any) -> None:
    if call.active():
        call.cancel()


def _identify(transport: Any) -> Caller:
    return caller_of(transport.getHandle())
