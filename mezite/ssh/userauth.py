"""``ssh-userauth`` that takes certificates, and nothing else (RFC 4252; PROTOCOL.certkeys)."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import transport
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.userauth import (
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mezite.certs import wire
from mezite.certs.ssh import CERTIFICATE_TYPES, MAX_BLOB, SUFFIX
from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.errors import CertificateRejected
from mezite.ssh.login import CertificateLogin, TooMany

MAX_WAITING = 4
"""Requests that a client may send ahead while one is being decided."""

ALGORITHMS: dict[bytes, tuple[bytes, bytes]] = {
    **{
        name: (name, kind)
        for name, kind in CERTIFICATE_TYPES.items()
        if kind != b"ssh-rsa"
    },
    # The blob of an RSA certificate always says ssh-rsa; only the request's name differs.
    b"rsa-sha2-256" + SUFFIX: (b"ssh-rsa" + SUFFIX, b"rsa-sha2-256"),
    b"rsa-sha2-512" + SUFFIX: (b"ssh-rsa" + SUFFIX, b"rsa-sha2-512"),
}
"""Algorithm of a request → type of its certificate blob, type of its signature."""


class NodeUserAuth(SSHService):
    """Decides logins, one request after the other.

    Written anew rather than overridden: of Conch's own service the node could
    keep no step (it reads packets without bounds, says PK_OK to any key, and
    knows no certificates).
    """

    name = b"ssh-userauth"
    transport: Any
    _log = Logger()

    def serviceStarted(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._busy: Deferred[None] | None = None
        self._failures = 0
        self._asked = False
        self._named: tuple[bytes, bytes] | None = None
        self._tried: dict[str, None] = {}
        """What was tried that shows no certificate, in order."""
        self._showed_certificate = False
        self._done = False

    def serviceStopped(self) -> None:
        """Nothing is decided any more.  Called when this side ends the connection, and when it is gone."""
        was_done, self._done = self._done, True
        tried, self._tried = list(self._tried), {}
        if tried and not self._showed_certificate and self._named is not None:
            # Once, at the end: ssh offers plain keys before the certificate that lets it in.
            login = self._named[0].decode("utf-8", "backslashreplace")
            self.transport.factory.showed_no_certificate(self.transport, login, tried)
        self._waiting.clear()
        if self._busy is not None and not was_done:
            self._busy.cancel()

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Conch would write a whole unknown packet into the log."""
        if messageNum == MSG_USERAUTH_REQUEST:
            self.ssh_USERAUTH_REQUEST(packet)
        else:
            self.transport.sendUnimplemented()

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.transport.sendDisconnect(transport.DISCONNECT_PROTOCOL_ERROR, b"too many requests ahead")
            return
        self._waiting.append(packet)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._busy is None and not self._done:
            handled = Deferred.fromCoroutine(self._handle(self._waiting.popleft()))
            if not handled.called:
                self._busy = handled
            handled.addErrback(self._failed)
            handled.addCallback(self._handled)

    def _handled(self, _: object) -> None:
        self._busy = None
        self._next()

    def _failed(self, failure: Any) -> None:
        if not self._done:
            self._log.failure("a login failed by an error of this program", failure, event="node.login_broke")
            self._refuse()

    async def _handle(self, packet: bytes) -> None:
        try:
            await self._answer(packet)
        except TooMany as error:
            if not self._done:
                # Other certificates and another try would change nothing: he is told why, once.
                self._done = True
                self._waiting.clear()
                self.transport.end("too_many", str(error).encode())
        except (CertificateRejected, UnauthorizedLogin) as error:
            if not self._done:
                self._log.debug("login refused: {error}", event="node.login_unreadable", error=error)
                self._refuse()

    async def _answer(self, packet: bytes) -> None:
        """One request: success, PK_OK, or an error that becomes a failure.

        Raises :class:`CertificateRejected` for a packet that is not well formed.
        """
        reader = Reader(packet, "login request")
        user, service, method = reader.string(1024), reader.string(64), reader.string(64)
        self._named = self._named or (user, service)
        if self._named != (user, service):
            # As sshd (RFC 4252 §5 allows it): attempts are counted for one login.
            self._done = True
            self.transport.sendDisconnect(
                transport.DISCONNECT_PROTOCOL_ERROR, b"change of username or service not allowed"
            )
            return
        if method == b"none" and not self._asked:
            # How clients ask for the methods; more than once it is an attempt.
            self._asked = True
            self._send_failure()
            return
        if method != b"publickey" or service != b"ssh-connection":
            self._tried[plain(method, 32)] = None
            raise UnauthorizedLogin("method")
        has_signature = reader.byte()
        if has_signature > 1:
            # The signature covers a 1 here; any other value is not what was signed.
            raise reader.malformed("a truth value that is neither 0 nor 1")
        algorithm, blob = reader.string(64), reader.string(MAX_BLOB)
        signature = reader.string() if has_signature else None
        reader.finish()
        if algorithm not in ALGORITHMS:
            # Plain keys: ssh offers the key itself, too.
            self._tried["plain key"] = None
            raise UnauthorizedLogin("algorithm")
        blob_type, signature_type = ALGORITHMS[algorithm]
        if Reader(blob).string(64) != blob_type:
            raise CertificateRejected("malformed", "algorithm and certificate differ")
        try:
            login = user.decode("utf-8")
        except UnicodeDecodeError:
            raise CertificateRejected("malformed", "a login that is no text") from None
        # The session identifier ties the signature to this connection (RFC 4252 §7).
        signed = (
            wire.string(self.transport.sessionID)
            + bytes((MSG_USERAUTH_REQUEST,))
            + b"".join(map(wire.string, (user, service, method)))
            + b"\x01"
            + wire.string(algorithm)
            + wire.string(blob)
        )
        self._showed_certificate = True
        credentials = CertificateLogin(
            login, blob, signature_type, self.transport.address, signature, signed
        )
        factory = self.transport.factory
        if signature is None:
            await factory.checker.check(credentials)
            if not self._done:
                self.transport.sendPacket(
                    MSG_USERAUTH_PK_OK, wire.string(algorithm) + wire.string(blob)
                )
            return
        changes = factory.changes
        _, avatar, logout = await factory.portal.login(credentials, self.transport, IConchUser)
        if self._done:
            logout()
            return
        self._succeed(avatar, logout)
        if factory.changes != changes:
            # A lock set since this login's policy was read has looked for it in vain.
            factory.policy_changed()

    def _succeed(self, avatar: Any, logout: Any) -> None:
        self._done = True
        self._waiting.clear()
        self._busy = None
        self.transport.avatar = avatar
        self.transport.logoutFunction = logout
        self.transport.authenticated()
        self.transport.sendPacket(MSG_USERAUTH_SUCCESS, b"")
        self.transport.setService(self.transport.factory.connection_service())

    def _refuse(self) -> None:
        """An attempt failed: says so, or ends the connection after too many."""
        self._failures += 1
        if self._failures >= self.transport.factory.settings.max_attempts:
            self._done = True
            self._waiting.clear()
            self.transport.sendDisconnect(
                transport.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, b"too many failed logins"
            )
            return
        self._send_failure()

    def _send_failure(self) -> None:
        self.transport.sendPacket(MSG_USERAUTH_FAILURE, wire.string(b"publickey") + b"\0")
