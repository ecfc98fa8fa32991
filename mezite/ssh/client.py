"""Conch as a client that logs in with an OpenSSH certificate, to hosts that show one.

Conch's own client knows neither.  As much of it as can be stays; what differs is
the key exchange's end (the host's certificate), strict key exchange, and user
authentication (one request by certificate, signed at once, and no other).
"""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct
from twisted.conch.ssh import transport
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.userauth import MSG_USERAUTH_REQUEST, SSHUserAuthClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX, Certificate, parse_certificate
from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.errors import CertificateRejected, MeziteError, PermissionDenied, Unreachable
from mezite.ssh.conch_private import ConchClient, ConchLog, able_client_key_exchanges
from mezite.ssh.framing import CTR, GCM, MACS, PacketFraming
from mezite.ssh.transport import STRICT_CLIENT, STRICT_SERVER
from mezite.ssh.userauth import ALGORITHMS

_KEX = (
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
    b"ecdh-sha2-nistp256",
    b"ecdh-sha2-nistp384",
    b"ecdh-sha2-nistp521",
)
HOST_KEYS = tuple(
    kind + SUFFIX
    for kind in (
        keys.ED25519,
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"rsa-sha2-512",
        b"rsa-sha2-256",
    )
)
"""Of certificates alone: a host without one cannot be told from a stranger."""


class Credentials(Protocol):
    """What a login needs; :class:`mezite.client.Credential` is it."""

    @property
    def certificate_blob(self) -> bytes:
        """The user certificate."""

    def sign(self, data: bytes) -> bytes:
        """The signature blob by the certified key."""

    def check_host(self, certificate: bytes, host: str) -> Certificate:
        """The host certificate, when it proves *host*; raises :class:`CertificateRejected`."""


class CommandsOf(Struct, frozen=True):
    """What Conch's ``SSHCommandClientEndpoint.existingConnection`` asks of a transport's ``creator``."""

    username: bytes
    command: bytes = b""


class CertificateClient(PacketFraming, ConchClient):
    """One connection; ``opened`` fires with its :class:`SSHConnection` after the login.

    It fails with :class:`CertificateRejected` when the host does not prove to be
    *host* (nothing was said to it), :class:`PermissionDenied` when it refuses the
    *login*, and :class:`Unreachable` when the connection ends before that.
    """

    transport: Any
    supportedKeyExchanges = [name for name in _KEX if name in able_client_key_exchanges()]
    supportedPublicKeys = list(HOST_KEYS)
    supportedCiphers = [*GCM, *CTR]
    supportedMACs = list(MACS)
    supportedCompressions = [b"none"]
    _log = ConchLog()

    def __init__(self, credentials: Credentials, login: str, host: str) -> None:
        self.opened: Deferred[SSHConnection] = Deferred(self._cancelled)
        self._credentials = credentials
        self.login = login
        self.host = host
        self.creator = CommandsOf(login.encode())
        self._strict = False
        self._shown = b""
        """The certificate of the first key exchange; a later one must show the same."""
        self._is_open = False
        self._failed: MeziteError | None = None

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        super().connectionLost(reason)
        self._end(self._failed or Unreachable(f"{self.host} ended the connection before the login was done"))

    def _cancelled(self, opened: Deferred[SSHConnection]) -> None:
        self.transport.abortConnection()

    def _end(self, error: MeziteError) -> None:
        if not self._is_open and not self.opened.called:
            self.opened.errback(error)

    def fail(self, error: MeziteError, reason: int) -> None:
        """Ends the connection, and tells whoever waits for it why."""
        if self._failed is None:
            self._failed = error
            self.sendDisconnect(reason, b"")
            self._end(error)

    def open(self, connection: SSHConnection) -> None:
        """The login is done."""
        self._is_open = True
        self.opened.callback(connection)

    # --- key exchange ------------------------------------------------------------------------

    def sendKexInit(self) -> None:
        """Offers strict key exchange in the first KEXINIT only; the marker is no method."""
        if self.sessionID is None:
            self.supportedKeyExchanges = [*type(self).supportedKeyExchanges, STRICT_CLIENT]
        super().sendKexInit()
        self.supportedKeyExchanges = type(self).supportedKeyExchanges

    def ssh_KEXINIT(self, packet: bytes) -> None:
        if self.sessionID is None:
            offered = Reader(packet[16:], "key exchange").string().split(b",")
            self._strict = STRICT_SERVER in offered
            if self._strict and self.incomingPacketSequence != 1:
                raise Reader(b"", "key exchange").malformed("KEXINIT was not the first packet")
        super().ssh_KEXINIT(packet)

    def check_host(self, shown: bytes, signature: bytes, exchange_hash: bytes) -> None:
        if self._shown:
            if shown != self._shown:
                raise CertificateRejected("wrong_principal", f"{self.host} has become another host")
            certificate = parse_certificate(shown)
        else:
            certificate = self._credentials.check_host(shown, self.host)
        blob_type, signature_type = ALGORITHMS[self.keyAlg]
        if certificate.type_name != blob_type:
            raise CertificateRejected("malformed", "algorithm and host certificate differ")
        keys.verify(certificate.subject_blob, signature, exchange_hash, algorithm=signature_type)
        self._shown = shown

    def take_new_keys(self) -> None:
        super().take_new_keys()
        if self._strict:
            self.incomingPacketSequence = 0

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        super().sendPacket(messageType, payload)
        if messageType == transport.MSG_NEWKEYS and self._strict:
            self.outgoingPacketSequence = 0

    def connectionSecure(self) -> None:
        """After each key exchange; the first one is followed by the login."""
        if not self._is_open:
            self.requestService(CertificateAuth(self.login, SSHConnection(), self._credentials))

    # --- messages ----------------------------------------------------------------------------

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if self._failed is not None:
            return
        try:
            if self._strict and self.sessionID is None and not _is_of_exchange(messageNum):
                raise Reader(b"", "key exchange").malformed(f"message {messageNum} inside a strict one")
            super().dispatchMessage(messageNum, payload)
        except CertificateRejected as error:
            self.fail(error, transport.DISCONNECT_HOST_KEY_NOT_VERIFIABLE)
        except Exception as error:
            if self._is_open:
                raise  # of the program's own channels
            what = f"{self.host} sent a malformed message {messageNum} ({type(error).__name__})"
            self.fail(Unreachable(what), transport.DISCONNECT_PROTOCOL_ERROR)

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        self._failed = self._failed or Unreachable(
            f"{self.host} ended the connection: {plain(description, 200)} ({reasonCode})"
        )

    def receiveUnimplemented(self, seqnum: int) -> None: ...
    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None: ...


def _is_of_exchange(number: int) -> bool:
    known = (transport.MSG_DISCONNECT, transport.MSG_KEXINIT, transport.MSG_NEWKEYS)
    return number in known or 30 <= number <= 49


class CertificateAuth(SSHUserAuthClient):
    """``ssh-userauth`` by one certificate: a signed request, without a question before it.

    ``transport`` is a :class:`CertificateClient`.
    """

    transport: Any

    def __init__(self, login: str, connection: SSHConnection, credentials: Credentials) -> None:
        super().__init__(login.encode(), connection)
        self._credentials = credentials

    def serviceStarted(self) -> None:
        blob = self._credentials.certificate_blob
        kind = parse_certificate(blob).key_type
        algorithm = (b"rsa-sha2-512" if kind == keys.RSA else kind) + SUFFIX
        shown = b"\x01" + wire.string(algorithm) + wire.string(blob)
        # The session identifier ties the signature to this connection (RFC 4252 §7).
        signed = (
            wire.string(self.transport.sessionID)
            + bytes((MSG_USERAUTH_REQUEST,))
            + b"".join(map(wire.string, (self.user, self.instance.name, b"publickey")))
            + shown
        )
        self.askForAuth(b"publickey", shown + wire.string(self._credentials.sign(signed)))

    def ssh_USERAUTH_SUCCESS(self, packet: bytes) -> None:
        super().ssh_USERAUTH_SUCCESS(packet)
        self.transport.open(self.instance)

    def ssh_USERAUTH_FAILURE(self, packet: bytes) -> None:
        client = self.transport
        client.fail(
            PermissionDenied(f"{client.host} does not let {client.login} in with this certificate"),
            transport.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
        )

    def ssh_USERAUTH_BANNER(self, packet: bytes) -> None:
        """For people."""
