"""The SSH transport of a server that shows host certificates and keeps strangers in bounds.

What Conch lacks or does otherwise than a node needs, changed by overriding:
host certificates in the key exchange, ``server-sig-algs`` for the *users'*
keys, strict key exchange (OpenSSH's PROTOCOL, 1.10), an order of messages
before authentication, limits of time and memory, and no traceback for what a
stranger sends.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.conch.ssh import transport
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.ssh.conch_private import ConchLog, ConchServer, able_key_exchanges
from mezite.ssh.framing import CTR, GCM, MACS, SEQUENCE, PacketFraming
from mezite.ssh.hostkeys import HostKey

STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"
USER_SIGNATURES = (
    b"ssh-ed25519",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)
_KEX = (
    b"mlkem768x25519-sha256",
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
    b"ecdh-sha2-nistp256",
    b"ecdh-sha2-nistp384",
    b"ecdh-sha2-nistp521",
)
_KEX_INIT = 30
"""ECDH_INIT and the hybrid's INIT; Conch knows the number by its oldest name."""
_ALWAYS = frozenset(
    {
        transport.MSG_DISCONNECT,
        transport.MSG_IGNORE,
        transport.MSG_UNIMPLEMENTED,
        transport.MSG_DEBUG,
    }
)
CLOSE_GRACE_SECONDS = 5
"""How long a peer may take to read our last words."""
REKEY_BYTES = 2**30
REKEY_SECONDS = 3600.0
REKEY_PACKETS = 2**31
"""RFC 4253 §9; numbers of packets never wrap under one set of keys (RFC 4344 §3.1)."""
WITHOUT_NEW_KEYS_BYTES = 2**26
"""What may come of a peer that has been asked for new keys: more than all windows hold that it was given."""
WITHOUT_NEW_KEYS_PACKETS = 2**30
_FIRST_OF_SERVICES = 80
"""Messages from here on belong to a logged-in connection (RFC 4250 §4.1)."""
MAX_BLOCKED = 4096
"""Our messages that may wait for the end of a key exchange."""


def unmapped(host: str) -> str:
    """An IPv4 client's address as such, also on a socket for IPv6, which shows it as ``::ffff:…``."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(found, "ipv4_mapped", None) or host)


def supported_key_exchanges() -> list[bytes]:
    """Ours that this Twisted and this OpenSSL can do, the best first."""
    able = able_key_exchanges()
    return [name for name in _KEX if name in able]


class NodeTransport(PacketFraming, ConchServer):
    """One connection, from its first byte to its last.

    ``factory`` is a :class:`mezite.ssh.server.CertificateFactory`.
    """

    factory: Any
    transport: Any
    # ssh tells only servers of this name that nobody reads their output any more
    # (its compat.c, SSH_NEW_OPENSSH): without it, `ssh node yes | head` never ends.
    ourVersionString = b"SSH-2.0-OpenSSH_Mezite"
    supportedKeyExchanges = supported_key_exchanges()
    supportedCiphers = [*GCM, *CTR]
    supportedMACs = list(MACS)
    supportedCompressions = [b"none"]
    rekey_bytes = REKEY_BYTES
    rekey_packets = REKEY_PACKETS
    rekey_seconds = REKEY_SECONDS
    _log = ConchLog()
    _told = Logger()

    def __init__(self) -> None:
        self._strict = False
        self._first_exchange = True
        self._awaited: int | None = transport.MSG_KEXINIT
        """The message of a key exchange that must come next; ``None`` between exchanges."""
        self._ending = False
        self._reading_paused = False
        self._timer: Any = None
        self._service_given = False
        self._logged_in = False
        self._keys_since = 0.0
        self.key_exchanges = 0
        self.end_reason = ""
        """Stable reason when this side ended the connection."""
        self._host_keys: dict[bytes, HostKey] = {}

    # --- beginning and end -----------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.connection_made(self)
        self._host_keys = self.factory.host_keys()
        self.supportedPublicKeys = list(self._host_keys)
        self._timer = self.factory.reactor.callLater(
            self.factory.settings.login_timeout_seconds, self._login_timed_out
        )
        self.transport.registerProducer(self, True)
        if ITCPTransport.providedBy(self.transport):
            # A peer that vanished without a word is found out in the end.
            self.transport.setTcpKeepAlive(True)
            self.transport.setTcpNoDelay(True)
        super().connectionMade()

    def _login_timed_out(self) -> None:
        self.sendDisconnect(
            transport.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, b"login took too long"
        )

    def dataReceived(self, data: bytes) -> None:
        if not self._ending:
            super().dataReceived(data)

    def authenticated(self) -> None:
        """The login is done: its time limit ends."""
        self._cancel_timer()
        self._logged_in = True
        self.factory.logged_in(self)

    def _cancel_timer(self) -> None:
        try:
            if self._timer is not None:
                self._timer.cancel()
        except (AlreadyCalled, AlreadyCancelled):
            pass
        self._timer = None

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Says why, once, and closes; nothing that arrives afterwards is looked at."""
        if self._ending:
            return
        self._ending = True
        self._cancel_timer()
        # A registered producer would keep the socket from closing.
        self.transport.unregisterProducer()
        super().sendDisconnect(reason, desc)
        if self.service is not None and not self._logged_in:
            # A login that is being decided must not succeed any more.
            self.service.serviceStopped()
        self._timer = self.factory.reactor.callLater(CLOSE_GRACE_SECONDS, self.transport.abortConnection)

    def end(self, reason: str, text: bytes) -> None:
        """Ends the connection from our side; *reason* is the stable code of the audit log.

        What runs in it ends at once, however long the peer takes to hear of it.
        """
        self.end_reason = self.end_reason or reason
        self.sendDisconnect(transport.DISCONNECT_BY_APPLICATION, text)
        if self.service is not None:
            self.service.serviceStopped()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._ending = True
        self._cancel_timer()
        try:
            super().connectionLost(reason)
        finally:
            self.factory.connection_lost(self)

    # --- flow: bounded memory for a peer that does not read ----------------------------------

    @property
    def output_blocked(self) -> bool:
        """Whether sessions should hold their output: the socket is full, or keys change."""
        return self._reading_paused or self.keys_are_changing

    def pauseProducing(self) -> None:
        """The socket's buffer is full.  Reading stops too: most of what a peer
        sends makes an answer, and those must not pile up either."""
        self._reading_paused = True
        self.transport.pauseProducing()
        self._flow_changed()

    def resumeProducing(self) -> None:
        self._reading_paused = False
        if not self._ending:
            self.transport.resumeProducing()
        self._flow_changed()

    def stopProducing(self) -> None:
        self.transport.loseConnection()

    def _flow_changed(self) -> None:
        changed = getattr(self.service, "flow_changed", None)
        if changed is not None:
            changed()

    # --- host keys ---------------------------------------------------------------------------

    def shown_key(self, algorithm: bytes) -> HostKey:
        return self._host_keys[algorithm]

    # --- key exchange ------------------------------------------------------------------------

    def sendKexInit(self) -> None:
        """Offers strict key exchange in the first KEXINIT only.

        The marker never stays in the list of methods, where a client could
        negotiate it as one.
        """
        if self._first_exchange:
            self.supportedKeyExchanges = [*type(self).supportedKeyExchanges, STRICT_SERVER]
        super().sendKexInit()
        self.supportedKeyExchanges = type(self).supportedKeyExchanges
        self._flow_changed()

    def _rekey_if_due(self) -> None:
        """Changes the keys of a logged-in connection in time (RFC 4253 §9).

        Looked at with every packet of a channel: an idle connection needs no
        new keys.  A client that is asleep answers when it wakes, as with sshd:
        until then nothing is made for it, and what it is owed is bounded.
        """
        if self._ending or not self._logged_in:
            return
        if self.keys_are_changing:
            if (
                self.bytes_under_keys >= self.rekey_bytes + WITHOUT_NEW_KEYS_BYTES
                or self.packets_under_keys >= self.rekey_packets + WITHOUT_NEW_KEYS_PACKETS
            ):
                self._break("goes on and on without new keys")
        elif (
            self.bytes_under_keys >= self.rekey_bytes
            or self.packets_under_keys >= self.rekey_packets
            or self.factory.reactor.seconds() - self._keys_since >= self.rekey_seconds
        ):
            self.sendKexInit()

    def ssh_KEXINIT(self, packet: bytes) -> None:
        first_packet = self.incomingPacketSequence == 1
        super().ssh_KEXINIT(packet)
        if self._ending:
            return
        if self._first_exchange:
            offered = Reader(packet[16:], "key exchange").string().split(b",")
            self._strict = STRICT_CLIENT in offered
            if self._strict and not first_packet:
                self._break("strict key exchange: KEXINIT was not the first packet")
                return
        self._awaited = _KEX_INIT

    def keys_agreed(self, *, is_first: bool) -> None:
        self._awaited = transport.MSG_NEWKEYS
        if is_first:
            # Which signatures users may make (RFC 8308 §3.1).
            self.sendExtInfo([(b"server-sig-algs", b",".join(USER_SIGNATURES))])

    def take_new_keys(self) -> None:
        self._awaited = None
        self._first_exchange = False
        self.key_exchanges += 1
        self._keys_since = self.factory.reactor.seconds()
        if self._strict:
            self.incomingPacketSequence = 0
        super().take_new_keys()

    def new_keys_taken(self) -> None:
        self._flow_changed()

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self._awaited == transport.MSG_NEWKEYS and messageType in _ALWAYS:
            # Between our NEWKEYS and the peer's, Conch would still use the old keys.
            return
        super().sendPacket(messageType, payload)
        if messageType == transport.MSG_NEWKEYS and self._strict:
            self.outgoingPacketSequence = 0
        if self.held_up > MAX_BLOCKED:
            self._break("asks on and on in a key exchange")
        elif messageType >= _FIRST_OF_SERVICES:
            self._rekey_if_due()

    # --- messages ----------------------------------------------------------------------------

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hands on what may come now; all else ends the connection, without traceback."""
        if self._ending:
            return
        why = self._out_of_order(messageNum)
        if why is not None:
            self._break(why)
            return
        try:
            super().dispatchMessage(messageNum, payload)
        except Exception as error:
            self._told.debug(
                "message {number} failed",
                event="node.message_failed", number=messageNum, log_failure=Failure(),
            )
            self._break(f"malformed message {messageNum} ({type(error).__name__})")
        if messageNum >= _FIRST_OF_SERVICES:
            self._rekey_if_due()

    def _out_of_order(self, number: int) -> str | None:
        """Why the message *number* may not come now (RFC 4253 §7.1; strict key exchange)."""
        if number in _ALWAYS:
            quiet = self._strict and self._first_exchange and number != transport.MSG_DISCONNECT
            return f"message {number} inside a strict key exchange" if quiet else None
        if number == transport.MSG_KEXINIT:
            allowed = self._awaited in (None, transport.MSG_KEXINIT)
        elif number == transport.MSG_NEWKEYS or 30 <= number <= 49:
            allowed = number == self._awaited
        else:
            # Who has sent its KEXINIT sends nothing else before its NEWKEYS.
            allowed = self._awaited is None
        return None if allowed else f"message {number} out of order"

    def _break(self, why: str) -> None:
        broken = self.factory.broken
        if self._logged_in or broken.is_told():
            self._told.info(
                "{peer}: connection ended: {why}{more}",
                event="node.connection_ended", peer=self.address, why=plain(why, 200),
                more="" if self._logged_in else broken.left_out(),
            )
        self.sendDisconnect(transport.DISCONNECT_PROTOCOL_ERROR, b"protocol error")

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """User authentication, once: a second one could swap the user of a live connection."""
        reader = Reader(packet, "service request")
        name = reader.string(64)
        reader.finish()
        if name != b"ssh-userauth" or self._service_given:
            self.sendDisconnect(transport.DISCONNECT_SERVICE_NOT_AVAILABLE, b"no such service now")
            return
        self._service_given = True
        super().ssh_SERVICE_REQUEST(packet)

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """Nothing that a client announces matters here."""

    def sendUnimplemented(self) -> None:
        """Conch names the packet after the one that it did not know."""
        number = (self.incomingPacketSequence - 1) % SEQUENCE
        self.sendPacket(transport.MSG_UNIMPLEMENTED, number.to_bytes(4, "big"))

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        self._told.debug(
            "{peer} disconnected: {code} {text}", event="node.client_disconnected",
            peer=self.address, code=reasonCode, text=plain(description, 200),
        )

    def receiveUnimplemented(self, seqnum: int) -> None:
        pass

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        pass

    @property
    def address(self) -> str | None:
        """The peer's IP address, or ``None`` where it has none."""
        host = getattr(self.transport.getPeer(), "host", None)
        return None if host is None else unmapped(host)

