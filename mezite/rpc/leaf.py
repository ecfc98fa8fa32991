"""The server's TLS leaf: issued by the server CA and renewed in time, or read from files."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.logger import Logger

from mezite.auth.authorities import LoadedAuthorities
from mezite.certs.x509 import issue_leaf
from mezite.errors import UsageError

LEAF_TTL = timedelta(days=7)
MAX_FILE = 1024 * 1024
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_log = Logger()


class IssuedLeaf:
    """A leaf of our own server CA, new after half of its life."""

    def __init__(
        self,
        authorities: Callable[[], LoadedAuthorities],
        names: Sequence[str],
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        ttl: timedelta = LEAF_TTL,
    ) -> None:
        self._authorities = authorities
        self._names = names
        self._clock = clock
        self._random = random
        self._ttl = ttl
        self._pair = (b"", b"")
        self._issued_at: datetime | None = None
        self._issuer: x509.Certificate | None = None
        self.refresh()

    def current(self) -> tuple[bytes, bytes]:
        """Private key and chain, both PEM.  Called from grpc's threads."""
        return self._pair

    def refresh(self) -> None:
        """Issues a new leaf if half of its life is over, the clock was set back
        before its start, or another CA signs now."""
        now, authorities = self._clock(), self._authorities()
        if (
            self._issued_at is not None
            and abs(now - self._issued_at) < self._ttl / 2
            and self._issuer == authorities.server_ca
        ):
            return
        self._pair = issue_leaf(
            authorities.server_ca_key,
            authorities.server_ca,
            self._names,
            now=now,
            ttl=self._ttl,
            serial=int.from_bytes(self._random(19), "big") + 1,
        )
        self._issued_at, self._issuer = now, authorities.server_ca


class LeafFiles:
    """A certificate from elsewhere (``auth.tls``), read again when the files change.

    Raises :class:`UsageError` where they are no pair that gRPC would serve with.
    """

    def __init__(self, certificate: Path, key: Path, clock: Callable[[], datetime]) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._stamp: tuple[int, int] | None = None
        self._pair, self._leaf = self._read()
        self._told = ""
        self._tell_of_time()

    def current(self) -> tuple[bytes, bytes]:
        return self._pair

    def refresh(self) -> None:
        """Takes changed files; bad ones are logged, and the pair before them stays, as while the
        second of two is yet to be replaced."""
        try:
            self._pair, self._leaf = self._read()
        except UsageError as error:
            if self._told != str(error):
                _log.error(
                    "{why}; the certificate read before goes on", event="tls.unreadable", why=str(error)
                )
            self._told = str(error)
        else:
            self._tell_of_time()

    def _tell_of_time(self) -> None:
        """What no client accepts is logged once: it may be the clock that is wrong."""
        now, leaf, found = self._clock(), self._leaf, ""
        if now > leaf.not_valid_after_utc:
            found = f"ended at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        elif now < leaf.not_valid_before_utc:
            found = f"begins at {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        if found and found != self._told:
            _log.error(
                "auth.tls: {file} {found}: machines refuse it; replace it, or set this machine's clock",
                event="tls.not_valid", file=str(self._certificate), found=found,
            )
        self._told = found

    def _read(self) -> tuple[tuple[bytes, bytes], x509.Certificate]:
        try:
            stamp = (self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns)
            if stamp == self._stamp:
                return self._pair, self._leaf
            chain, key = _certificates(self._certificate), _private_key(self._key)
        except OSError as error:
            raise UsageError(f"auth.tls: {error.filename}: {error.strerror}") from None
        if not _is_of(chain[0], key):
            if any(_is_of(one, key) for one in chain):
                raise UsageError(f"auth.tls: {self._certificate}: the server's own certificate has to come "
                                 "first, then the CAs that lead to it")
            raise UsageError(f"auth.tls: {self._key} is not the key of {self._certificate}")
        self._stamp = stamp
        # Written anew: gRPC's library reads fewer forms than this one.
        return (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            b"".join(one.public_bytes(Encoding.PEM) for one in chain),
        ), chain[0]


def _content(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"auth.tls: {path} is no file")
    with path.open("rb") as file:
        found = file.read(MAX_FILE + 1)
    if len(found) > MAX_FILE:
        raise UsageError(f"auth.tls: {path} is longer than {MAX_FILE >> 20} MiB")
    return found


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError:
        raise UsageError(f"auth.tls: {path} is no chain of certificates in PEM") from None


def _private_key(path: Path) -> rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_content(path), None)
    except TypeError:
        raise UsageError(
            f"auth.tls: {path} has a passphrase; write the key without one (openssl pkey -in … -out …)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"auth.tls: {path} is no private key in PEM (PKCS #8)") from None
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)
    ):
        return key
    raise UsageError(f"auth.tls: {path} is of a kind that TLS has no use for; make an ECDSA P-256 one")


def _is_of(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
