"""Keys and signatures.  ``good`` is the node's outcome; sshd must agree unless ``stricter`` says why not."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import rsa

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX
from tests.ssh.matrix.packing import (
    CA,
    CAS,
    FOREIGN,
    KEYS,
    SUBJECT,
    Case,
    certificate,
    security_key_certificate,
    sha1_signature,
    texts,
)

TYPES = {name: wire.Reader(keys.public_blob(key)).string() for name, key in KEYS.items()}


def kinds() -> Iterator[Case]:
    """Every kind of key under every kind of CA, each signing as it may."""
    for subject, key in KEYS.items():
        for ca, ca_key in CAS.items():
            for ca_hash in (b"rsa-sha2-256", b"rsa-sha2-512") if ca == "rsa" else (b"",):
                def sign(body: bytes, ca_key: object = ca_key, ca_hash: bytes = ca_hash) -> bytes:
                    return keys.sign(ca_key, body, ca_hash or None)  # type: ignore[arg-type]

                blob = certificate(key, ca_key, sign=sign)
                names = keys.signature_algorithms(TYPES[subject])
                for name in names:
                    by = f"{ca} {ca_hash.decode()}".strip()
                    yield Case(f"{name.decode()} by {by}", True, blob, key, name + SUFFIX)


def subjects() -> Iterator[Case]:
    for bits, good in ((1024, False), (3072, True)):
        key = rsa.generate_private_key(65537, bits)
        yield Case(f"RSA of {bits} bits", good, certificate(key), key, stricter="" if good else "short-rsa")
    odd = rsa.generate_private_key(3, 2048)
    yield Case("RSA with exponent 3", True, certificate(odd), odd)
    point = wire.Reader(keys.public_blob(KEYS["p256"]))
    point.string(), point.string()
    uncompressed = point.string()
    compressed = bytes([2 + (uncompressed[-1] & 1)]) + uncompressed[1:33]
    shapes = {
        "ed25519 key of 31 bytes": wire.string(b"x" * 31),
        "ed25519 key of 33 bytes": wire.string(b"x" * 33),
        "ed25519 key of no bytes": wire.string(b""),
    }
    for name, fields in shapes.items():
        yield Case(name, False, certificate(subject_fields=fields))
    p256 = {
        "compressed point": texts(b"nistp256", compressed),
        "point off the curve": texts(b"nistp256", uncompressed[:-1] + bytes([uncompressed[-1] ^ 1])),
        "point at infinity": texts(b"nistp256", b"\0"),
        "point of another curve": texts(b"nistp384", uncompressed),
        "unknown curve": texts(b"nistp999", uncompressed),
    }
    for name, fields in p256.items():
        yield Case(f"p256 with a {name}", False, certificate(KEYS["p256"], subject_fields=fields),
                   KEYS["p256"])
    public = KEYS["rsa"].public_key().public_numbers()
    numbers = {
        "a negative modulus": wire.mpint(public.e) + wire.string(wire.mpint(public.n)[5:]),
        "an even modulus": wire.mpint(public.e) + wire.mpint(public.n + 1),
        "the exponent 1": wire.mpint(1) + wire.mpint(public.n),
        "the exponent 0": wire.string(b"") + wire.mpint(public.n),
        "a modulus of 20000 bits": wire.mpint(public.e) + wire.mpint(2**20000 - 1),
    }
    for name, fields in numbers.items():
        yield Case(f"RSA with {name}", False, certificate(KEYS["rsa"], subject_fields=fields), KEYS["rsa"])
    padded = wire.mpint(public.e) + wire.string(b"\0" + wire.mpint(public.n)[4:])
    yield Case("RSA modulus with needless zeros", False, certificate(KEYS["rsa"], subject_fields=padded),
               KEYS["rsa"],
               stricter="needless-zeros")
    blob, sign = security_key_certificate()
    yield Case("security key", False, blob, sign=sign, stricter="security-keys")
    yield Case("plain key of the subject", False, keys.public_blob(SUBJECT))
    for name, ca in CAS.items():
        yield Case(f"plain key of the CA, {name}", False, keys.public_blob(ca), ca,
                   b"" if name != "rsa" else b"rsa-sha2-512")
    yield Case("certificate for the CA's own key", True, certificate(CA), CA)


def authorities() -> Iterator[Case]:
    yield Case("foreign CA", False, certificate(ca=FOREIGN))
    yield Case("foreign CA that claims to be ours", False, certificate(sign=lambda body: keys.sign(FOREIGN,
               body)))
    yield Case("signed by the subject itself", False, certificate(ca=SUBJECT))
    yield Case("signed by the subject in the CA's name", False,
               certificate(sign=lambda body: keys.sign(SUBJECT, body)))
    yield Case("a certificate as the CA", False, certificate(authority=wire.string(certificate(CA, CA))))
    yield Case("CA's key with a tail", False,
               certificate(authority=wire.string(keys.public_blob(CA) + b"\0")))
    yield Case("CA's key cut short", False, certificate(authority=wire.string(keys.public_blob(CA)[:-1])))
    yield Case("no CA's key", False, certificate(authority=wire.string(b"")))
    small = rsa.generate_private_key(65537, 1024)
    yield Case("RSA CA of 1024 bits that nobody trusts", False, certificate(ca=small))
    for name, ca in CAS.items():
        for at in (5, -1):
            def flipped(body: bytes, ca: object = ca, at: int = at) -> bytes:
                good = bytearray(keys.sign(ca, body))  # type: ignore[arg-type]
                good[at] ^= 1
                return bytes(good)
            yield Case(f"signature of {name} changed at {at}", False, certificate(ca=ca, sign=flipped))

        def longer(body: bytes, ca: object = ca) -> bytes:
            return keys.sign(ca, body) + b"\0"  # type: ignore[arg-type]

        yield Case(f"signature of {name} with a tail", False, certificate(ca=ca, sign=longer))

        def empty(body: bytes, ca: object = ca) -> bytes:
            return wire.string(wire.Reader(keys.sign(ca,
            body)).string()) + wire.string(b"")  # type: ignore[arg-type]

        yield Case(f"signature of {name} without content", False, certificate(ca=ca, sign=empty))
        for other in (*TYPES.values(), b"rsa-sha2-256", b"rsa-sha2-512", b"ssh-dss", b"", b"ssh-nonsense",
                      b"ssh-ed25519\0x", TYPES[name] + SUFFIX):
            def named(body: bytes, ca: object = ca, other: bytes = other) -> bytes:
                reader = wire.Reader(keys.sign(ca, body))  # type: ignore[arg-type]
                reader.string()
                return wire.string(other) + reader.rest()
            if other != wire.Reader(keys.sign(ca, b"")).string():
                yield Case(f"signature of {name} named {other.decode()!r}", False, certificate(ca=ca,
                           sign=named))
    nul = wire.Reader(keys.sign(CA, b"")).string() + b"\0"
    yield Case("signature named with NUL", False, certificate(
        sign=lambda body: texts(nul, _content(keys.sign(CA, body)))), stricter="nul")
    yield Case("no signature", False, certificate(sign=lambda body: b""))
    rsa_ca = CAS["rsa"]
    yield Case("RSA CA with SHA-1", False, certificate(ca=rsa_ca, sign=lambda body: sha1_signature(rsa_ca,
               body)))
    number = next(n for n in range(5000) if _rsa_raw(n)[0] == 0)
    yield Case("RSA CA, leading zero of the signature kept", True, _rsa_case(number, keep=True))
    yield Case("RSA CA, leading zero of the signature dropped", True, _rsa_case(number, keep=False))
    yield Case("RSA CA, signature with one zero more", False, certificate(
        ca=rsa_ca, sign=lambda body: texts(b"rsa-sha2-512", b"\0" + _content(keys.sign(rsa_ca, body)))))
    for name, change in {
        "negative r": lambda r, s: wire.string(b"\xff") + wire.mpint(s),
        "r of zero": lambda r, s: wire.string(b"") + wire.mpint(s),
        "s of zero": lambda r, s: wire.mpint(r) + wire.string(b""),
        "a third number": lambda r, s: wire.mpint(r) + wire.mpint(s) + wire.mpint(1),
        "no s": lambda r, s: wire.mpint(r),
        "huge r": lambda r, s: wire.mpint(r + 2**600) + wire.mpint(s),
        "r and s swapped": lambda r, s: wire.mpint(s) + wire.mpint(r),
    }.items():
        def ecdsa(body: bytes, change: object = change) -> bytes:
            reader = wire.Reader(_content(keys.sign(CAS["p256"], body)))
            r, s = reader.mpint(80), reader.mpint(80)
            return texts(b"ecdsa-sha2-nistp256", change(r, s))  # type: ignore[operator]
        yield Case(f"ECDSA CA, {name}", False, certificate(ca=CAS["p256"], sign=ecdsa))


def _content(signature: bytes) -> bytes:
    reader = wire.Reader(signature)
    reader.string()
    return reader.string()


def _rsa_body(number: int, sign: object = None) -> bytes:
    return certificate(ca=CAS["rsa"], serial=wire.u64(number), sign=sign)  # type: ignore[arg-type]


def _rsa_raw(number: int) -> bytes:
    found: list[bytes] = []

    def sign(body: bytes) -> bytes:
        found.append(_content(keys.sign(CAS["rsa"], body)))
        return b""

    _rsa_body(number, sign)
    return found[0]


def _rsa_case(number: int, *, keep: bool) -> bytes:
    def sign(body: bytes) -> bytes:
        raw = _content(keys.sign(CAS["rsa"], body))
        return texts(b"rsa-sha2-512", raw if keep else raw[1:])

    return _rsa_body(number, sign)
