"""The server's TLS leaf: issued by the server CA and renewed in time, or read from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.logger import Logger

from mezite.auth.authorities import LoadedAuthorities
from mezite.certs.x509 import issue_leaf
from mezite.errors import UsageError

LEAF_TTL = timedelta(days=7)
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
    """A certificate from elsewhere (``auth.tls``), read again when the files change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._stamp: tuple[int, int] | None = None
        self._pair = (b"", b"")
        self._read()

    def current(self) -> tuple[bytes, bytes]:
        return self._pair

    def refresh(self) -> None:
        """Takes changed files; bad ones are logged, and the pair before them stays."""
        try:
            self._read()
        except UsageError as error:
            _log.error("{why}; the certificate read before goes on", event="tls.unreadable", why=str(error))

    def _read(self) -> None:
        try:
            stamp = (self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns)
            if stamp == self._stamp:
                return
            chain, key = self._certificate.read_bytes(), self._key.read_bytes()
        except OSError as error:
            raise UsageError(f"auth.tls: {error.filename}: {error.strerror}") from None
        try:
            leaf = x509.load_pem_x509_certificates(chain)[0]
            private = load_pem_private_key(key, None)
        except (ValueError, TypeError, IndexError):
            raise UsageError(
                f"auth.tls: {self._certificate} and {self._key} are not a PEM chain and its unencrypted key"
            ) from None
        if private.public_key() != leaf.public_key():
            raise UsageError(f"auth.tls: {self._key} is not the key of {self._certificate}")
        self._stamp, self._pair = stamp, (key, chain)
