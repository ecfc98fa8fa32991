"""Packets on the wire: AES-GCM, or AES-CTR with a SHA-2 MAC in either order.

Conch knows only the order of RFC 4253, where the length is decrypted and
believed first.  Here besides: ``…-etm@openssh.com`` (the MAC covers the
ciphertext and is checked before anything is decrypted; OpenSSH's PROTOCOL, 1.5)
and ``aes…-gcm@openssh.com`` (RFC 5647 with OpenSSH's negotiation, PROTOCOL 1.6).
Every length is bounded before anything is kept for it.
"""

from __future__ import annotations

import hmac
import os
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from twisted.conch.ssh import transport
from twisted.conch.ssh.common import ffs
from twisted.conch.ssh.transport import SSHCiphers

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.ssh.conch_private import ConchTransport, write_at_once

CTR = {b"aes256-ctr": 32, b"aes192-ctr": 24, b"aes128-ctr": 16}
GCM = {b"aes256-gcm@openssh.com": 32, b"aes128-gcm@openssh.com": 16}
"""Cipher → length of its key."""
MACS: dict[bytes, tuple[HashAlgorithm, int, bool]] = {
    b"hmac-sha2-256-etm@openssh.com": (SHA256(), 32, True),
    b"hmac-sha2-512-etm@openssh.com": (SHA512(), 64, True),
    b"hmac-sha2-256": (SHA256(), 32, False),
    b"hmac-sha2-512": (SHA512(), 64, False),
}
"""MAC → hash, its length, whether it covers the ciphertext."""

MAX_PACKET = 256 * 1024
"""As OpenSSH's (packet.c, PACKET_MAX_SIZE); RFC 4253 §6.1 asks for 35000 bytes."""
MAX_IDENTIFICATION = 255
"""RFC 4253 §4.2, with its line end."""
SEQUENCE = 2**32
"""Packet numbers wrap here (RFC 4253 §6.4)."""
_BLOCK = 16
MAX_HELD = 32 * 1024
"""Bytes of output that wait for the end of the input at hand."""
_TAG = 16


class BadPacket(Exception):
    """What the peer sends is no packet; the connection ends with this reason."""

    def __init__(self, reason: int, text: bytes) -> None:
        super().__init__(text.decode())
        self.reason = reason
        self.text = text


def _bad_length() -> BadPacket:
    return BadPacket(transport.DISCONNECT_PROTOCOL_ERROR, b"bad packet length")


def _bad_mac() -> BadPacket:
    return BadPacket(transport.DISCONNECT_MAC_ERROR, b"bad MAC")


class _Padding:
    """Random bytes, taken from the system in pieces that are worth the call."""

    _PIECE = 4096

    def __init__(self) -> None:
        self._bytes, self._at = b"", 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._bytes):
            self._bytes, self._at = os.urandom(self._PIECE), 0
        self._at += count
        return self._bytes[self._at - count : self._at]


_padding = _Padding()


def _number(sequence: int) -> bytes:
    return sequence.to_bytes(4, "big")


class Sealing(Protocol):
    """One direction's keys, in use or to be used."""

    block: int
    counted: int
    """How many bytes of the length field are padded with the rest: 4, or 0 where it goes in the clear."""

    def seal(self, sequence: int, packet: bytes) -> bytes:
        """The wire form of *packet*: length, padding length, payload, padding."""

    def size(self, data: bytearray, at: int) -> int | None:
        """How long the packet at *at* is on the wire; ``None`` while too little is there.
        Raises :class:`BadPacket`."""

    def open(self, sequence: int, sealed: bytes) -> bytes:
        """Padding length, payload and padding of a packet of that size.  Raises :class:`BadPacket`."""


def _length(data: bytes | bytearray, at: int, block: int, counted: int) -> int:
    length = int.from_bytes(data[at : at + 4], "big")
    if not 5 < length <= MAX_PACKET or (length + counted) % block:
        raise _bad_length()
    return length


class Clear:
    """Before the first keys."""

    block, counted = 8, 4

    def seal(self, sequence: int, packet: bytes) -> bytes:
        return packet

    def size(self, data: bytearray, at: int) -> int | None:
        return 4 + _length(data, at, 8, 4) if len(data) - at >= 4 else None

    def open(self, sequence: int, sealed: bytes) -> bytes:
        return sealed[4:]


class Gcm:
    """AES-GCM: the length is authenticated, not hidden; the nonce counts packets."""

    block, counted = _BLOCK, 0

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._cipher = AESGCM(key)
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % 2**64
        return nonce

    def seal(self, sequence: int, packet: bytes) -> bytes:
        return packet[:4] + self._cipher.encrypt(self._nonce(), packet[4:], packet[:4])

    def size(self, data: bytearray, at: int) -> int | None:
        return 4 + _length(data, at, _BLOCK, 0) + _TAG if len(data) - at >= 4 else None

    def open(self, sequence: int, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(), sealed[4:], sealed[:4])
        except InvalidTag:
            raise _bad_mac() from None


class _Ctr:
    """AES-CTR with a MAC; one object serves one direction."""

    block = _BLOCK

    def __init__(self, key: bytes, iv: bytes, mac: bytes, mac_key: bytes) -> None:
        # CTR is the same function both ways.
        self._crypt = Cipher(algorithms.AES(key), modes.CTR(iv[:_BLOCK])).encryptor().update
        algorithm, self._mac_size, _ = MACS[mac]
        self._keyed = HMAC(mac_key[: self._mac_size], algorithm)

    def _mac(self, sequence: int, data: bytes) -> bytes:
        # A copy of a keyed one costs half of a new one.
        made = self._keyed.copy()
        made.update(_number(sequence) + data)
        return made.finalize()

    def _check(self, sequence: int, data: bytes, mac: bytes) -> None:
        if not hmac.compare_digest(self._mac(sequence, data), mac):
            raise _bad_mac()


class EncryptThenMac(_Ctr):
    counted = 0

    def seal(self, sequence: int, packet: bytes) -> bytes:
        sealed = packet[:4] + self._crypt(packet[4:])
        return sealed + self._mac(sequence, sealed)

    def size(self, data: bytearray, at: int) -> int | None:
        return 4 + _length(data, at, _BLOCK, 0) + self._mac_size if len(data) - at >= 4 else None

    def open(self, sequence: int, sealed: bytes) -> bytes:
        packet, mac = sealed[: -self._mac_size], sealed[-self._mac_size :]
        self._check(sequence, packet, mac)
        return self._crypt(packet[4:])


class EncryptAndMac(_Ctr):
    """RFC 4253's own order: the first block is decrypted for its length."""

    counted = 4

    def __init__(self, key: bytes, iv: bytes, mac: bytes, mac_key: bytes) -> None:
        super().__init__(key, iv, mac, mac_key)
        self._first = b""

    def seal(self, sequence: int, packet: bytes) -> bytes:
        return self._crypt(packet) + self._mac(sequence, packet)

    def size(self, data: bytearray, at: int) -> int | None:
        if not self._first:
            if len(data) - at < _BLOCK:
                return None
            self._first = self._crypt(bytes(data[at : at + _BLOCK]))
        return 4 + _length(self._first, 0, _BLOCK, 4) + self._mac_size

    def open(self, sequence: int, sealed: bytes) -> bytes:
        packet = self._first + self._crypt(sealed[_BLOCK : -self._mac_size])
        self._first = b""
        self._check(sequence, packet, sealed[-self._mac_size :])
        return packet[4:]


def _direction(cipher: bytes, mac: bytes, iv: bytes, key: bytes, mac_key: bytes) -> Sealing:
    if cipher in GCM:
        return Gcm(key[: GCM[cipher]], iv)
    kind = EncryptThenMac if MACS[mac][2] else EncryptAndMac
    return kind(key[: CTR[cipher]], iv, mac, mac_key)


class Ciphers(SSHCiphers):
    """What was negotiated for both directions; Conch calls :meth:`setKeys` when the keys are known."""

    def setKeys(
        self, outIV: bytes, outKey: bytes, inIV: bytes, inKey: bytes, outInteg: bytes, inInteg: bytes
    ) -> None:
        self.sealing = _direction(self.outCipType, self.outMACType, outIV, outKey, outInteg)
        self.opening = _direction(self.inCipType, self.inMACType, inIV, inKey, inInteg)
        # By these Conch's client knows that the keys are there.
        self.encBlockSize, self.decBlockSize = self.sealing.block, self.opening.block


class PacketFraming(ConchTransport):
    """Frames packets by what was negotiated, and counts them."""

    transport: Any
    nextEncryptions: Any

    def connectionMade(self) -> None:
        self._arrived = bytearray()
        self._is_reading = False
        self._held: list[bytes] = []
        self._held_size = 0
        self._sealing: Sealing = Clear()
        self._opening: Sealing = Clear()
        self.bytes_under_keys = 0
        self.packets_under_keys = 0
        """Both directions together, since the keys were last changed."""
        super().connectionMade()

    def ssh_KEXINIT(self, packet: bytes) -> None:
        super().ssh_KEXINIT(self._with_macs_that_matter(packet))
        # What the exchange's hash covers is what was sent.
        self.otherKexInitPayload = bytes((transport.MSG_KEXINIT,)) + packet
        agreed: SSHCiphers | None = getattr(self, "nextEncryptions", None)
        if agreed is not None:
            self.nextEncryptions = Ciphers(
                agreed.outCipType, agreed.inCipType, agreed.outMACType, agreed.inMACType
            )

    def _with_macs_that_matter(self, packet: bytes) -> bytes:
        """The peer's *packet*, with our MACs where AES-GCM will be used: it needs none, so
        that none need be shared (OpenSSH's PROTOCOL, 1.6), which Conch asks for."""
        reader = Reader(packet[16:], "key exchange")
        lists = [reader.string() for _ in range(10)]
        for ciphers, macs in ((2, 4), (3, 5)):
            ours, theirs = self.supportedCiphers, lists[ciphers].split(b",")
            if ffs(*((ours, theirs) if self.isClient else (theirs, ours))) in GCM:
                lists[macs] = b",".join(self.supportedMACs)
        return packet[:16] + b"".join(map(wire.string, lists)) + reader.rest()

    def take_new_keys(self) -> None:
        self._sealing, self._opening = self.nextEncryptions.sealing, self.nextEncryptions.opening
        self.bytes_under_keys = self.packets_under_keys = 0

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.is_held_up(messageType):
            self.hold_up(messageType, payload)
            return
        block = self._sealing.block
        padding = block - (self._sealing.counted + 2 + len(payload)) % block
        if padding < 4:
            padding += block
        body = bytes((padding, messageType)) + payload + _padding.take(padding)
        sealed = self._sealing.seal(self.outgoingPacketSequence, _number(len(body)) + body)
        if self._is_reading:
            self._held.append(sealed)
            self._held_size += len(sealed)
            if self._held_size > MAX_HELD or messageType == transport.MSG_DISCONNECT:
                self._send_held()
        else:
            self.transport.write(sealed)
        self.outgoingPacketSequence = (self.outgoingPacketSequence + 1) % SEQUENCE
        self._count(len(sealed))

    def _count(self, size: int) -> None:
        self.bytes_under_keys += size
        self.packets_under_keys += 1

    def _send_held(self) -> None:
        """All answers to the input at hand in one call of the system, and at once where
        the socket takes them: Twisted would wait for the reactor's next round."""
        data, self._held, self._held_size = b"".join(self._held), [], 0
        write_at_once(self.transport, data)

    def dataReceived(self, data: bytes) -> None:
        self._arrived += data
        self._is_reading = True
        try:
            if self.gotVersion or self._read_identification():
                self._read_packets()
        except BadPacket as error:
            self._arrived.clear()
            self.sendDisconnect(error.reason, error.text)
        finally:
            self._is_reading = False
            if self._held:
                self._send_held()

    def _read_identification(self) -> bool:
        """Whether the peer's first line is there; it must say who it is at once."""
        end = self._arrived.find(b"\n", 0, MAX_IDENTIFICATION)
        line = bytes(self._arrived[: end if end >= 0 else MAX_IDENTIFICATION])
        good = line[:8] in (b"SSH-2.0-", b"SSH-1.99"[:8]) if len(line) >= 8 else b"SSH-".startswith(line[:4])
        if not good or b"\0" in line or (end < 0 and len(line) == MAX_IDENTIFICATION):
            raise BadPacket(transport.DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED, b"no SSH 2 here")
        if end < 0:
            return False
        if len(line) < 8:
            raise BadPacket(transport.DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED, b"no SSH 2 here")
        self.gotVersion = True
        self.otherVersionString = line.removesuffix(b"\r")
        del self._arrived[: end + 1]
        return True

    def _read_packets(self) -> None:
        at = 0
        try:
            while True:
                size = self._opening.size(self._arrived, at)
                if size is None or len(self._arrived) - at < size:
                    return
                sealed = bytes(self._arrived[at : at + size])
                at += size
                body = self._opening.open(self.incomingPacketSequence, sealed)
                padding = body[0]
                if not 4 <= padding < len(body) - 1:
                    raise BadPacket(transport.DISCONNECT_PROTOCOL_ERROR, b"bad padding")
                self.incomingPacketSequence = (self.incomingPacketSequence + 1) % SEQUENCE
                self._count(size)
                self.dispatchMessage(body[1], body[2 : len(body) - padding])
        finally:
            del self._arrived[:at]
