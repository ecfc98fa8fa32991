"""OpenSSH certificates: packed and signed, and read back without trust.

Layout: draft-miller-ssh-cert and OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from operator import itemgetter

from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from mezite.core.model import MAX_PRINCIPALS
from mezite.core.template import HOST, USER, CertificateTemplate
from mezite.discreet import Discreet
from mezite.errors import CertificateRejected, InvalidInput

SUFFIX = b"-cert-v01@openssh.com"
CERTIFICATE_TYPES = {kind + SUFFIX: kind for kind in keys.KEY_TYPES}
MAX_BLOB = 127 * 1024
"""As much as sshd takes, which has it twice in one message of 256 KiB to its monitor."""
MAX_REMEMBERED = 4096
"""Of longer certificates nothing is remembered, so that nobody fills the memory with them."""
MAX_OPTIONS = 1024
"""Of each of the two lists: critical options and extensions.  OpenSSH has no limit."""
NONCE_LENGTH = 32

Options = tuple[tuple[bytes, bytes], ...]


class Certificate(Discreet, frozen=True):
    """What a certificate says; nothing of it is verified yet."""

    hidden = ("blob", "nonce", "subject_blob", "ca_blob", "signature", "signed_part")

    blob: bytes
    type_name: bytes
    """``ecdsa-sha2-nistp256-cert-v01@openssh.com`` …"""
    key_type: bytes
    """The plain type of the subject's key, such as ``ssh-ed25519``."""
    nonce: bytes
    subject_blob: bytes
    """The certified key as a plain key blob."""
    serial: int
    type: int
    """``core.template.USER`` or ``HOST``."""
    key_id: bytes
    principals: tuple[bytes, ...]
    valid_after: int
    """Seconds since the epoch, unsigned 64 bit."""
    valid_before: int
    critical_options: Options
    """Names and raw data in the order of the certificate."""
    extensions: Options
    ca_blob: bytes
    signature: bytes
    signed_part: bytes
    """The bytes that the signature covers."""


_by_name = itemgetter(0)
"""As good as by the bytes: UTF-8 keeps the order of characters."""


_name = lru_cache(maxsize=64)(wire.text)
"""Names are ours, and few."""


def _options(pairs: tuple[tuple[str, str | None], ...]) -> bytes:
    """Options sorted by name; a text is a string inside the data string."""
    packed = []
    for name, value in sorted(pairs, key=_by_name):
        packed.append(_name(name) + wire.string(b"" if value is None else wire.text(value)))
    return wire.string(b"".join(packed))


def build_certificate(
    template: CertificateTemplate,
    subject_blob: bytes,
    ca_key: keys.PrivateKey,
    nonce: bytes,
    *,
    ca_blob: bytes = b"",
) -> bytes:
    """The blob of the certificate of *template* for *subject_blob*, signed by *ca_key*.

    *nonce* must be random, 16 bytes or more: it keeps the signed hash out of
    the subject's hands (PROTOCOL.certkeys).  The subject's fields go in as they
    are; whoever accepts a key from outside loads it first (``keys.load_public``).
    *ca_blob* is the public half of *ca_key*, where the caller has it at hand.
    """
    if len(nonce) < 16:
        raise ValueError("a certificate's nonce has at least 16 bytes")
    if template.type not in (USER, HOST):
        raise ValueError(f"no certificate has the type {template.type}")
    reader = Reader(subject_blob, "key")
    kind = reader.string(64)
    if kind not in keys.KEY_TYPES:
        raise CertificateRejected("unsupported_key", "this type of key gets no certificate")
    unsigned = b"".join(
        (
            wire.string(kind + SUFFIX),
            wire.string(nonce),
            reader.rest(),
            wire.u64(template.serial),
            wire.u32(template.type),
            wire.text(template.key_id),
            wire.string(b"".join(wire.text(name) for name in template.principals)),
            wire.u64(template.valid_after),
            wire.u64(template.valid_before),
            _options(template.critical_options),
            _options(template.extensions),
            wire.string(b""),
            wire.string(ca_blob or keys.public_blob(ca_key)),
        )
    )
    return unsigned + wire.string(keys.sign(ca_key, unsigned))


def parse_certificate(blob: bytes) -> Certificate:
    """The certificate in *blob*, completely read.

    Raises :class:`CertificateRejected` with ``malformed`` or
    ``unsupported_key`` and nothing else.  Not checked: the signatures, whether
    the keys' numbers are sound, times, the meaning of options.
    """
    if len(blob) > MAX_BLOB:
        raise CertificateRejected("malformed", f"malformed certificate: {len(blob)} bytes long")
    return _parse(blob) if len(blob) > MAX_REMEMBERED else _parse_again(bytes(blob))


def _parse(blob: bytes) -> Certificate:
    reader = Reader(blob)
    type_name = reader.string(64)
    kind = CERTIFICATE_TYPES.get(type_name)
    if kind is None:
        shown = type_name.decode("ascii", "backslashreplace")
        raise CertificateRejected("unsupported_key", f"{shown!r} is no supported type of certificate")
    nonce = reader.string()
    subject_blob = keys.read_public(reader, kind)
    serial = reader.u64()
    certificate_type = reader.u32()
    if certificate_type not in (USER, HOST):
        raise reader.malformed(f"neither a user nor a host certificate, but type {certificate_type}")
    key_id = reader.cstring()
    principals = _principals(reader.string())
    valid_after, valid_before = reader.u64(), reader.u64()
    critical_options = _read_options(reader.string())
    extensions = _read_options(reader.string())
    reader.string()  # reserved: covered by the signature, without meaning
    ca_blob = reader.string(keys.MAX_KEY)
    try:
        keys.key_type(ca_blob)
    except CertificateRejected as error:
        raise CertificateRejected(error.code, f"the CA's key: {error}") from None
    signed_part = reader.consumed()
    signature = reader.string(keys.MAX_SIGNATURE)
    reader.finish()
    return Certificate(
        blob=bytes(blob),
        type_name=type_name,
        key_type=kind,
        nonce=nonce,
        subject_blob=subject_blob,
        serial=serial,
        type=certificate_type,
        key_id=key_id,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        critical_options=critical_options,
        extensions=extensions,
        ca_blob=ca_blob,
        signature=signature,
        signed_part=signed_part,
    )


_parse_again = lru_cache(maxsize=256)(_parse)
"""A login shows its certificate twice, and a machine the same one often."""


def forget() -> None:
    """Nothing that was parsed is remembered: for a program that sees each certificate once."""
    _parse_again.cache_clear()


def _principals(data: bytes) -> tuple[bytes, ...]:
    reader = Reader(data)
    found: list[bytes] = []
    while not reader.at_end:
        if len(found) == MAX_PRINCIPALS:
            raise reader.malformed(f"more than {MAX_PRINCIPALS} principals")
        found.append(reader.cstring())
    return tuple(found)


def _read_options(data: bytes) -> Options:
    reader = Reader(data)
    found: list[tuple[bytes, bytes]] = []
    while not reader.at_end:
        if len(found) == MAX_OPTIONS:
            raise reader.malformed(f"more than {MAX_OPTIONS} options")
        found.append((reader.cstring(), reader.string()))
    return tuple(found)


def certificate_line(blob: bytes, comment: str = "") -> str:
    """The line of a ``-cert.pub`` file, without the line end."""
    return keys.public_line(blob, comment)


def parse_certificate_line(line: str) -> Certificate:
    """The certificate in a ``-cert.pub`` line; :class:`InvalidInput` when it is none."""
    parts = line.split(None, 2)
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (IndexError, ValueError):
        raise InvalidInput("not a certificate line; expected TYPE BASE64 [COMMENT]") from None
    certificate = parse_certificate(blob)
    if certificate.type_name != parts[0].encode():
        raise InvalidInput(f"the line says {parts[0]}, the certificate in it is of another type")
    return certificate
