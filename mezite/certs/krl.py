"""Revocation: OpenSSH's key revocation lists, and plain lists of keys.

Format: OpenSSH's PROTOCOL.krl.  What a list revokes, it revokes as sshd's
``RevokedKeys`` does: a key with all its certificates; a certificate, by serial
number or key id, without its key; a CA's key with all that it signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from mezite.certs import keys
from mezite.certs.ssh import CERTIFICATE_TYPES, Certificate, parse_certificate
from mezite.certs.wire import Reader
from mezite.errors import CertificateRejected, InvalidInput

MAGIC = b"SSHKRL\n\0"
MAX_LIST = 128 * 1024 * 1024
"""Bytes of a file, as sshd takes them."""
MAX_BITMAP = 2048
"""Bytes; OpenSSH writes bitmaps of at most so many, and reads no longer ones."""

_CERTIFICATES, _KEYS, _SHA1, _SIGNATURE, _SHA256, _EXTENSION = 1, 2, 3, 4, 5, 255
_SERIALS, _RANGE, _BITMAP, _KEY_IDS, _CERTIFICATE_EXTENSION = 0x20, 0x21, 0x22, 0x23, 0x39
_LAST = 2**64 - 1
EVERY_CA = b""

_OTHER_KEYS = {
    b"ssh-dss": 4,
    b"sk-ssh-ed25519@openssh.com": 2,
    b"sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
"""Types that never log in here and may be in lists all the same → how many fields they have."""


class _Serials:
    """Serial numbers, as ranges that neither overlap nor touch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, last in sorted(ranges):
            if self._ends and first <= self._ends[-1] + 1:
                self._ends[-1] = max(self._ends[-1], last)
            else:
                self._starts.append(first)
                self._ends.append(last)

    def __contains__(self, serial: int) -> bool:
        at = bisect_right(self._starts, serial) - 1
        return at >= 0 and serial <= self._ends[at]


class RevokedCertificates(Struct, frozen=True):
    """Of one CA, or of every one."""

    serials: _Serials
    key_ids: frozenset[bytes]


class Revocations(Struct, frozen=True):
    """What one list revokes."""

    keys: frozenset[bytes] = frozenset()
    """Plain key blobs."""
    sha1: frozenset[bytes] = frozenset()
    sha256: frozenset[bytes] = frozenset()
    """Digests of plain key blobs."""
    certificates: Mapping[bytes, RevokedCertificates] = field(default_factory=dict)
    """By the blob of their CA, and :data:`EVERY_CA`."""

    def revokes_key(self, blob: bytes) -> bool:
        """Whether the plain key *blob* is revoked, and with it all its certificates."""
        return bool(
            blob in self.keys
            or (self.sha256 and hashlib.sha256(blob).digest() in self.sha256)
            or (self.sha1 and hashlib.sha1(blob, usedforsecurity=False).digest() in self.sha1)
        )

    def reason(self, cert: Certificate) -> str | None:
        """Why *cert* is revoked, for a log; ``None`` when it is not."""
        if self.revokes_key(cert.subject_blob):
            return f"its key {keys.fingerprint(cert.subject_blob)} is revoked"
        for authority in (cert.ca_blob, EVERY_CA):
            revoked = self.certificates.get(authority)
            if revoked is None:
                continue
            if cert.key_id in revoked.key_ids:
                return "its key id is revoked"
            # Zero is the serial number of CAs that give none.
            if cert.serial and cert.serial in revoked.serials:
                return f"its serial number {cert.serial} is revoked"
        if self.revokes_key(cert.ca_blob):
            return f"its CA {keys.fingerprint(cert.ca_blob)} is revoked"
        return None


def parse_revocations(data: bytes) -> Revocations:
    """What the file *data* revokes: a KRL, else a list of public keys, one a line.

    Raises :class:`InvalidInput` when it is neither, and nothing else.  A list
    with a fault in it is no list: whoever reads it must let nobody in.
    """
    if len(data) > MAX_LIST:
        raise InvalidInput(f"more than {MAX_LIST >> 20} MiB long")
    try:
        return parse_krl(data) if data.startswith(MAGIC) else _parse_lines(data)
    except CertificateRejected as error:
        raise InvalidInput(str(error)) from None


# --- plain lists -----------------------------------------------------------------------------


def _parse_lines(data: bytes) -> Revocations:
    found = set()
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.lstrip(b" \t")
        if words and not words.startswith(b"#"):
            try:
                found.add(_key_of_line(words))
            except CertificateRejected as error:
                raise InvalidInput(f"line {number}: {error}") from None
    return Revocations(keys=frozenset(found))


def _key_of_line(line: bytes) -> bytes:
    """The plain key of one line; a certificate there stands for its key, as with sshd."""
    kind, _, rest = line.replace(b"\t", b" ").partition(b" ")
    word = rest.lstrip(b" ").partition(b" ")[0].rstrip(b"\r")
    try:
        blob = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        raise CertificateRejected("malformed", "no public key: TYPE BASE64 [COMMENT] is expected") from None
    if kind in CERTIFICATE_TYPES:
        certificate = parse_certificate(blob)
        named, plain = certificate.type_name, certificate.subject_blob
    else:
        named, plain = Reader(blob, "key").string(64), _plain_key(blob)
    if named != kind:
        raise CertificateRejected("malformed", "the key is of another type than its line says")
    return plain


def _plain_key(blob: bytes) -> bytes:
    """*blob*, if it is a whole key of a type that OpenSSH knows.  RSA of any size passes,
    and any point of Ed25519: a weak key may be revoked, too."""
    reader = Reader(blob, "key")
    kind = reader.string(64)
    if kind in _OTHER_KEYS:
        for _ in range(_OTHER_KEYS[kind]):
            reader.string(keys.MAX_KEY)
        reader.finish()
    elif kind == keys.RSA:
        keys.key_type(blob)
    else:
        try:
            keys.load_public(blob)
        except CertificateRejected as error:
            if error.code != "weak_key":
                raise
    return blob


# --- KRL -----------------------------------------------------------------------------------


class _Collected(Struct):
    """What was read so far; sections of a kind may come several times."""

    keys: set[bytes] = field(default_factory=set)
    sha1: set[bytes] = field(default_factory=set)
    sha256: set[bytes] = field(default_factory=set)
    ranges: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    key_ids: dict[bytes, set[bytes]] = field(default_factory=dict)


def parse_krl(data: bytes) -> Revocations:
    """What the KRL *data* revokes.

    Raises :class:`CertificateRejected` with ``malformed`` for a fault
    anywhere, for a section of unknown type, for a critical extension (none is
    known), and for a signature: OpenSSH refuses signed lists since 9.4, as
    nobody checked them.  Version, date and comment have no say in it.
    """
    reader = Reader(data[len(MAGIC) :], "revocation list")
    if data[: len(MAGIC)] != MAGIC:
        raise reader.malformed("it does not begin as one")
    if reader.u32() != 1:
        raise reader.malformed("another version of the format than 1")
    reader.u64(), reader.u64(), reader.u64()  # version, date, flags
    reader.string()  # reserved
    reader.cstring()  # comment
    found = _Collected()
    while not reader.at_end:
        kind = reader.byte()
        if kind == _SIGNATURE:
            raise reader.malformed("it carries a signature; sign the file as a whole (ssh-keygen -Y)")
        section = Reader(reader.string(MAX_LIST), "revocation list")
        if kind == _CERTIFICATES:
            _read_certificates(section, found)
        elif kind == _KEYS:
            while not section.at_end:
                found.keys.add(section.string())
        elif kind == _SHA1:
            _read_hashes(section, 20, found.sha1)
        elif kind == _SHA256:
            _read_hashes(section, 32, found.sha256)
        elif kind == _EXTENSION:
            _skip_extension(section)
        else:
            raise reader.malformed(f"a section of the unknown type {kind}")
    return Revocations(
        keys=frozenset(found.keys),
        sha1=frozenset(found.sha1),
        sha256=frozenset(found.sha256),
        certificates={
            authority: RevokedCertificates(
                _Serials(found.ranges.get(authority, ())), frozenset(found.key_ids.get(authority, ()))
            )
            for authority in {*found.ranges, *found.key_ids}
        },
    )


def _read_hashes(section: Reader, size: int, found: set[bytes]) -> None:
    while not section.at_end:
        digest = section.string(64)
        if len(digest) != size:
            raise section.malformed(f"a digest of {len(digest)} bytes, where {size} belong")
        found.add(digest)


def _skip_extension(section: Reader) -> None:
    name, is_critical = section.cstring(), section.boolean()
    section.string(MAX_LIST)
    section.finish()
    if is_critical:
        shown = name[:60].decode("utf-8", "backslashreplace")
        raise section.malformed(f"the critical extension {shown!r} is unknown here")


def _read_certificates(section: Reader, found: _Collected) -> None:
    authority = section.string(keys.MAX_KEY)
    section.string()  # reserved
    if authority != EVERY_CA:
        _plain_key(authority)
    ranges = found.ranges.setdefault(authority, [])
    key_ids = found.key_ids.setdefault(authority, set())
    while not section.at_end:
        kind = section.byte()
        inner = Reader(section.string(MAX_LIST), "revocation list")
        if kind == _SERIALS:
            packed = inner.rest()
            if len(packed) % 8:
                raise inner.malformed("a serial number is cut short")
            ranges += [(one, _serial(inner, one)) for (one,) in struct.iter_unpack(">Q", packed)]
        elif kind == _RANGE:
            first, last = inner.u64(), inner.u64()
            if first > last:
                raise inner.malformed("a range of serial numbers that ends before it begins")
            ranges.append((_serial(inner, first), last))
        elif kind == _BITMAP:
            ranges += _read_bitmap(inner)
        elif kind == _KEY_IDS:
            while not inner.at_end:
                key_ids.add(inner.cstring())
        elif kind == _CERTIFICATE_EXTENSION:
            _skip_extension(inner)
        else:
            raise inner.malformed(f"a list of certificates of the unknown type {kind}")
        inner.finish()


def _serial(reader: Reader, serial: int) -> int:
    if serial == 0:
        raise reader.malformed("the serial number zero cannot be revoked")
    return serial


def _read_bitmap(inner: Reader) -> list[tuple[int, int]]:
    """The serial numbers of the bits that are set, counted from an offset."""
    offset, packed = inner.u64(), inner.string()
    if packed[:1] >= b"\x80":
        raise inner.malformed("a negative bitmap")
    longest = MAX_BITMAP + (packed[:1] == b"\0")
    if len(packed) > longest:
        raise inner.malformed(f"a bitmap of more than {MAX_BITMAP} bytes")
    bits = int.from_bytes(packed, "big")
    if offset + bits.bit_length() - 1 > _LAST:
        raise inner.malformed("a bitmap beyond the last serial number")
    found = []
    at = offset
    while bits:
        clear = (bits & -bits).bit_length() - 1
        bits >>= clear
        at += clear
        length = (~bits & (bits + 1)).bit_length() - 1
        found.append((_serial(inner, at), at + length - 1))
        bits >>= length
        at += length
    return found
