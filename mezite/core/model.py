"""The nouns: roles, bots, tokens, instances, locks, identities.

Every record is frozen and valid from its construction on: what comes from
outside is parsed by a ``from_*`` method, which raises
:class:`~mezite.errors.InvalidInput` with the path of the fault.

Times are aware UTC ``datetime``, lengths of time ``timedelta``.  A lineage or
SSH key is named by its *fingerprint*: ``SHA256:`` and 43 base64 characters, as
``ssh-keygen -l`` prints it.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from mezite.core.duration import format_duration, parse_duration
from mezite.core.fork import Fork
from mezite.errors import InvalidInput

MAX_CERTIFICATE_TTL = timedelta(hours=24)
DEFAULT_CERTIFICATE_TTL = timedelta(hours=1)
MIN_CERTIFICATE_TTL = timedelta(seconds=2)
DEFAULT_RENEWABLE_FOR = timedelta(days=7)
MAX_RENEWABLE_FOR = timedelta(days=90)
MAX_PRINCIPALS = 256
"""OpenSSH reads no more principals from one certificate (sshkey.c, SSHKEY_CERT_MAX_PRINCIPALS)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,254}\$?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


def check_name(text: object, path: str = "") -> str:
    """*text* as the name of a bot, role or node; else :class:`InvalidInput`."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidInput(
            f"{_shown(text)} is not a name; use 1 to 63 letters, digits, '.', '_' or '-', "
            "the first a letter or digit",
            path,
        )
    return text


def check_login(text: object, path: str = "") -> str:
    """*text* as an OS login name, exact and without wildcards."""
    if not isinstance(text, str) or not _LOGIN.fullmatch(text):
        raise InvalidInput(
            f"{_shown(text)} is not a login name; logins are exact OS account names, "
            "without wildcards or spaces",
            path,
        )
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- documents -----------------------------------------------------------------------------


def _mapping(value: object, path: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"expected a mapping, found {_shown(value)}", path)
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "known keys: " + ", ".join(known)
            raise InvalidInput(f"unknown key; {hint}", f"{path}.{key}" if path else str(key))
    return value


def _boolean(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"expected true or false, found {_shown(value)}", path)
    return value


def _texts(value: object, path: str) -> tuple[str, ...]:
    """A text or a list of texts, never empty, without repeats."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise InvalidInput(f"expected a list of texts, found {_shown(value)}", path)
    if not items:
        raise InvalidInput("an empty list means nothing here; name at least one or drop the key", path)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidInput(f"expected a text, found {_shown(item)}; quote it", f"{path}[{index}]")
    return tuple(dict.fromkeys(items))


# --- labels --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelMatcher:
    """One label key and the values it may have, any of them.

    A value is exact, ``*`` for any value, or a regular expression if it starts
    with ``^`` and ends with ``$``.  The key ``*`` goes with the value ``*``
    only and matches every node, labelled or not.
    """

    key: str
    values: tuple[str, ...]
    _patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        patterns = tuple(re.compile(value) for value in self.values if _is_pattern(value))
        object.__setattr__(self, "_patterns", patterns)

    @classmethod
    def from_item(cls, key: object, value: object, path: str) -> LabelMatcher:
        here = f"{path}.{key}"
        if key != "*" and (not isinstance(key, str) or not _LABEL_KEY.fullmatch(key)):
            raise InvalidInput(f"{_shown(key)} is not a label key", path)
        values = _texts(value, here)
        if key == "*" and values != ("*",):
            raise InvalidInput('the key "*" takes the value "*" only, for every node', here)
        for text in values:
            if not text or len(text) > 256:
                raise InvalidInput("a label value has 1 to 256 characters", here)
            if _is_pattern(text):
                try:
                    re.compile(text)
                except re.error as error:
                    raise InvalidInput(f"bad regular expression {_shown(text)}: {error}", here) from None
            elif "*" in text and text != "*":
                raise InvalidInput(
                    f'{_shown(text)}: "*" stands alone; for a part of a value write a regular '
                    "expression that starts with ^ and ends with $",
                    here,
                )
        return cls(str(key), values)

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.key == "*":
            return True
        value = labels.get(self.key)
        if value is None:
            return False
        return (
            "*" in self.values
            or value in self.values
            or any(pattern.fullmatch(value) for pattern in self._patterns)
        )


def _is_pattern(value: str) -> bool:
    return len(value) >= 2 and value.startswith("^") and value.endswith("$")


# --- roles ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """One side of a role: the nodes and the logins it speaks of.

    No matchers means *no* nodes, no logins means *no* logins.
    """

    node_labels: tuple[LabelMatcher, ...] = ()
    logins: tuple[str, ...] = ()

    @classmethod
    def from_document(cls, document: object, path: str) -> Rules:
        parts = _mapping(document, path, ("node_labels", "logins"))
        matchers: tuple[LabelMatcher, ...] = ()
        if "node_labels" in parts:
            here = f"{path}.node_labels"
            labels = parts["node_labels"]
            if not isinstance(labels, Mapping):
                raise InvalidInput(f"expected a mapping of labels, found {_shown(labels)}", here)
            if not labels:
                raise InvalidInput('empty means no node; name labels, write "*": "*" for every '
                                   "node, or drop the key", here)
            matchers = tuple(LabelMatcher.from_item(key, value, here) for key, value in labels.items())
        logins: tuple[str, ...] = ()
        if "logins" in parts:
            here = f"{path}.logins"
            logins = tuple(
                check_login(login, f"{here}[{index}]")
                for index, login in enumerate(_texts(parts["logins"], here))
            )
            if len(logins) > MAX_PRINCIPALS:
                raise InvalidInput(f"at most {MAX_PRINCIPALS} logins fit a certificate", here)
        return cls(matchers, logins)

    def to_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {}
        if self.node_labels:
            document["node_labels"] = {matcher.key: list(matcher.values) for matcher in self.node_labels}
        if self.logins:
            document["logins"] = list(self.logins)
        return document

    def covers_node(self, labels: Mapping[str, str]) -> bool:
        """Whether every matcher matches; never with no matcher at all."""
        return bool(self.node_labels) and all(matcher.matches(labels) for matcher in self.node_labels)


@dataclass(frozen=True, slots=True)
class Role:
    """What a bot may do: log in where, as whom, for how long."""

    name: str
    description: str = ""
    max_session_ttl: timedelta | None = None
    port_forwarding: bool = False
    file_copy: bool = False
    require_session_mfa: bool = False
    allow: Rules = Rules()
    deny: Rules = Rules()

    @classmethod
    def from_document(cls, document: object) -> Role:
        """The role that a ``kind: role`` document describes, strictly read.

        Raises :class:`InvalidInput` with the path of the fault in the document.
        """
        top = _mapping(document, "", ("kind", "version", "metadata", "spec"))
        if top.get("kind") != "role":
            raise InvalidInput(f"expected role, found {_shown(top.get('kind'))}; write kind: role", "kind")
        if top.get("version", "v1") != "v1":
            raise InvalidInput(f"unknown version {_shown(top['version'])}; write v1 or drop the key",
                               "version")
        for key in ("metadata", "spec"):
            if key not in top:
                raise InvalidInput("missing; a role has metadata and spec", key)
        metadata = _mapping(top["metadata"], "metadata", ("name", "description"))
        if "name" not in metadata:
            raise InvalidInput("missing; name the role", "metadata.name")
        description = metadata.get("description", "")
        if not isinstance(description, str) or len(description) > 1024:
            raise InvalidInput("expected a text of at most 1024 characters", "metadata.description")
        spec = _mapping(top["spec"], "spec", ("options", "allow", "deny"))
        options = _mapping(
            spec.get("options", {}),
            "spec.options",
            ("max_session_ttl", "port_forwarding", "file_copy", "require_session_mfa"),
        )
        return cls(
            name=check_name(metadata["name"], "metadata.name"),
            description=description,
            max_session_ttl=_session_ttl(options),
            port_forwarding=_boolean(options.get("port_forwarding", False), "spec.options.port_forwarding"),
            file_copy=_boolean(options.get("file_copy", False), "spec.options.file_copy"),
            require_session_mfa=_session_mfa(options),
            allow=Rules.from_document(spec.get("allow", {}), "spec.allow"),
            deny=Rules.from_document(spec.get("deny", {}), "spec.deny"),
        )

    def to_document(self) -> dict[str, Any]:
        """The document that :meth:`from_document` reads back as this role."""
        options: dict[str, Any] = {}
        if self.max_session_ttl is not None:
            options["max_session_ttl"] = format_duration(self.max_session_ttl)
        if self.port_forwarding:
            options["port_forwarding"] = True
        if self.file_copy:
            options["file_copy"] = True
        if self.require_session_mfa:
            options["require_session_mfa"] = "session"
        metadata: dict[str, Any] = {"name": self.name}
        if self.description:
            metadata["description"] = self.description
        spec: dict[str, Any] = {}
        for key, part in (
            ("options", options),
            ("allow", self.allow.to_document()),
            ("deny", self.deny.to_document()),
        ):
            if part:
                spec[key] = part
        return {"kind": "role", "version": "v1", "metadata": metadata, "spec": spec}


def _session_ttl(options: Mapping[str, Any]) -> timedelta | None:
    if "max_session_ttl" not in options:
        return None
    path = "spec.options.max_session_ttl"
    try:
        ttl = parse_duration(options["max_session_ttl"])
    except InvalidInput as error:
        raise InvalidInput(str(error), path) from None
    if ttl < MIN_CERTIFICATE_TTL:
        raise InvalidInput(f"at least {format_duration(MIN_CERTIFICATE_TTL)}", path)
    return ttl


def _session_mfa(options: Mapping[str, Any]) -> bool:
    value = options.get("require_session_mfa", "off")
    # YAML 1.1 reads a bare `off` as false.
    if value in ("", "off") or value is False:
        return False
    if isinstance(value, str) or value is True:
        return True
    raise InvalidInput(f"expected a text, found {_shown(value)}", "spec.options.require_session_mfa")


# --- bots, tokens, instances ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bot:
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
            try:
                ipaddress.ip_network(block)
            except ValueError as error:
                raise InvalidInput(f"{error}; write CIDR blocks such as 192.0.2.0/24",
                                   "source_address") from None


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What admits a machine as a bot; the secret itself is nowhere kept."""

    id: str
    """Public: ``tok-bot-<12 hex>``."""
    bot_id: str
    secret_hash: bytes = field(repr=False)
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


@dataclass(frozen=True, slots=True)
class Instance:
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


# --- locks ---------------------------------------------------------------------------------


class LockKind(Enum):
    BOT = "bot"
    INSTANCE = "instance"
    ROLE = "role"
    LOGIN = "login"
    NODE = "node"


@dataclass(frozen=True, slots=True, order=True)
class LockTarget:
    """What a lock covers: a bot, role or node by its name, an instance by its id."""

    kind: LockKind = field(compare=True)
    value: str

    @classmethod
    def from_text(cls, kind: object, value: object) -> LockTarget:
        try:
            lock_kind = LockKind(kind)
        except ValueError:
            known = ", ".join(one.value for one in LockKind)
            raise InvalidInput(f"{_shown(kind)} cannot be locked; one of {known}", "target") from None
        if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
            raise InvalidInput(f"{_shown(value)} names no {lock_kind.value}", "target")
        return cls(lock_kind, value)

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.value}"


@dataclass(frozen=True, slots=True)
class Lock:
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


@dataclass(frozen=True, slots=True)
class Identity:
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


@dataclass(frozen=True, slots=True)
class Node:
    """An SSH node that the cluster knows, as `msh` and ssh_config reach it."""

    name: str
    address: str
    """``host:port`` where clients connect."""
    labels: Mapping[str, str] = field(default_factory=dict)
