"""A TLS certificate from elsewhere: what gRPC can serve with is taken, the rest is told in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.logger import capturedLogs

from mezite.errors import UsageError
from mezite.rpc.leaf import LeafFiles
from mezite.rpc.service import LeafSource
from tests.certs.making import KEYS, rsa_key
from tests.rpc.test_leaf import presented

NOW = datetime(2026, 3, 24, 14, tzinfo=UTC)
CA_KEY = ec.generate_private_key(ec.SECP256R1())


def clock() -> datetime:
    return NOW


def certificate(key: Any, *, days: tuple[int, int] = (-1, 30)) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mezite.example.com")])
    return (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1])).sign(CA_KEY, hashes.SHA256())
    )


def pem(*chain: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def private(key: Any, encryption: Any = None, form: Any = PrivateFormat.PKCS8) -> bytes:
    written: bytes = key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
    return written


def told(logs: Sequence[Any]) -> list[tuple[str, str]]:
    """The events that have names, with what they say."""
    return [(one["event"], one.get("why") or one["found"]) for one in logs if one.get("event")]


class Files:
    def __init__(self, folder: Path) -> None:
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        self._age = 0

    def put(self, chain: bytes | None = None, key: bytes | None = None) -> None:
        self._age += 1
        for path, content in ((self.chain, chain), (self.key, key)):
            if content is not None:
                path.write_bytes(content)
                os.utime(path, ns=(self._age, self._age))

    def read(self) -> LeafFiles:
        return LeafFiles(self.chain, self.key, clock)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


P256, OTHER = KEYS["p256"], ec.generate_private_key(ec.SECP256R1())
LEAF, CA = certificate(P256), certificate(CA_KEY)


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_grpc_serves_with_each_kind_that_is_taken(files: Files, kind: str) -> None:
    leaf = certificate(KEYS[kind])
    form = PrivateFormat.PKCS8 if kind == "ed25519" else PrivateFormat.TraditionalOpenSSL
    # As editors of another system leave them: gRPC's library takes none of that.
    mark = b"\xef\xbb\xbf"
    files.put(mark + pem(leaf, CA).replace(b"\n", b"\r\n"), mark + private(KEYS[kind], form=form))
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    port = server.add_secure_port("127.0.0.1:0", LeafSource(files.read().current).credentials())
    server.start()
    try:
        assert presented(port) == leaf
    finally:
        server.stop(None).wait(30)


@pytest.mark.parametrize(
    ("chain", "key", "told"),
    [
        (pem(LEAF), private(OTHER), "key.pem is not the key of .*chain.pem"),
        (pem(CA, LEAF), private(P256), "the server's own certificate has to come first"),
        (pem(LEAF), private(P256, BestAvailableEncryption(b"secret")), "key.pem has a passphrase"),
        (pem(LEAF), private(P256, form=PrivateFormat.OpenSSH), "key.pem is no private key in PEM"),
        (pem(LEAF), pem(LEAF), "key.pem is no private key in PEM"),
        (private(P256), private(P256), "chain.pem is no chain of certificates in PEM"),
        (LEAF.public_bytes(Encoding.DER), private(P256), "chain.pem is no chain of certificates in PEM"),
        (b"", b"", "chain.pem is no chain of certificates in PEM"),
        (pem(LEAF) + b" " * (1 << 20), private(P256), "chain.pem is longer than 1 MiB"),
    ],
)
def test_what_is_no_pair_is_told_apart(files: Files, chain: bytes, key: bytes, told: str) -> None:
    files.put(chain, key)
    with pytest.raises(UsageError, match=f"^auth.tls: .*{told}") as caught:
        files.read()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "make", [lambda: dsa.generate_private_key(2048), lambda: ec.generate_private_key(ec.SECP256K1())]
)
def test_a_key_that_tls_has_no_use_for_is_refused(files: Files, make: Callable[[], Any]) -> None:
    key = make()
    files.put(pem(certificate(key)), private(key))
    with pytest.raises(UsageError, match="of a kind that TLS has no use for"):
        files.read()


def test_what_is_no_file_is_not_waited_for(files: Files) -> None:
    """The reactor reads them again each minute."""
    files.put(pem(LEAF), private(P256))
    held = files.read()
    files.key.unlink()
    os.mkfifo(files.key)
    with capturedLogs() as logs:
        held.refresh()
        assert told(logs) == [("tls.unreadable", f"auth.tls: {files.key} is no file")]
    files.chain.unlink()
    with pytest.raises(UsageError, match=r"chain\.pem: No such file or directory"):
        files.read()
    files.chain.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"chain\.pem is no file"):
        files.read()


def test_files_that_are_replaced_one_after_the_other_are_taken_together(files: Files) -> None:
    """In between the pair before them is served with, and that is told once."""
    files.put(pem(LEAF), private(P256))
    held = files.read()
    before = held.current()
    key = rsa_key()
    with capturedLogs() as logs:
        files.put(chain=pem(certificate(key)))
        held.refresh()
        held.refresh()
        assert held.current() == before
        assert [event for event, _ in told(logs)] == ["tls.unreadable"]
        files.put(key=private(key))
        held.refresh()
    assert held.current() == (private(key), files.chain.read_bytes())
    assert len(told(logs)) == 1


@pytest.mark.parametrize(("days", "found"), [((-30, -1), "ended at 2026-03-23T14:00:00Z"),
                                             ((1, 30), "begins at 2026-03-25T14:00:00Z")])
def test_a_certificate_outside_of_its_time_is_told_once_and_served(
    files: Files, days: tuple[int, int], found: str
) -> None:
    files.put(pem(certificate(P256, days=days)), private(P256))
    with capturedLogs() as logs:
        held = files.read()
        held.refresh()
        assert told(logs) == [("tls.not_valid", found)]
        files.put(pem(LEAF))
        held.refresh()
    assert len(told(logs)) == 1
    assert held.current()[1] == pem(LEAF)
