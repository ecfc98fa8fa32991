"""The agent protocol (draft-ietf-sshm-ssh-agent) on Conch's server, with three requests.

Conch's own ``SSHAgentServer`` reads messages of any length, ends by an exception
on what it does not know, lets clients add and remove keys, and signs whatever it
is given.  So the reading, and the list of what is answered at all, are ours; of
Conch's there remain its numbers and its framing of answers.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from twisted.conch.ssh import agent
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from mezite.admin.caller import Allowed, Caller, caller_of
from mezite.agent.binding import SESSION_BIND, Binding, check_binding, check_bound, read_binding
from mezite.agent.identities import Identities
from mezite.agent.userauth import check_login, signature_algorithm
from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.errors import CertificateRejected

CONCH_NAMES: dict[Any, tuple[str, ...]] = {
    agent.SSHAgentServer: ("dataReceived", "sendResponse"),
    agent: ("AGENT_FAILURE", "AGENT_IDENTITIES_ANSWER", "AGENT_SIGN_RESPONSE", "AGENT_SUCCESS",
            "AGENTC_REQUEST_IDENTITIES", "AGENTC_SIGN_REQUEST"),
}
"""What of Conch is used or replaced here; a test looks whether it is still there."""

AGENTC_EXTENSION = 27
MAX_MESSAGE = 256 * 1024
"""As OpenSSH's agent has it."""
MESSAGE_SECONDS = 30
"""What a client is given to send one message, or to read its answer."""
IDLE_SECONDS = 600
"""What a connection may be silent between messages: ssh keeps one while somebody types a password."""
MAX_CONNECTIONS = 512
TELL_SECONDS = 10
"""Refusals of a kind are told at most so often: a client may ask again and again."""


class AgentConnection(agent.SSHAgentServer, TimeoutMixin):
    """One client.  Whatever it sends is answered, refused (SSH_AGENT_FAILURE), or ends the connection."""

    factory: AgentConnections
    transport: Any
    _log = Logger()

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()
        self._choked = False
        self._closing = False
        self._busy = False
        self._binding: Binding | None = None
        self._is_ours = True
        """As far as is known: whoever asks is on this machine."""
        self.caller: Caller | None = None

    # Twisted's part.

    def callLater(self, seconds: float, function: Callable[[], None]) -> Any:
        """TimeoutMixin's clock."""
        return self.factory.reactor.callLater(seconds, function)

    def connectionMade(self) -> None:
        self.factory.open.add(self)
        self.transport.registerProducer(self, True)
        self.setTimeout(IDLE_SECONDS)
        try:
            self.caller = self.factory.identify(self.transport)
        except OSError as error:
            self.factory.tell("cannot tell who connected: {why}", why=str(error))
            self.close()
            return
        if not self.factory.allowed.admits(self.caller):
            self._tell("turned away {caller}, process {pid}: it may not use this agent")
            self.close()
        elif len(self.factory.open) > self.factory.max_connections:
            self.factory.tell("turned away {caller}: too many connections", caller=self.caller)
            self.close()

    def dataReceived(self, data: bytes) -> None:
        if not self._closing:
            self._buffer += data
            self._answer_all()

    def timeoutConnection(self) -> None:
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.setTimeout(None)
        self._buffer.clear()
        self.factory.open.discard(self)

    # A client that does not read its answers gets no further ones, and is not read from.

    def pauseProducing(self) -> None:
        self._choked = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._choked = False
        self._answer_all()
        if not self._choked and not self._closing:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self._closing = True

    # Our part.

    def close(self) -> None:
        """At once, whatever is unread."""
        self._closing = True
        self._buffer.clear()
        self.transport.abortConnection()

    def _tell(self, format: str, **fields: object) -> None:
        """In the log, with the client's account and process."""
        pid = self.caller.pid if self.caller is not None else None
        self.factory.tell(format, caller=self.caller, pid=pid, **fields)

    def _answer_all(self) -> None:
        if self._busy:
            return  # an answer below us on the stack has choked and unchoked the connection
        self._busy = True
        try:
            while not (self._choked or self._closing) and self._answer_next():
                pass
        finally:
            self._busy = False
        if not self._closing:
            is_waiting = not self._buffer and not self._choked
            # Not prolonged by each byte of one message, nor by each answer that is not read.
            if is_waiting or self.timeOut != MESSAGE_SECONDS:
                self.setTimeout(IDLE_SECONDS if is_waiting else MESSAGE_SECONDS)

    def _answer_next(self) -> bool:
        """Answers the first message; False where it is not whole yet."""
        if len(self._buffer) < 4:
            return False
        length = int.from_bytes(self._buffer[:4], "big")
        if not 0 < length <= MAX_MESSAGE:
            self.factory.tell("ended a connection of {caller}: a message of {length} bytes",
                              caller=self.caller, length=length)
            self.close()
            return False
        if len(self._buffer) < 4 + length:
            return False
        message = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        if self.timeOut == MESSAGE_SECONDS:
            self.setTimeout(IDLE_SECONDS)
        try:
            number, answer = self._answer(message[0], message[1:])
        except CertificateRejected as error:
            self.factory.refused += 1
            self._tell("refused {caller}, process {pid}: {why}", why=plain(str(error)))
            number, answer = agent.AGENT_FAILURE, b""
        except Exception:
            self._log.failure("a request to the agent broke", event="agent.broke")
            number, answer = agent.AGENT_FAILURE, b""
        self.sendResponse(number, answer)
        return True

    def _answer(self, number: int, content: bytes) -> tuple[int, bytes]:
        """Nothing can be added, removed or locked: only these are answered."""
        if number == agent.AGENTC_REQUEST_IDENTITIES and not content:
            return agent.AGENT_IDENTITIES_ANSWER, self._list()
        if number == agent.AGENTC_SIGN_REQUEST:
            return agent.AGENT_SIGN_RESPONSE, wire.string(self._sign(content))
        if number == AGENTC_EXTENSION:
            reader = Reader(content, "extension")
            if reader.string() == SESSION_BIND:
                self._bind(reader.rest())
                return agent.AGENT_SUCCESS, b""
        return agent.AGENT_FAILURE, b""

    def _bind(self, content: bytes) -> None:
        try:
            binding = read_binding(content)
        except CertificateRejected:
            self._is_ours = False  # it may have said so
            raise
        if binding.is_forwarding:
            # Whoever says so says it of himself, so it needs no proof, and it is not taken back.
            self._is_ours = False
            self._tell("{caller}, process {pid}, forwards it to another host: nothing is signed there")
        check_binding(binding)
        if self._binding not in (None, binding):
            raise CertificateRejected("malformed", "this connection is bound to another session already")
        self._binding = binding

    def _list(self) -> bytes:
        identity = self.factory.identities.listed
        if identity is None or not self._is_ours:
            return wire.u32(0)
        return wire.u32(1) + wire.string(identity.certificate.blob) + wire.text(identity.comment)

    def _sign(self, content: bytes) -> bytes:
        reader = Reader(content, "sign request")
        blob, data, flags = reader.string(), reader.string(), reader.u32()
        reader.finish()
        identity = self.factory.identities.find(blob, self.factory.now())
        if identity is None:
            raise reader.malformed("it is for a key that is not here")
        algorithm = signature_algorithm(identity.certificate, flags)
        login = check_login(data, identity.certificate, algorithm)
        if not self._is_ours:
            raise CertificateRejected("malformed", f"a login as {login.user}, asked for by another host")
        if self._binding is not None:
            check_bound(login, self._binding)
        self.factory.signed += 1
        return keys.sign(identity.key, data, algorithm)


class AgentConnections(Factory):
    """Makes connections, and knows those that are open.

    *now* is a monotonic time; *identify* tells whose a transport is, and tests
    give their own.
    """

    protocol: Any = AgentConnection
    noisy = False
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        identities: Identities,
        allowed: Allowed,
        *,
        now: Callable[[], timedelta],
        max_connections: int = MAX_CONNECTIONS,
        identify: Callable[[Any], Caller] | None = None,
    ) -> None:
        self.reactor = reactor
        self.identities = identities
        self.allowed = allowed
        self.now = now
        self.max_connections = max_connections
        self.identify = identify or _identify
        self.open: set[AgentConnection] = set()
        self.signed = 0
        self.refused = 0
        self._told: dict[str, timedelta] = {}
        """What was told, and when last."""

    def tell(self, format: str, **fields: object) -> None:
        """A line in the log, unless there was one of the same kind just before."""
        now, before = self.now(), self._told.get(format)
        if before is None or now - before >= timedelta(seconds=TELL_SECONDS):
            self._told[format] = now
            self._log.warn("agent: " + format, event="agent.refused", **fields)

    def close_all(self) -> None:
        for connection in tuple(self.open):
            connection.close()


def _identify(transport: Any) -> Caller:
    return caller_of(transport.getHandle())
