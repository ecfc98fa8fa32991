"""A raw SSH client, joined to a node in memory: sends what it is told, right or wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.conch.ssh.transport import MSG_NEWKEYS, SSHClientTransport
from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect

from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from mezite.ssh.framing import PacketFraming
from mezite.ssh.transport import STRICT_CLIENT
from mezite.ssh.userauth import ALGORITHMS
from tests.ssh.node import FakeAccess, node_factory, user_certificate

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SUBJECT = keys.generate_key()
SUBJECT_BLOB = keys.public_blob(SUBJECT)
CERTIFICATE = user_certificate(SUBJECT_BLOB, at=START)

SERVICE_REQUEST, SERVICE_ACCEPT, IGNORE = 5, 6, 2
REQUEST, FAILURE, SUCCESS, PK_OK = 50, 51, 52, 60


class RawClient(PacketFraming, SSHClientTransport):
    """Conch's client transport up to the keys; then packets as lists."""

    def __init__(
        self, *, strict: bool = False, mac: bytes = b"hmac-sha2-256", cipher: bytes = b"aes256-ctr",
        host_key: bytes = b"ssh-ed25519", kex: bytes | None = None,
    ) -> None:
        self.strict = strict
        self.supportedMACs = [mac]
        self.supportedCiphers = [cipher]
        self.supportedPublicKeys = [host_key]
        if kex is not None:
            self.supportedKeyExchanges = [kex]
        self.received: list[tuple[int, bytes]] = []
        self.disconnected: bytes | None = None
        self.lost = False
        self.unimplemented: list[int] = []

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Any:
        return succeed(True)

    def connectionSecure(self) -> None:
        pass

    def sendKexInit(self) -> None:
        kinds = self.supportedKeyExchanges
        if self.strict and self.sessionID is None:
            self.supportedKeyExchanges = [*kinds, STRICT_CLIENT]
        super().sendKexInit()
        self.supportedKeyExchanges = kinds

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        super().sendPacket(messageType, payload)
        if messageType == MSG_NEWKEYS and self.strict:
            self.outgoingPacketSequence = 0

    def _newKeys(self) -> None:
        if self.strict:
            self.incomingPacketSequence = 0
        super()._newKeys()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum >= 50 or messageNum == SERVICE_ACCEPT:
            self.received.append((messageNum, payload))
        else:
            super().dispatchMessage(messageNum, payload)

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        self.disconnected = description

    def receiveUnimplemented(self, seqnum: int) -> None:
        self.unimplemented.append(seqnum)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class Wire:
    """One connection between a :class:`RawClient` and a node."""

    def __init__(
        self, access: FakeAccess | None = None, *, strict: bool = False, address: str = "192.0.2.7",
        factory: Any = None, greet: bool = True, client: dict[str, bytes] | None = None, **settings: Any
    ) -> None:
        """*client* goes to the client, *settings* to the node."""
        self.access = access or FakeAccess()
        self.clock = factory.reactor if factory is not None else Clock()
        self.factory = factory or node_factory(self.access, self.clock, self.now, **settings)
        self.server = self.factory.buildProtocol(None)
        self.client = RawClient(strict=strict, **(client or {}))
        peer = IPv4Address("TCP", address, 50000)
        self.server_io = FakeTransport(self.server, True, IPv4Address("TCP", "192.0.2.1", 22), peer)
        self.pump: IOPump = connect(
            self.server, self.server_io, self.client, FakeTransport(self.client, False),
            greet=greet, clock=self.clock,
        )

    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock.seconds())

    def send(self, number: int, *parts: bytes) -> list[tuple[int, bytes]]:
        """Sends one packet, and gives what came back until all was quiet."""
        self.client.received.clear()
        self.client.sendPacket(number, b"".join(parts))
        self.pump.flush(advanceClock=False)
        return list(self.client.received)

    def numbers(self, number: int, *parts: bytes) -> list[int]:
        return [one for one, _ in self.send(number, *parts)]

    def start_userauth(self) -> Wire:
        assert self.numbers(SERVICE_REQUEST, wire.string(b"ssh-userauth")) == [SERVICE_ACCEPT]
        return self

    def request(
        self, blob: bytes = CERTIFICATE, *, algorithm: bytes | None = None, login: bytes = b"deploy",
        signer: keys.PrivateKey | None = SUBJECT, signature: bytes | None = None,
        session: bytes | None = None, service: bytes = b"ssh-connection",
    ) -> bytes:
        """A login request; without *signer* and *signature* a probe."""
        kind = Reader(blob).string()
        name = algorithm or kind.replace(b"ssh-rsa-", b"rsa-sha2-512-")
        head = wire.string(login) + wire.string(service) + wire.string(b"publickey")
        tail = wire.string(name) + wire.string(blob)
        if signer is None and signature is None:
            return head + b"\0" + tail
        if signature is None:
            assert signer is not None
            identifier = session or self.client.sessionID or b""
            signed = wire.string(identifier) + bytes([REQUEST]) + head + b"\1" + tail
            wanted = ALGORITHMS[name][1] if name in ALGORITHMS else None
            signature = keys.sign(signer, signed, wanted if wanted and wanted.startswith(b"rsa") else None)
        return head + b"\1" + tail + wire.string(signature)

    def log_in(self, **how: Any) -> Wire:
        self.start_userauth()
        assert self.numbers(REQUEST, self.request(**how)) == [SUCCESS]
        return self

    def reasons(self) -> list[str]:
        return [event.reason for event in self.access.events]

    def settle(self) -> None:
        """Everything that is still on its way arrives."""
        self.pump.flush(advanceClock=False)
