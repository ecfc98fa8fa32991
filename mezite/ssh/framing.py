"""Encrypt-then-MAC packets (``…-etm@openssh.com``, OpenSSH's PROTOCOL §1.5).

The MAC covers the ciphertext and is checked before anything is decrypted; the
length goes in the clear.  Conch knows only the order of RFC 4253, where the
length is decrypted and believed first.
"""

from __future__ import annotations

import os
from hashlib import sha256, sha512
from typing import Any

from twisted.conch.ssh import transport
from twisted.conch.ssh.transport import SSHCiphers, SSHTransportBase

ETM = {b"hmac-sha2-256-etm@openssh.com": sha256, b"hmac-sha2-512-etm@openssh.com": sha512}
# Only makes the names known: each transport offers what is in its own supportedMACs.
SSHCiphers.macMap = {**SSHCiphers.macMap, **ETM}

MAX_PACKET = 256 * 1024
"""As OpenSSH's (packet.c, PACKET_MAX_SIZE); RFC 4253 §6.1 asks for 35000 bytes."""
PRIVATE_NAMES: dict[Any, tuple[str, ...]] = {
    SSHTransportBase: (
        "_keyExchangeState", "_KEY_EXCHANGE_NONE", "_allowedKeyExchangeMessageType",
        "_blockedByKeyExchange",
    ),
    SSHCiphers: ("macMap", "makeMAC", "verify", "encrypt", "decrypt"),
}


class EtmFraming(SSHTransportBase):
    """Frames packets by what was negotiated for each direction."""

    transport: Any

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        ciphers = self.currentEncryptions
        if ciphers.outMACType not in ETM:
            super().sendPacket(messageType, payload)
            return
        changing = self._keyExchangeState != self._KEY_EXCHANGE_NONE
        if changing and not self._allowedKeyExchangeMessageType(messageType):
            self._blockedByKeyExchange.append((messageType, payload))
            return
        block = ciphers.encBlockSize
        padding = block - (2 + len(payload)) % block
        if padding < 4:
            padding += block
        body = bytes((padding, messageType)) + payload + os.urandom(padding)
        packet = len(body).to_bytes(4, "big") + ciphers.encrypt(body)
        self.transport.write(packet + ciphers.makeMAC(self.outgoingPacketSequence, packet))
        self.outgoingPacketSequence += 1

    def getPacket(self) -> bytes | None:
        """The next whole packet's payload, or ``None``; a wrong one ends the connection."""
        ciphers = self.currentEncryptions
        if ciphers.inMACType not in ETM:
            found: bytes | None = super().getPacket()
            return found
        if len(self.buf) < 4:
            return None
        length = int.from_bytes(self.buf[:4], "big")
        if length > MAX_PACKET or length % ciphers.decBlockSize or not length:
            self.sendDisconnect(transport.DISCONNECT_PROTOCOL_ERROR, b"bad packet length")
            return None
        end, size = 4 + length, ciphers.verifyDigestSize
        if len(self.buf) < end + size:
            return None
        packet, code = self.buf[:end], self.buf[end : end + size]
        if not ciphers.verify(self.incomingPacketSequence, packet, code):
            self.sendDisconnect(transport.DISCONNECT_MAC_ERROR, b"bad MAC")
            return None
        self.buf = self.buf[end + size :]
        body = ciphers.decrypt(packet[4:])
        padding = body[0]
        if not 4 <= padding < length - 1:
            self.sendDisconnect(transport.DISCONNECT_PROTOCOL_ERROR, b"bad padding")
            return None
        self.incomingPacketSequence += 1
        return bytes(body[1 : length - padding])
