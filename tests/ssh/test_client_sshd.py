"""Conch as a client with a certificate, before OpenSSH's sshd with host certificates."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.conch.ssh.connection import SSHConnection
from twisted.python.failure import Failure

from mezite.certs import keys, ssh
from mezite.errors import CertificateRejected, PermissionDenied
from mezite.ssh.client import CertificateClient
from tests.ssh.matrix.packing import CAS, KEYS, LOGIN
from tests.ssh.matrix.servers import SSHD, TIMEOUT, Sshd
from tests.ssh.node import host_certificate, user_certificate
from tests.ssh.test_client import Holder

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: openssh-server)")
HOSTS: dict[str, Any] = {"ed25519": keys.generate_ca_key(), "p256": keys.generate_key(), "rsa": KEYS["rsa"]}


class BlockingSocket:
    """What the client needs of a transport."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.write = self.socket.sendall
        self.is_open = True

    def loseConnection(self) -> None:
        self.is_open = False


def outcome(
    port: int, *, login: str = LOGIN, host: str = "node1", kind: str = "p256",
    client: type[CertificateClient] = CertificateClient,
) -> Any:
    """The connection, or the error that came of it."""
    key = KEYS[kind]
    blob = user_certificate(keys.public_blob(key), CAS["ed25519"], principals=(LOGIN,))
    holder = Holder(lambda: datetime.now(UTC), key, blob)
    made = client(holder, login, host)
    found: list[Any] = []
    made.opened.addBoth(found.append)
    io = BlockingSocket(port)
    with io.socket:
        made.makeConnection(io)  # type: ignore[arg-type]  # a part of a transport
        while not found:
            data = io.socket.recv(65536)
            assert data, "sshd has hung up"
            made.dataReceived(data)
    return found[0].value if isinstance(found[0], Failure) else found[0]


@pytest.fixture(scope="module", params=HOSTS)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory, key = tmp_path_factory.mktemp("sshd"), HOSTS[request.param]
    private, certificate = directory / "key", directory / "key-cert.pub"
    _write(private, keys.private_to_openssh(key, "host"))
    _write(certificate, ssh.certificate_line(host_certificate(key=key)).encode() + b"\n")
    server = Sshd(directory, CAS.values(), HostKey=private, HostCertificate=certificate)
    try:
        if not server.is_up or not isinstance(outcome(server.port), SSHConnection):
            pytest.skip("this sshd does not start here, or lets nobody in")
        yield server.port
    finally:
        server.close()


def _write(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_logs_in(port: int, kind: str) -> None:
    assert isinstance(outcome(port, kind=kind), SSHConnection)


@pytest.mark.parametrize("cipher", [b"aes128-gcm@openssh.com", b"aes256-ctr"])
@pytest.mark.parametrize("exchange", CertificateClient.supportedKeyExchanges)
def test_what_sshd_speaks(port: int, cipher: bytes, exchange: bytes) -> None:
    class Narrow(CertificateClient):
        supportedKeyExchanges = [exchange]
        supportedCiphers = [cipher]

    assert isinstance(outcome(port, client=Narrow), SSHConnection)


def test_another_host_is_told_nothing(port: int) -> None:
    found = outcome(port, host="node2")
    assert isinstance(found, CertificateRejected)
    assert found.code == "wrong_principal"


def test_another_login_is_refused(port: int) -> None:
    assert isinstance(outcome(port, login="nobody"), PermissionDenied)
