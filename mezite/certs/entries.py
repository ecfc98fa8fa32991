"""Entries that say which certificates open an account: lines of sshd's
``AuthorizedPrincipalsFile`` and ``cert-authority`` lines of ``authorized_keys``.

Read and judged as sshd(8) does (AUTHORIZED_KEYS FILE FORMAT); an entry and a
certificate together permit what both permit.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import ipaddress
import re
from collections.abc import Collection
from datetime import UTC, datetime

from msgspec import Struct, field
from msgspec.structs import replace

from mezite.certs import keys
from mezite.certs.ssh import Certificate
from mezite.certs.wire import Reader
from mezite.core.model import Identity
from mezite.errors import CertificateRejected, InvalidInput

PERMISSIONS = {
    "port-forwarding": "permit-port-forwarding",
    "agent-forwarding": "permit-agent-forwarding",
    "x11-forwarding": "permit-X11-forwarding",
    "pty": "permit-pty",
    "user-rc": "permit-user-rc",
}
"""Option of an entry → the extension of a certificate that means the same."""
ENTRY = "principals_entry"
"""Code of refusals by an entry."""

_FLAG = re.compile(
    r"(?P<no>no-(?!restrict|cert-authority))?(?P<name>restrict|cert-authority|port-forwarding|agent-forwarding"
    r"|x11-forwarding|touch-required|verify-required|pty|user-rc)",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"(?P<name>command|principals|from|expiry-time|environment|permitopen|permitlisten|tunnel)"
    r'="(?P<value>(?:\\"|[^"])*)"',
    re.IGNORECASE,
)
_DESTINATION = re.compile(r"(\[[^][]{1,255}\]|[^][:/]{1,255}):([0-9]{1,5}|\*)")
_TUNNEL = re.compile(r"(any|[0-9]{1,9})(:(any|[0-9]{1,9}))?", re.IGNORECASE)
_TIME = re.compile(r"([0-9]{8})(?:([0-9]{4})([0-9]{2})?)?(Z|UTC)?", re.IGNORECASE)
_BLOCK = re.compile(r"[0-9a-fA-F.:]{2,45}(/[0-9]{1,3})?")


class EntryOptions(Struct, frozen=True):
    """What an entry allows; without options, all that the certificate does."""

    permissions: frozenset[str] = frozenset(PERMISSIONS.values())
    """By the names of a certificate's extensions."""
    force_command: str | None = None
    is_authority: bool = False
    principals: tuple[str, ...] | None = None
    """Of an authority: whom it may vouch for, in place of the account's name."""
    sources: str | None = None
    """Patterns of addresses (ssh_config(5), PATTERNS)."""
    expires_at_unix: int | None = None
    destinations: tuple[tuple[str, int], ...] = ()
    """Where forwarded connections may go: host or ``*``, port or 0 for any; empty: anywhere."""
    is_verified: bool = False
    """Whether it asks for a security key's verification."""


class _Read(Struct):
    """Options so far; the later flag counts, the first of other options alone may be."""

    permissions: set[str] = field(default_factory=lambda: set(PERMISSIONS.values()))
    is_authority: bool = False
    is_verified: bool = False
    values: dict[str, str] = field(default_factory=dict)
    expires: list[int] = field(default_factory=list)
    destinations: list[tuple[str, int]] = field(default_factory=list)


def parse_options(text: str) -> EntryOptions:
    """The options at the front of *text*, up to the first unquoted space.

    Raises :class:`InvalidInput` for an unknown option, one that comes twice
    where only one can count, and a value that has no meaning.
    ``environment``, ``tunnel`` and ``permitlisten`` are read and change
    nothing: here nobody may set variables, make tunnels or listen.
    """
    found = _Read()
    at = 0
    while at < len(text) and text[at] not in " \t":
        flag, value = _FLAG.match(text, at), _VALUE.match(text, at)
        if flag is not None:
            _take_flag(found, flag["name"].lower(), is_on=not flag["no"])
            at = flag.end()
        elif value is not None:
            _take_value(found, value["name"].lower(), value["value"].replace('\\"', '"'))
            at = value.end()
        if at == len(text) or text[at] in " \t":
            break
        if text[at] != ",":
            raise InvalidInput(f"unknown option {text[at : at + 40]!r}")
        at += 1
        if at == len(text):
            raise InvalidInput("a comma, and no option behind it")
    principals = found.values.get("principals")
    return EntryOptions(
        permissions=frozenset(found.permissions),
        force_command=found.values.get("command"),
        is_authority=found.is_authority,
        principals=None if principals is None else _listed(principals),
        sources=found.values.get("from"),
        expires_at_unix=min(found.expires, default=None),
        destinations=tuple(found.destinations),
        is_verified=found.is_verified,
    )


def _listed(text: str) -> tuple[str, ...]:
    """The names before the first empty one, as sshd reads the list."""
    names = text.split(",")
    return tuple(names[: names.index("")] if "" in names else names)


def _take_flag(found: _Read, name: str, *, is_on: bool) -> None:
    if name == "restrict":
        found.permissions.clear()
    elif name == "cert-authority":
        found.is_authority = True
    elif name == "verify-required":
        found.is_verified = is_on
    elif name in PERMISSIONS:
        (found.permissions.add if is_on else found.permissions.discard)(PERMISSIONS[name])


def _take_value(found: _Read, name: str, value: str) -> None:
    if name in ("command", "principals", "from"):
        if name in found.values:
            raise InvalidInput(f"the option {name} comes twice")
        found.values[name] = value
    elif name == "expiry-time":
        found.expires.append(_moment(value))
    elif name == "environment":
        if not re.fullmatch(r"[A-Za-z0-9_]+=.*", value, re.DOTALL):
            raise InvalidInput("environment: NAME=VALUE is expected")
    elif name == "tunnel":
        if not _TUNNEL.fullmatch(value):
            raise InvalidInput("tunnel: a number is expected")
    else:
        bare = name == "permitlisten" and ":" not in value
        destination = _destination(f"*:{value}" if bare else value)
        if name == "permitopen":
            found.destinations.append(destination)


def _moment(text: str) -> int:
    """Seconds since the epoch, of local time unless it says Z or UTC."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, minutes, seconds, zone = match.groups()
        when = datetime.strptime(day + (minutes or "0000") + (seconds or "00"), "%Y%m%d%H%M%S")
        moment = int((when.replace(tzinfo=UTC) if zone else when).timestamp())
        if moment <= 0:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise InvalidInput("expiry-time: YYYYMMDD[HHMM[SS]][Z] is expected") from None
    return moment


def _destination(text: str) -> tuple[str, int]:
    match = _DESTINATION.fullmatch(text)
    port = 0 if match is None or match[2] == "*" else int(match[2])
    if match is None or port > 65535 or (port == 0 and match[2] != "*"):
        raise InvalidInput("permitopen: HOST:PORT is expected")
    return match[1].strip("[]"), port


# --- lines -----------------------------------------------------------------------------------


def find_entry(table: bytes, principals: Collection[bytes]) -> EntryOptions | None:
    """The options of the first line of *table* that names one of *principals*.

    A line: options where there are any, a space, one principal; ``#`` begins a
    comment anywhere.  A line whose options are faulty names nobody.
    """
    for line in table.split(b"\n"):
        line = line.partition(b"#")[0].lstrip(b" \t").rstrip(b" \t")
        if not line or b"\0" in line:
            continue
        at = line.rfind(b" " if b" " in line else b"\t")
        if line[at + 1 :].lstrip(b" \t") not in principals:
            continue
        try:
            return parse_options(line.decode("utf-8")) if at >= 0 else EntryOptions()
        except (InvalidInput, UnicodeDecodeError):
            continue
    return None


def parse_key_line(line: str) -> tuple[bytes, EntryOptions]:
    """The key of an ``authorized_keys`` line, and its options.  Raises :class:`InvalidInput`."""
    line = line.strip(" \t\r\n")
    try:
        return _key(line), EntryOptions()
    except InvalidInput:
        quoted = False
        for at, char in enumerate(line):
            if char == '"' and line[at - 1 : at] != "\\":
                quoted = not quoted
            elif char in " \t" and not quoted:
                return _key(line[at:].lstrip(" \t")), parse_options(line)
        raise


def _key(text: str) -> bytes:
    words = text.replace("\t", " ").split(" ", 1)
    try:
        blob = base64.b64decode(words[1].lstrip(" ").partition(" ")[0], validate=True)
        if Reader(blob, "key").string(64).decode() != words[0]:
            raise InvalidInput("the line says another type than its key has")
        keys.load_public(blob)
    except (IndexError, binascii.Error, ValueError):
        raise InvalidInput("not a key line; [OPTIONS] TYPE BASE64 [COMMENT] is expected") from None
    except CertificateRejected as error:
        raise InvalidInput(f"not a usable public key: {error}") from None
    return blob


def find_authority(lines: str, cert: Certificate) -> EntryOptions | None:
    """The options of the first ``cert-authority`` line for the CA of *cert*; others are passed over."""
    for line in lines.split("\n"):
        if line.strip(" \t\r") and not line.lstrip(" \t").startswith("#"):
            try:
                blob, options = parse_key_line(line)
            except InvalidInput:
                continue
            if blob == cert.ca_blob and options.is_authority:
                return options
    return None


# --- judgment --------------------------------------------------------------------------------


def apply_entry(
    identity: Identity,
    options: EntryOptions,
    *,
    login: str,
    address: str | None,
    now_unix: int,
    key_line_for: Certificate | None = None,
) -> Identity:
    """*identity* with what entry and certificate both permit: flags that both set, the forced
    command of either, the same one where both force one.

    *identity* is of a certificate that was checked without a login.  With
    *key_line_for*, that certificate, the entry is a ``cert-authority`` line, whose
    ``principals`` count in place of *login*; otherwise it is of a table of
    principals, which has named the certificate already.  Raises
    :class:`CertificateRejected`.
    """
    of_table = key_line_for is None
    if options.is_authority is of_table or (of_table and options.principals is not None):
        raise _refused("cert-authority and principals= belong to lines of authorized_keys")
    if options.expires_at_unix is not None and options.expires_at_unix < now_unix:
        raise _refused("it has expired")
    if options.is_verified:
        raise _refused("it asks for a security key, and none are accepted")
    if options.sources is not None and not _is_from(options.sources, address):
        raise _refused(f"it is not good from {address}")
    if key_line_for is not None:
        names = (login,) if options.principals is None else options.principals
        if not {name.encode("utf-8", "surrogateescape") for name in names} & set(key_line_for.principals):
            raise CertificateRejected("wrong_principal", f"the certificate is not good for {login!r}")
    forced = identity.force_command if options.force_command is None else options.force_command
    if identity.force_command is not None and forced != identity.force_command:
        raise _refused("entry and certificate force different commands")
    return replace(
        identity, permissions=identity.permissions & options.permissions, force_command=forced
    )


def _refused(why: str) -> CertificateRejected:
    return CertificateRejected(ENTRY, f"the entry that names the certificate does not let it in: {why}")


def _is_from(patterns: str, address: str | None) -> bool:
    """Whether a list of CIDR blocks and wildcards holds *address*; a negated match excludes it."""
    try:
        where = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped is not None:
        where = where.ipv4_mapped
    found = False
    for item in patterns.split(","):
        pattern = item.removeprefix("!")
        if not pattern:
            return False
        if _BLOCK.fullmatch(pattern):
            try:
                block = ipaddress.ip_network(pattern)
            except ValueError:
                return False
            matches = where.version == block.version and where in block
        else:
            matches = fnmatch.fnmatchcase(str(where), pattern.lower().replace("[", "[[]"))
        if matches and item.startswith("!"):
            return False
        found = found or matches
    return found
