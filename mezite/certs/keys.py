"""SSH keys: made, named, written, and their signatures made and checked exactly.

Kinds: ``ssh-ed25519`` (RFC 8709), ``ecdsa-sha2-nistp256/384/521`` (RFC 5656)
and ``ssh-rsa`` with SHA-2 signatures of at least 2048 bits (RFC 8332).  DSA,
SHA-1 signatures and security keys (``sk-*``) are refused: a machine has nobody
to touch one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.errors import CertificateRejected, InvalidInput

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

ED25519 = b"ssh-ed25519"
RSA = b"ssh-rsa"
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384
RSA_BITS = 3072
"""Of the RSA keys that we make, as ssh-keygen's."""
MAX_SIGNATURE = 4096
MAX_KEY = 8192

_CURVES: dict[bytes, tuple[ec.EllipticCurve, ec.ECDSA]] = {
    b"nistp256": (ec.SECP256R1(), ec.ECDSA(hashes.SHA256())),
    b"nistp384": (ec.SECP384R1(), ec.ECDSA(hashes.SHA384())),
    b"nistp521": (ec.SECP521R1(), ec.ECDSA(hashes.SHA512())),
}
_CURVE_NAMES = {curve.name: name for name, (curve, _) in _CURVES.items()}
_RSA_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    b"rsa-sha2-256": hashes.SHA256(),
    b"rsa-sha2-512": hashes.SHA512(),
}
_P256 = _CURVES[b"nistp256"][0]
_P256_HEAD = wire.string(b"ecdsa-sha2-nistp256") + wire.string(b"nistp256") + wire.u32(65) + b"\x04"
_P256_LENGTH = len(_P256_HEAD) + 64
_P256_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
"""Of the curve y² = x³ - 3x + b over the integers modulo p (FIPS 186-4, D.1.2.3)."""
_ED25519_P = 2**255 - 19
_ED25519_EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_ED25519_SMALL = frozenset((0, 1, _ED25519_P - 1, _ED25519_EIGHTH, _ED25519_P - _ED25519_EIGHTH))
"""y of the points of order 1, 2, 4 and 8 (RFC 8032, 5.1): for such a key anybody can sign."""
KEY_TYPES = (ED25519, *(b"ecdsa-sha2-" + name for name in _CURVES), RSA)


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key, for a lineage or for SSH."""
    return ec.generate_private_key(ec.SECP256R1())


def generate_ca_key() -> ed25519.Ed25519PrivateKey:
    """A new Ed25519 key, for an SSH certificate authority or a host."""
    return ed25519.Ed25519PrivateKey.generate()


def generate_rsa_key() -> rsa.RSAPrivateKey:
    """A new RSA key, for hosts whose clients know nothing else."""
    return rsa.generate_private_key(65537, RSA_BITS)


# --- public keys ---------------------------------------------------------------------------


def public_blob(key: PrivateKey | PublicKey) -> bytes:
    """The SSH wire form of the public half of *key*."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        return public_blob(key.public_key())
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return wire.string(ED25519) + wire.string(raw)
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = _CURVE_NAMES[key.curve.name]
        point = key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return wire.string(b"ecdsa-sha2-" + curve) + wire.string(curve) + wire.string(point)
    numbers = key.public_numbers()
    return wire.string(RSA) + wire.mpint(numbers.e) + wire.mpint(numbers.n)


def read_public(reader: Reader, kind: bytes) -> bytes:
    """The plain blob of the key whose fields follow in *reader*.

    The fields of a certificate's subject are those of a plain key without its
    type name (PROTOCOL.certkeys), so this reads both.  Only the form is
    checked here; :func:`load_public` builds the key.
    """
    head = wire.string(kind)
    if kind == ED25519:
        return head + wire.string(reader.string(32))
    if kind == RSA:
        exponent = reader.mpint(8)
        modulus = reader.mpint(MAX_RSA_BITS // 8 + 1)
        return head + wire.mpint(exponent) + wire.mpint(modulus)
    if kind in KEY_TYPES:
        return head + wire.string(reader.string(16)) + wire.string(reader.string(256))
    raise _unsupported(kind)


def key_type(blob: bytes) -> bytes:
    """The type name in front of a plain key blob, which has nothing behind its last field."""
    reader = Reader(blob, "key")
    kind = reader.string(64)
    read_public(reader, kind)
    reader.finish()
    return kind


def load_public(blob: bytes) -> PublicKey:
    """The key that a plain blob holds.

    Raises :class:`CertificateRejected`: ``malformed``, ``unsupported_key``, or
    ``weak_key`` for RSA below 2048 bits or with an even modulus, and for points of
    Ed25519 that anybody can sign for.
    """
    if len(blob) > MAX_KEY:
        raise CertificateRejected("malformed", f"malformed key: {len(blob)} bytes long")
    reader = Reader(blob, "key")
    try:
        if len(blob) == _P256_LENGTH and blob.startswith(_P256_HEAD):
            # What machines make: nothing is left to be read but the point.
            return ec.EllipticCurvePublicKey.from_encoded_point(_P256, blob[-65:])
        kind = reader.string(64)
        if kind == ED25519:
            raw = reader.string(32)
            reader.finish()
            y = int.from_bytes(raw, "little") & (1 << 255) - 1
            if y % _ED25519_P in _ED25519_SMALL:
                raise CertificateRejected("weak_key", "an Ed25519 key that anybody can sign for")
            if y >= _ED25519_P:
                raise reader.malformed("a number beyond the field's")
            return ed25519.Ed25519PublicKey.from_public_bytes(raw)
        if kind == RSA:
            exponent = reader.mpint(8)
            modulus = reader.mpint(MAX_RSA_BITS // 8 + 1)
            reader.finish()
            if modulus.bit_length() < MIN_RSA_BITS:
                raise CertificateRejected(
                    "weak_key", f"an RSA key of {modulus.bit_length()} bits; at least {MIN_RSA_BITS}"
                )
            if not modulus & 1:
                raise CertificateRejected("weak_key", "an RSA key with an even modulus")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if kind in KEY_TYPES:
            name, point = reader.string(16), reader.string(256)
            reader.finish()
            if b"ecdsa-sha2-" + name != kind:
                raise reader.malformed("key type and curve differ")
            if point[:1] != b"\x04":
                raise reader.malformed("the point is not in uncompressed form")
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[name][0], point)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateRejected("malformed", "malformed key: not a point or number of its kind") from None
    raise _unsupported(kind)


def check_public(blob: bytes) -> None:
    """Returns when *blob* holds a usable key; raises as :func:`load_public`.

    On P-256, whose points are all of one prime order, a key is usable exactly when
    its numbers are below the field's prime and solve the curve's equation (SEC 1,
    3.2.2.1): cheaper to find out than to build the key that nobody here needs.
    """
    if len(blob) != _P256_LENGTH or not blob.startswith(_P256_HEAD):
        load_public(blob)
        return
    x, y = int.from_bytes(blob[-64:-32], "big"), int.from_bytes(blob[-32:], "big")
    if x >= _P256_P or y >= _P256_P or (y * y - (x * x - 3) * x - _P256_B) % _P256_P:
        raise CertificateRejected("malformed", "malformed key: not a point of its curve")


def _unsupported(kind: bytes) -> CertificateRejected:
    shown = kind[:40].decode("ascii", "backslashreplace")
    return CertificateRejected("unsupported_key", f"keys of the type {shown!r} are not supported")


def fingerprint(blob: bytes) -> str:
    """``SHA256:`` and 43 characters, as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def public_line(blob: bytes, comment: str = "") -> str:
    """One line as in a ``.pub`` or ``authorized_keys`` file, without the line end."""
    kind = Reader(blob, "key").string(64).decode("ascii")
    line = f"{kind} {base64.b64encode(blob).decode()}"
    return f"{line} {comment}" if comment else line


def parse_public_line(line: str) -> bytes:
    """The blob of a public key line; :class:`InvalidInput` when it is none."""
    parts = line.split(None, 2)
    if len(parts) < 2:
        raise InvalidInput("not a public key line; expected TYPE BASE64 [COMMENT]")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("not a public key line; the second word is not base64") from None
    try:
        kind = Reader(blob, "key").string(64)
        load_public(blob)
    except CertificateRejected as error:
        raise InvalidInput(f"not a usable public key: {error}") from None
    if kind != parts[0].encode():
        raise InvalidInput(f"the line says {parts[0]}, the key in it is of another type")
    return blob


# --- private keys --------------------------------------------------------------------------


def private_to_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 PEM, encrypted where *passphrase* is given."""
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def private_from_pem(pem: bytes, passphrase: bytes | None) -> PrivateKey:
    """The key in a PKCS#8 PEM; :class:`InvalidInput` for a wrong passphrase or kind."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase or None)
    except TypeError:
        # cryptography's way to say: encrypted without passphrase, or the reverse.
        raise InvalidInput(
            "the key is not encrypted, but a passphrase was given"
            if passphrase
            else "the key is encrypted and needs its passphrase"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput("not a readable private key, or the wrong passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise InvalidInput("a private key of an unsupported kind")
    return key


_PEM_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
_PEM_END = b"-----END OPENSSH PRIVATE KEY-----\n"
_MAGIC = b"openssh-key-v1\0"


def private_to_openssh(key: PrivateKey, comment: str = "") -> bytes:
    """The unencrypted OpenSSH private key file of *key*, with *comment* inside.

    cryptography writes an empty comment, and some clients mishandle such files;
    so its output is taken apart and packed again with the comment in its place
    (OpenSSH's PROTOCOL.key: check bytes twice, key fields, comment, padding
    1, 2, 3 … to a multiple of 8).
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    if not comment:
        return pem
    body = base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))
    reader = Reader(body[len(_MAGIC) :], "private key")
    head = [reader.string() for _ in range(3)]
    count, public, secret = reader.u32(), reader.string(), reader.string()
    unpadded = secret
    # Padding counts up from 1, and cryptography pads an aligned part by a whole block.
    for length in range(9):
        padding_bytes = bytes(range(1, length + 1))
        if secret.endswith(b"\0\0\0\0" + padding_bytes):
            unpadded = secret[: len(secret) - length - 4]
            break
    else:
        raise AssertionError("cryptography no longer writes an empty comment")
    secret = unpadded + wire.text(comment)
    secret += bytes(range(1, -len(secret) % 8 + 1))
    body = _MAGIC + b"".join(wire.string(part) for part in head) + wire.u32(count)
    encoded = base64.b64encode(body + wire.string(public) + wire.string(secret))
    lines = [encoded[at : at + 70] + b"\n" for at in range(0, len(encoded), 70)]
    return _PEM_BEGIN + b"".join(lines) + _PEM_END


# --- signatures ----------------------------------------------------------------------------


def sign(key: PrivateKey, data: bytes, algorithm: bytes | None = None) -> bytes:
    """The SSH signature blob of *data*: the type's name and the signature.

    *algorithm* matters for RSA only: ``rsa-sha2-512`` unless ``rsa-sha2-256``
    is asked for.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return wire.string(ED25519) + wire.string(key.sign(data))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        curve = _CURVE_NAMES[key.curve.name]
        r, s = decode_dss_signature(key.sign(data, _CURVES[curve][1]))
        return wire.string(b"ecdsa-sha2-" + curve) + wire.string(wire.mpint(r) + wire.mpint(s))
    name = algorithm or b"rsa-sha2-512"
    return wire.string(name) + wire.string(key.sign(data, padding.PKCS1v15(), _RSA_HASHES[name]))


def signature_algorithms(kind: bytes) -> tuple[bytes, ...]:
    """The signature types that a key of type *kind* may make."""
    if kind == RSA:
        return (b"rsa-sha2-512", b"rsa-sha2-256")
    return (kind,) if kind in KEY_TYPES else ()


def verify(
    public: bytes, signature: bytes, data: bytes, *, algorithm: bytes | None = None
) -> None:
    """Returns when *signature* over *data* is one of the key in the blob *public*.

    The signature's type must fit the key's type, and be *algorithm* where one
    is given; nothing may follow it.  Raises :class:`CertificateRejected` with
    ``bad_signature``, or as :func:`load_public` does.
    """
    verify_with(load_public(public), signature, data, algorithm=algorithm)


def verify_with(
    key: PublicKey, signature: bytes, data: bytes, *, algorithm: bytes | None = None
) -> None:
    """As :func:`verify`, with a key that is loaded already."""
    if len(signature) > MAX_SIGNATURE:
        raise _bad("it is too long")
    reader = Reader(signature, "signature")
    try:
        kind, raw = reader.string(64), reader.string(MAX_SIGNATURE)
        reader.finish()
    except CertificateRejected as error:
        raise _bad(str(error)) from None
    if algorithm is not None and kind != algorithm:
        raise _bad("its type is not the one that was announced")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            if kind != ED25519:
                raise _bad("its type does not fit the key")
            key.verify(raw, data)
        elif isinstance(key, rsa.RSAPublicKey):
            if kind not in _RSA_HASHES:
                raise _bad("its type does not fit the key, or is SHA-1")
            size = (key.key_size + 7) // 8
            if len(raw) > size:
                raise _bad("it is longer than the modulus")
            # Some clients leave out leading zeros (RFC 8332 §3 is silent); sshd pads, too.
            key.verify(raw.rjust(size, b"\0"), data, padding.PKCS1v15(), _RSA_HASHES[kind])
        else:
            curve = _CURVE_NAMES[key.curve.name]
            if kind != b"ecdsa-sha2-" + curve:
                raise _bad("its type does not fit the key")
            inner = Reader(raw, "signature")
            r, s = inner.mpint(80), inner.mpint(80)
            inner.finish()
            key.verify(encode_dss_signature(r, s), data, _CURVES[curve][1])
    except InvalidSignature:
        raise _bad("it was not made by this key over this data") from None
    except CertificateRejected as error:
        raise _bad(str(error)) if error.code == "malformed" else error from None


def _bad(why: str) -> CertificateRejected:
    return CertificateRejected("bad_signature", f"the signature does not hold: {why}")
