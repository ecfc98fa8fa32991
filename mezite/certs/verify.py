"""Whether a certificate is good for what it is presented for.

The order is cheap before dear, and nothing dear for strangers: trust in the CA
by its whole key, then type, times, principals and options, then the keys, and
the CA's signature last (OpenSSH's sshkey.c checks the same; where it is more
lenient, the docstrings say so).
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from mezite.certs import keys, ssh
from mezite.certs.ssh import MAX_REMEMBERED, Certificate, Options
from mezite.certs.wire import Reader
from mezite.core import template
from mezite.core.model import Identity
from mezite.errors import CertificateRejected

if TYPE_CHECKING:
    from mezite.certs.krl import Revocations

FLAG_EXTENSIONS = frozenset(
    {
        "permit-X11-forwarding",
        "permit-agent-forwarding",
        "permit-port-forwarding",
        "permit-pty",
        "permit-user-rc",
        "no-touch-required",
    }
)
"""Extensions that OpenSSH knows; they carry no data."""

_TEXT_EXTENSIONS = frozenset(
    {template.BOT, template.ROLES, template.INSTANCE, template.GENERATION, template.LINEAGE_KEY}
)
_CIDR_ITEM = re.compile(r"[0-9a-fA-F.:]{2,45}(/[0-9]{1,3})?")
_GENERATION = re.compile(r"[1-9][0-9]{0,17}")


def check_user_certificate(
    cert: Certificate,
    *,
    trusted: Collection[bytes],
    now_unix: int,
    login: str | None,
    address: str | None,
    revoked: Iterable[Revocations] = (),
) -> Identity:
    """The identity that *cert* proves for whoever holds its key.

    *trusted* are CA key blobs.  With the *login* ``None`` every check but that
    of the login is made.  With the *address* ``None`` (a peer without one) a
    certificate that is bound to addresses is refused.  *revoked* are lists of
    which none may name the certificate, its key or its CA.

    Raises :class:`CertificateRejected`: ``untrusted_ca``, ``revoked``, ``wrong_type``,
    ``not_yet_valid``, ``expired``, ``no_principals``, ``wrong_principal``,
    ``unknown_critical_option``, ``bad_option``, ``source_address``,
    ``weak_key``, ``malformed``, ``bad_signature``.

    Not checked: whether the peer holds the key, locks, roles.
    """
    _check_trust(cert, trusted)
    _check_revoked(cert, revoked)
    _check_type(cert, template.USER)
    _check_times(cert, now_unix)
    if not cert.principals:
        raise CertificateRejected("no_principals", "the certificate names no login; that never means all")
    if login == "" or (
        login is not None and login.encode("utf-8", "surrogateescape") not in cert.principals
    ):
        # No account has an empty name, whatever a certificate says.
        raise CertificateRejected("wrong_principal", f"the certificate is not good for the login {login!r}")
    options, identity = _meaning(cert)
    if options.source_address is not None:
        _check_address(options.source_address, address)
    subject_key(cert)
    _check_signature(cert)
    return identity


def subject_key(cert: Certificate) -> keys.PublicKey:
    """The certified key, ready to verify with.  Raises as :func:`keys.load_public` does."""
    return _load_again(cert.subject_blob)


def check_issued(cert: Certificate, *, trusted: Collection[bytes]) -> Identity:
    """The identity in a certificate that one of our CAs signed, however old it is.

    It proves a lineage in renewals: times, principals and addresses do not
    matter there.  Raises as :func:`check_user_certificate` does, and
    ``not_ours`` when bot, instance, generation or lineage key are missing.
    """
    _check_trust(cert, trusted)
    _check_type(cert, template.USER)
    _, identity = _meaning(cert)
    if not (identity.bot and identity.instance and identity.generation and identity.lineage_key):
        raise CertificateRejected("not_ours", "the certificate names no bot instance of this cluster")
    _check_signature(cert)
    return identity


def check_host_certificate(
    cert: Certificate,
    *,
    trusted: Collection[bytes],
    now_unix: int,
    host: str,
    revoked: Iterable[Revocations] = (),
) -> None:
    """Returns when *cert* proves that its holder is *host*, and none of *revoked* names it.

    As ssh does it: principals may hold the wildcards ``*`` and ``?`` (in host
    certificates only), case does not matter, and any critical option refuses.
    """
    _check_trust(cert, trusted)
    _check_revoked(cert, revoked)
    _check_type(cert, template.HOST)
    _check_times(cert, now_unix)
    if not cert.principals:
        raise CertificateRejected("no_principals", "the certificate names no host; that never means all")
    wanted = host.lower()
    if not any(_matches_host(wanted, principal) for principal in cert.principals):
        raise CertificateRejected("wrong_principal", f"the certificate is not good for the host {host!r}")
    for name, _ in cert.critical_options:
        raise CertificateRejected(
            "unknown_critical_option", f"a host certificate with the critical option {_shown(name)}"
        )
    keys.load_public(cert.subject_blob)
    _check_signature(cert)


def _matches_host(host: str, principal: bytes) -> bool:
    # fnmatch knows [sets], which ssh does not: a bracket stands for itself.
    pattern = principal.decode("utf-8", "replace").lower().replace("[", "[[]")
    return fnmatch.fnmatchcase(host, pattern)


# --- the steps -----------------------------------------------------------------------------


def _check_trust(cert: Certificate, trusted: Collection[bytes]) -> None:
    if cert.ca_blob not in trusted:
        raise CertificateRejected(
            "untrusted_ca", f"signed by the unknown CA {keys.fingerprint(cert.ca_blob)}"
        )


def _check_revoked(cert: Certificate, revoked: Iterable[Revocations]) -> None:
    for found in revoked:
        why = found.reason(cert)
        if why is not None:
            raise CertificateRejected("revoked", f"the certificate is revoked: {why}")


def _check_type(cert: Certificate, wanted: int) -> None:
    if cert.type != wanted:
        names = {template.USER: "user", template.HOST: "host"}
        raise CertificateRejected(
            "wrong_type", f"a {names[cert.type]} certificate where a {names[wanted]} certificate is needed"
        )


def _check_times(cert: Certificate, now_unix: int) -> None:
    """after <= now < before, all unsigned 64 bit (PROTOCOL.certkeys)."""
    if now_unix < cert.valid_after:
        raise CertificateRejected(
            "not_yet_valid", f"valid only from {cert.valid_after} on, it is {now_unix} now"
        )
    if now_unix >= cert.valid_before:
        raise CertificateRejected("expired", f"valid until {cert.valid_before} only, it is {now_unix} now")


@lru_cache(maxsize=64)
def _ca_key(blob: bytes) -> keys.PublicKey:
    """Only trusted blobs come here, so that nobody outside can fill the cache."""
    return keys.load_public(blob)


def _verify(ca_blob: bytes, signature: bytes, signed_part: bytes) -> None:
    keys.verify_with(_ca_key(ca_blob), signature, signed_part)


_load_again = lru_cache(maxsize=512)(keys.load_public)
_verify_again = lru_cache(maxsize=512)(_verify)
"""Remembers signatures that held, which stays true; faults raise and are not
remembered.  A login asks twice, and a machine logs in often with one certificate."""


def _check_signature(cert: Certificate) -> None:
    verify = _verify_again if len(cert.blob) <= MAX_REMEMBERED else _verify
    try:
        verify(cert.ca_blob, cert.signature, cert.signed_part)
    except CertificateRejected as error:
        raise CertificateRejected(error.code, f"the CA's signature or key: {error}") from None


def is_vouched_for(cert: Certificate) -> bool:
    """Whether the CA that *cert* names, a trusted one, has signed it."""
    try:
        _check_signature(cert)
    except CertificateRejected:
        return False
    return True


def forget() -> None:
    """Nothing is remembered, parsed certificates neither: for a program that sees each of them once."""
    ssh.forget()
    for remembered in (_load_again, _verify_again, _read_meaning_again):
        remembered.cache_clear()


# --- options -------------------------------------------------------------------------------


class _Options(Struct, frozen=True):
    force_command: str | None
    source_address: tuple[str, ...] | None
    permissions: frozenset[str]
    texts: dict[str, str]


def _read_options(cert: Certificate) -> _Options:
    """The meaning of both lists of options.

    Critical: an unknown one refuses, with or without data; so does one that
    comes twice.  ``verify-required`` refuses: it speaks of security keys, and
    none are accepted (OpenSSH ignores it on other keys).  Extensions: unknown
    ones mean nothing; a known one with wrong data, or one of ours twice, refuses.
    """
    critical = _critical(cert.critical_options)
    permissions: set[str] = set()
    texts: dict[str, str] = {}
    for raw_name, data in cert.extensions:
        name = raw_name.decode("utf-8", "backslashreplace")
        if name in FLAG_EXTENSIONS:
            if data:
                raise CertificateRejected("bad_option", f"the extension {name} carries data")
            permissions.add(name)
        elif name in _TEXT_EXTENSIONS:
            if name in texts:
                raise CertificateRejected("bad_option", f"the extension {name} comes twice")
            texts[name] = _text(name, data)
    source = critical.get(template.SOURCE_ADDRESS)
    return _Options(
        force_command=critical.get(template.FORCE_COMMAND),
        source_address=None if source is None else _address_blocks(source),
        permissions=frozenset(permissions),
        texts=texts,
    )


def _critical(options: Options) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, data in options:
        name = raw_name.decode("utf-8", "backslashreplace")
        if name == "verify-required":
            raise CertificateRejected("bad_option", "verify-required is for security keys only")
        if name not in (template.FORCE_COMMAND, template.SOURCE_ADDRESS):
            raise CertificateRejected(
                "unknown_critical_option", f"unknown critical option {_shown(raw_name)}"
            )
        if name in found:
            raise CertificateRejected("bad_option", f"the critical option {name} comes twice")
        found[name] = _text(name, data)
    return found


def _text(name: str, data: bytes) -> str:
    """The one string that *data* must consist of."""
    reader = Reader(data)
    try:
        value = reader.cstring()
        reader.finish()
        return value.decode("utf-8")
    except (CertificateRejected, UnicodeDecodeError):
        raise CertificateRejected("bad_option", f"the data of the option {name} is not one text") from None


def _address_blocks(text: str) -> tuple[str, ...]:
    """The CIDR blocks of a ``source-address`` list.

    Garbage, an empty item, host bits, a negation or a wildcard refuse the
    certificate, as in OpenSSH's addr_match_cidr_list.  A mask is a number of
    bits: ``ip_network`` would take ``255.0.0.0`` for one, too.
    """
    blocks = []
    for item in text.split(","):
        try:
            if not _CIDR_ITEM.fullmatch(item):
                raise ValueError
            blocks.append(str(ipaddress.ip_network(item)))
        except ValueError:
            raise CertificateRejected(
                "bad_option", f"source-address holds {_shown(item.encode())}, which is no CIDR block"
            ) from None
    return tuple(blocks)


def _check_address(blocks: tuple[str, ...], address: str | None) -> None:
    where = _plain_address(address)
    if where is None or not any(
        where.version == block.version and where in block
        for block in map(ipaddress.ip_network, blocks)
    ):
        raise CertificateRejected("source_address", f"the certificate is not good from {address}")


def _plain_address(address: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """*address* without zone; IPv4 mapped into IPv6 as the IPv4 address that it is."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _identity(cert: Certificate, options: _Options) -> Identity:
    texts = options.texts
    generation = texts.get(template.GENERATION, "0")
    if generation != "0" and not _GENERATION.fullmatch(generation):
        raise CertificateRejected("bad_option", f"{template.GENERATION} is no number of a generation")
    roles = tuple(texts[template.ROLES].split(",")) if template.ROLES in texts else ()
    if "" in roles:
        raise CertificateRejected("bad_option", f"{template.ROLES} holds an empty name")
    return Identity(
        key_id=cert.key_id.decode("utf-8", "backslashreplace"),
        serial=cert.serial,
        principals=tuple(name.decode("utf-8", "backslashreplace") for name in cert.principals),
        valid_after=cert.valid_after,
        valid_before=cert.valid_before,
        ca_fingerprint=keys.fingerprint(cert.ca_blob),
        subject_fingerprint=keys.fingerprint(cert.subject_blob),
        bot=texts.get(template.BOT, ""),
        instance=texts.get(template.INSTANCE, ""),
        generation=int(generation),
        lineage_key=texts.get(template.LINEAGE_KEY, ""),
        roles=roles,
        permissions=options.permissions,
        force_command=options.force_command,
        source_address=options.source_address or (),
    )


def _meaning(cert: Certificate) -> tuple[_Options, Identity]:
    if len(cert.blob) > MAX_REMEMBERED:
        return _read_meaning(cert)
    return _read_meaning_again(cert)


def _read_meaning(cert: Certificate) -> tuple[_Options, Identity]:
    options = _read_options(cert)
    return options, _identity(cert, options)


_read_meaning_again = lru_cache(maxsize=256)(_read_meaning)


def _shown(raw: bytes) -> str:
    return repr(raw[:60].decode("utf-8", "backslashreplace"))
