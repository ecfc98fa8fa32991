"""The agent protocol (draft-ietf-sshm-ssh-agent) on Conch's server, with two requests.

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
from mezite.agent.identities import Identities
from mezite.agent.userauth import check_login, signature_algorithm
from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.errors import CertificateRejected

CONCH_NAMES: dict[Any, tuple[str, ...]] = {
    agent.SSHAgentServer: ("dataReceived", "sendResponse"),
    agent: ("AGENT_FAILURE", "AGENT_IDENTITIES_ANSWER", "AGENT_SIGN_RESPONSE",
            "AGENTC_REQUEST_IDENTITIES", "AGENTC_SIGN_REQUEST"),
}
"""What of Conch is used or replaced here; a test looks whether it is still there."""

MAX_MESSAGE = 256 * 1024
"""As OpenSSH's agent has it."""
MESSAGE_SECONDS = 30
"""What a client is given to send one message, or to read its answer."""
IDLE_SECONDS = 600
"""What a connection may be silent between messages: ssh keeps one while somebody types a password."""
MAX_CONNECTIONS = 512
TELL_SECONDS = 10
"""Refusals are told at most so often: a client may ask again and again."""


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
            self.factory.tell(
                "turned away {caller}, process {pid}: it may not use this agent",
                caller=self.caller, pid=self.caller.pid,
            )
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
            self.factory.tell(
                "refused {caller}, process {pid}: {why}",
                caller=self.caller, pid=self.caller.pid if self.caller else None, why=plain(str(error)),
            )
            number, answer = agent.AGENT_FAILURE, b""
        except Exception:
            self._log.failure("a request to the agent broke", event="agent.broke")
            number, answer = agent.AGENT_FAILURE, b""
        self.sendResponse(number, answer)
        return True

    def _answer(self, number: int, content: bytes) -> tuple[int, bytes]:
        """Nothing can be added, removed, locked, or bound to a session: only these two are answered."""
        if number == agent.AGENTC_REQUEST_IDENTITIES and not content:
            return agent.AGENT_IDENTITIES_ANSWER, self._list()
        if number == agent.AGENTC_SIGN_REQUEST:
            return agent.AGENT_SIGN_RESPONSE, wire.string(self._sign(content))
        return agent.AGENT_FAILURE, b""

    def _list(self) -> bytes:
        identity = self.factory.identities.listed
        if identity is None:
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
        check_login(data, identity.certificate, algorithm)
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
        self._told: timedelta | None = None

    def tell(self, format: str, **fields: object) -> None:
        """A line in the log, unless there was one just before."""
        now = self.now()
        if self._told is None or now - self._told >= timedelta(seconds=TELL_SECONDS):
            self._told = now
            self._log.warn("agent: " + format, event="agent.refused", **fields)

    def close_all(self) -> None:
        for connection in tuple(self.open):
            connection.close()


def _identify(transport: Any) -> Caller:
    return caller_of(transport.getHandle())
