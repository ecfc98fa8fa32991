"""All private names of Conch that this package uses, each behind a public one.

Conch has no hooks for host certificates on either side, for the signatures that it
announces, or for the moment when keys change.  :data:`PRIVATE_NAMES` is checked by a test, so that
a Twisted that moves one is noticed there.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.conch.ssh import _kex
from twisted.conch.ssh.transport import SSHClientTransport, SSHServerTransport, SSHTransportBase
from twisted.internet.tcp import Connection
from twisted.logger import Logger

from mezite.certs import wire
from mezite.certs.wire import Reader

PRIVATE_NAMES: dict[Any, tuple[str, ...]] = {
    SSHTransportBase: (
        "_keyExchangeState", "_KEY_EXCHANGE_NONE", "_allowedKeyExchangeMessageType",
        "_blockedByKeyExchange", "_newKeys", "_keySetup", "_log",
    ),
    SSHServerTransport: ("_getHostKeys", "_keySetup"),
    SSHClientTransport: (
        "_ssh_KEX_ECDH_REPLY", "_generateECSharedSecret", "_encodeECPublicKey", "_keySetup",
    ),
    _kex: ("getSupportedKeyExchanges", "getHashProcessor", "isEllipticCurve", "isPQHybrid"),
    Connection: ("dataBuffer", "writeSomeData"),  # and its instances' _tempDataLen
}


class ShownKey(Protocol):
    """A host key as Conch's key exchange uses it."""

    def blob(self) -> bytes: ...
    def sign(self, data: bytes, signatureType: bytes | None = None) -> bytes: ...


class ConchLog(Logger):
    """For Conch's own lines: each step of each connection, which nobody asked for
    and which cost more than the step.  Warnings and errors pass."""

    def __get__(self, instance: Any, owner: Any = None) -> Logger:
        return self

    def debug(self, format: str | None = None, **fields: object) -> None: ...
    def info(self, format: str | None = None, **fields: object) -> None: ...


class ConchTransport(SSHTransportBase):
    """Either side's transport: what a key exchange holds up, and when keys change."""

    @property
    def keys_are_changing(self) -> bool:
        """From a KEXINIT, ours or the peer's, to the new keys."""
        return self._keyExchangeState != self._KEY_EXCHANGE_NONE

    def is_held_up(self, messageType: int) -> bool:
        """Whether a message of this type waits for the end of the key exchange under way."""
        return self.keys_are_changing and not self._allowedKeyExchangeMessageType(messageType)

    def hold_up(self, messageType: int, payload: bytes) -> None:
        """It is sent under the new keys."""
        self._blockedByKeyExchange.append((messageType, payload))

    @property
    def held_up(self) -> int:
        """How many messages wait."""
        return len(self._blockedByKeyExchange or ())

    def _newKeys(self) -> None:
        self.take_new_keys()
        super()._newKeys()
        self.new_keys_taken()

    def take_new_keys(self) -> None:
        """Both sides have sent NEWKEYS; what waits is sent after this."""

    def new_keys_taken(self) -> None:
        """The exchange is over."""


class ConchServer(ConchTransport, SSHServerTransport):
    """A server's transport: its host keys, and what it says when keys are agreed upon."""

    def shown_key(self, algorithm: bytes) -> ShownKey:
        """The host key for an algorithm of ``supportedPublicKeys``."""
        raise NotImplementedError

    def keys_agreed(self, *, is_first: bool) -> None:
        """Our NEWKEYS has been sent; the peer's is awaited."""

    def _getHostKeys(self, keyAlg: bytes) -> tuple[ShownKey, ShownKey]:  # type: ignore[override]  # duck
        key = self.shown_key(keyAlg)
        return key, key

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        # Not SSHServerTransport's, which announces the host key's algorithms for users' signatures.
        is_first = self.sessionID is None
        SSHTransportBase._keySetup(self, sharedSecret, exchangeHash)
        self.keys_agreed(is_first=is_first)


class ConchClient(ConchTransport, SSHClientTransport):
    """A client's transport: what the server shows and signs comes to one hook.

    Only for the elliptic-curve exchanges of :func:`able_client_key_exchanges`.
    """

    ecPub: Any
    ecPriv: Any

    def check_host(self, shown: bytes, signature: bytes, exchange_hash: bytes) -> None:
        """Returns when *signature* over *exchange_hash* is of the host that *shown*, its
        key or certificate, must prove; raises otherwise.  Nothing was said to it yet."""
        raise NotImplementedError

    def _ssh_KEX_ECDH_REPLY(self, packet: bytes) -> None:
        # Written anew: Conch's can read a plain key only, and never pins the signature's type.
        reader = Reader(packet, "key exchange")
        shown, theirs, signature = reader.string(), reader.string(256), reader.string()
        reader.finish()
        secret = self._generateECSharedSecret(self.ecPriv, theirs)
        made = _kex.getHashProcessor(self.kexAlg)()
        for part in (
            self.ourVersionString, self.otherVersionString, self.ourKexInitPayload,
            self.otherKexInitPayload, shown, self._encodeECPublicKey(self.ecPub), theirs,
        ):
            made.update(wire.string(part))
        made.update(secret)
        self.check_host(shown, signature, made.digest())
        self._keySetup(secret, made.digest())


def able_client_key_exchanges() -> list[bytes]:
    """Those of :func:`able_key_exchanges` that :class:`ConchClient` can do."""
    return [
        name for name in _kex.getSupportedKeyExchanges()
        if _kex.isEllipticCurve(name) and not _kex.isPQHybrid(name)
    ]


def able_key_exchanges() -> list[bytes]:
    """What this Twisted and this OpenSSL can do."""
    return list(_kex.getSupportedKeyExchanges())


def write_at_once(transport: Any, data: bytes) -> None:
    """Writes to the socket now, where nothing waits before it; the rest, and to other
    kinds of transports, as always."""
    can_write = isinstance(transport, Connection) and transport.connected
    if can_write and not transport.dataBuffer and not transport._tempDataLen:
        sent = transport.writeSomeData(data)
        if isinstance(sent, int):
            data = data[sent:]
    if data:
        transport.write(data)
