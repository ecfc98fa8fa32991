"""What a machine asks for, what it signs, and what it is answered."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from mezite.core.model import Node
from mezite.discreet import Discreet
from mezite.errors import InvalidInput

JOIN = "Join"
RENEW = "Renew"
LEAVE = "Leave"

MAX_SSH_KEYS = 16
MAX_KEY_ROLES = 64
MAX_WISH = timedelta(days=366)
"""The longest TTL or interval that a machine may ask for; it gets less."""
MAX_BLOB = 8192
"""Bytes; an RSA-16384 key has about 2100, one of our certificates about 1000."""

_SIGNATURE_DOMAIN = b"mezite-lineage-v1"
_TOKEN = re.compile(r"(tok-bot-[0-9a-f]{12})-([0-9a-f]{32})-([0-9a-f]{32})")


class TokenText(Discreet, frozen=True):
    """A join token as a person handles it: ``tok-bot-<12 hex>-<32 hex>-<32 hex>``."""

    hidden = ("secret",)

    id: str
    secret: str
    pin: str
    """First 128 bits of the SHA-256 of the server CA's SPKI, as 32 hex digits."""

    @classmethod
    def from_text(cls, text: str) -> TokenText:
        """Raises :class:`InvalidInput`, which shows the public part at most."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise InvalidInput(
                "the join token is mistyped or cut short; it reads "
                "tok-bot-<12 hex>-<32 hex>-<32 hex>, all lower case, as mezctl printed it"
            )
        return cls(*match.groups())

    @classmethod
    def from_random(cls, random: bytes, pin: str) -> TokenText:
        """A new token from 22 random bytes: 6 for the id, 16 for the secret."""
        if len(random) != 22:
            raise ValueError("22 random bytes make a token")
        return cls(f"tok-bot-{random[:6].hex()}", random[6:].hex(), pin)

    def to_text(self) -> str:
        return f"{self.id}-{self.secret}-{self.pin}"


def secret_hash(secret: str) -> bytes:
    """SHA-256 of a token's secret: 128 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def secret_matches(secret: str, stored_hash: bytes) -> bool:
    """In constant time."""
    return secrets.compare_digest(secret_hash(secret), stored_hash)


class SshKey(Struct, frozen=True):
    """A public key to be certified, the daemon's output that it is for, and wishes for its certificate."""

    output: str
    blob: bytes
    roles: tuple[str, ...] | None = None
    """The bot's roles that the certificate is to have; ``None``: all of them."""
    ttl: timedelta | None = None
    """``None``: as in :class:`Wishes`."""


class Wishes(Struct, frozen=True):
    """What the machine would like, and what it says of itself, unproven."""

    ttl: timedelta | None
    interval: timedelta | None
    client_time: datetime
    host: str = ""
    boot_id: str = ""


class JoinRequest(Discreet, frozen=True):
    hidden = ("token_secret",)

    token_id: str
    token_secret: str
    lineage_key: bytes
    """Public key of generation 1, SSH wire format; it signs the request."""
    ssh_keys: tuple[SshKey, ...]
    wishes: Wishes


class RenewRequest(Struct, frozen=True):
    instance_id: str
    generation: int
    lineage_key: bytes
    """Public key of ``generation``; it signs the request."""
    certificate: bytes
    new_lineage_key: bytes
    ssh_keys: tuple[SshKey, ...]
    wishes: Wishes


class LeaveRequest(Struct, frozen=True):
    """A machine wants its instance to be over."""

    instance_id: str
    generation: int
    lineage_key: bytes
    """Public key of ``generation``; it signs the request."""
    certificate: bytes


class Signed(Discreet, frozen=True):
    """How a request came: the bytes that were signed, by what, over which nonce."""

    hidden = ("body",)

    body: bytes
    """A join's holds the token's secret."""
    signature: bytes
    nonce: bytes = b""


class Trust(Struct, frozen=True):
    """Whom a machine trusts: the cluster's authorities and its nodes."""

    cluster_name: str
    cluster_uuid: str
    host_cas: tuple[bytes, ...]
    """Public keys, SSH wire format."""
    user_cas: tuple[bytes, ...]
    server_cas: tuple[bytes, ...]
    """X.509 certificates, DER."""
    nodes: tuple[Node, ...] = ()


class Issued(Struct, frozen=True):
    """The answer to a join or a renewal."""

    instance_id: str
    bot: str
    generation: int
    certificates: tuple[bytes, ...]
    """One for each SSH key asked for, in their order; SSH wire format."""
    trust: Trust
    server_time: datetime
    ttl: timedelta
    renew_after: timedelta
    """Counted from the answer."""


def signed_bytes(method: str, cluster_uuid: str, nonce: bytes, body: bytes) -> bytes:
    """What the lineage key signs: SSH strings (RFC 4251 §5) of a domain, the
    method, the cluster, the nonce and the body, so that no signature is good
    for another method, cluster, nonce or protocol."""
    parts = (_SIGNATURE_DOMAIN, method.encode(), cluster_uuid.encode(), nonce, body)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def certificate_hash(certificate: bytes) -> str:
    """SHA-256 of a certificate's bytes, in hex."""
    return hashlib.sha256(certificate).hexdigest()


def request_hash(new_key: bytes, ssh_keys: Sequence[SshKey]) -> bytes:
    """SHA-256 over the keys that a generation is asked for: the lineage key's
    blob, then each SSH key's output and blob, as SSH strings."""
    digest = hashlib.sha256()
    for part in (new_key, *(item for key in ssh_keys for item in (key.output.encode(), key.blob))):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()
