"""The nouns: bots, tokens, instances, locks, identities, nodes; roles are in ``roles``.

Every record is frozen and valid from its construction on: what comes from
outside is parsed by a ``from_*`` method, which raises
:class:`~mezite.errors.InvalidInput` with the path of the fault.

Times are aware UTC ``datetime``, lengths of time ``timedelta``.  A lineage or
SSH key is named by its *fingerprint*: ``SHA256:`` and 43 base64 characters, as
``ssh-keygen -l`` prints it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct, field

from mezite.core.duration import format_duration
from mezite.discreet import Discreet
from mezite.errors import InvalidInput

if TYPE_CHECKING:
    from mezite.core.fork import Fork

MAX_CERTIFICATE_TTL = timedelta(hours=24)
DEFAULT_CERTIFICATE_TTL = timedelta(hours=1)
MIN_CERTIFICATE_TTL = timedelta(seconds=2)
DEFAULT_RENEWABLE_FOR = timedelta(days=7)
MAX_RENEWABLE_FOR = timedelta(days=90)
MAX_PRINCIPALS = 256
"""OpenSSH reads no more principals from one certificate (sshkey.c, SSHKEY_CERT_MAX_PRINCIPALS)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST_NAME = re.compile(r"(?!.{254})[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,254}\$?")


def check_name(text: object, path: str = "") -> str:
    """*text* as the name of a bot, role or node; else :class:`InvalidInput`."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidInput(
            f"{shown(text)} is not a name; use 1 to 63 letters, digits, '.', '_' or '-', "
            "the first a letter or digit",
            path,
        )
    return text


def check_login(text: object, path: str = "") -> str:
    """*text* as an OS login name, exact and without wildcards."""
    if not isinstance(text, str) or not _LOGIN.fullmatch(text):
        raise InvalidInput(
            f"{shown(text)} is not a login name; logins are exact OS account names, "
            "without wildcards or spaces",
            path,
        )
    return text


def check_host_name(text: object, path: str = "") -> str:
    """*text* as a host's name or IP address, as its users type it: exact and without wildcards."""
    if isinstance(text, str) and (("%" not in text and _is_address(text)) or _HOST_NAME.fullmatch(text)):
        return text
    raise InvalidInput(
        f"{shown(text)} is no host name or address; name each as users type it, without wildcards, port "
        "or trailing dot",
        path,
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def address_block(text: str) -> str:
    """*text* as a certificate's ``source-address`` takes it: bits for a mask, and no zone."""
    block = str(_network(text))
    if "%" in block:
        raise InvalidInput(f"{shown(text)} names an interface, which is one machine's own", "source_address")
    return block


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidInput(f"{error}; write CIDR blocks such as 192.0.2.0/24", "source_address") from None


def shown(value: object) -> str:
    """*value* as an error line shows it, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- bots, tokens, instances ---------------------------------------------------------------


class Bot(Struct, frozen=True):
    """A machine user: a name for the roles that its instances get."""

    id: str
    """UUID: a bot removed and made again under its name is another bot."""
    name: str
    roles: tuple[str, ...]
    created_at: datetime
    ttl: timedelta | None = None
    """TTL of its certificates where the machine asks for none."""
    renewable_for: timedelta = DEFAULT_RENEWABLE_FOR
    """How long after its last renewal an instance may still renew."""
    max_lineage_age: timedelta | None = None
    """How long after its join an instance may renew; ``None``: without end."""
    source_address: tuple[str, ...] = ()
    """CIDR blocks that its certificates are good from; none: anywhere."""

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        if not self.roles:
            raise InvalidInput("a bot needs at least one role", "roles")
        if self.ttl is not None and not MIN_CERTIFICATE_TTL <= self.ttl <= MAX_CERTIFICATE_TTL:
            raise InvalidInput(
                f"{format_duration(self.ttl)} is out of bounds; a certificate lives "
                f"{format_duration(MIN_CERTIFICATE_TTL)} to {format_duration(MAX_CERTIFICATE_TTL)}",
                "ttl",
            )
        if not timedelta(seconds=1) <= self.renewable_for <= MAX_RENEWABLE_FOR:
            raise InvalidInput(
                f"{format_duration(self.renewable_for)} is out of bounds; at most "
                f"{format_duration(MAX_RENEWABLE_FOR)}",
                "renewable_for",
            )
        for block in self.source_address:
            _network(block)


class JoinToken(Discreet, frozen=True):
    """What admits a machine as a bot; the secret itself is nowhere kept."""

    hidden = ("secret_hash",)

    id: str
    """Public: ``tok-bot-<12 hex>``."""
    bot_id: str
    secret_hash: bytes
    """SHA-256 of the secret, 32 bytes."""
    uses: int
    created_at: datetime
    expires_at: datetime
    used: int = 0
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """``rotated``, ``used``, ``expired`` or ``active``, in this order."""
        if self.revoked_at is not None:
            return "rotated"
        if self.used >= self.uses:
            return "used"
        return "expired" if now >= self.expires_at else "active"


class Instance(Struct, frozen=True):
    """One joined machine: a lineage of generations, each with its own key."""

    id: str
    bot_id: str
    generation: int
    """The generation that the server has given out last, from 1."""
    lineage_key: str
    """Fingerprint of that generation's lineage key."""
    previous_key: str
    """Fingerprint of the lineage key before it; empty at generation 1."""
    request_hash: bytes
    """SHA-256 of the keys that generation was given to (see core.request); empty
    after `unlock --keep-key` has put the lineage back, until its next renewal.
    The previous key is then the one that the operator decided against."""
    token_id: str
    created_at: datetime
    renewed_at: datetime
    """When the last generation was given out."""
    address: str = ""
    """IP address the last join or renewal came from."""
    host: str = ""
    """What the machine calls itself: unproven, for the operator's eyes."""
    boot_id: str = ""
    """The boot of that machine, by its own word too."""
    not_after: datetime | None = None
    """End of the certificate that lives longest of those given out for this generation."""
    recoverable: bool = False
    """The operator allows one renewal past expiry (`instances recover`)."""
    removed_at: datetime | None = None
    certificate_hash: str = ""
    """Of the first certificate given out with this generation (core.request); empty:
    unknown."""


# --- locks ---------------------------------------------------------------------------------


class LockKind(Enum):
    BOT = "bot"
    INSTANCE = "instance"
    ROLE = "role"
    LOGIN = "login"
    NODE = "node"


class LockTarget(Struct, frozen=True):
    """What a lock covers: a bot, role or node by its name, an instance by its id."""

    kind: LockKind
    value: str

    @classmethod
    def from_text(cls, kind: object, value: object) -> LockTarget:
        try:
            lock_kind = LockKind(kind)
        except ValueError:
            known = ", ".join(one.value for one in LockKind)
            raise InvalidInput(f"{shown(kind)} cannot be locked; one of {known}", "target") from None
        if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
            raise InvalidInput(f"{shown(value)} names no {lock_kind.value}", "target")
        return cls(lock_kind, value)

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.value}"


class Lock(Struct, frozen=True):
    """Stops joins, renewals and node logins of its target until it ends."""

    id: str
    target: LockTarget
    reason: str
    """``operator`` or ``generation_mismatch``."""
    message: str
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    fork: Fork | None = None
    """What was seen when it was proven."""

    @property
    def is_final(self) -> bool:
        """A proven fork: no plain unlock, the machine joins anew."""
        return self.reason == MISMATCH


OPERATOR = "operator"
MISMATCH = "generation_mismatch"


# --- identities ----------------------------------------------------------------------------


class Identity(Struct, frozen=True):
    """What a validated user certificate says of its holder.

    ``instance`` and those that follow are empty, and ``generation`` 0, in a
    certificate that Mezite did not issue (a foreign CA that a node trusts).
    """

    key_id: str
    serial: int
    principals: tuple[str, ...]
    valid_after: int
    """Seconds since the epoch, unsigned 64 bit, as in the certificate."""
    valid_before: int
    ca_fingerprint: str
    subject_fingerprint: str
    bot: str = ""
    instance: str = ""
    generation: int = 0
    lineage_key: str = ""
    roles: tuple[str, ...] = ()
    permissions: frozenset[str] = frozenset()
    """Names of the known extensions it carries, such as ``permit-pty``."""
    force_command: str | None = None
    source_address: tuple[str, ...] = ()


def host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Node(Struct, frozen=True):
    """An SSH node that the cluster knows, as `msh` and ssh_config reach it."""

    name: str
    address: str
    """``host:port`` where clients connect."""
    labels: Mapping[str, str] = field(default_factory=dict)
