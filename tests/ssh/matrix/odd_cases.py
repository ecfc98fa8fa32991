"""What no tool makes: odd keys and signatures, sizes at and beyond limits, requests beside the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.asymmetric import rsa

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX
from tests.ssh.matrix.packing import CA, CAS, KEYS, LOGIN, SUBJECT, Case, certificate, packed_options, texts

ME = LOGIN.encode()
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519's base point (RFC 8032 §5.1)."""
TYPE = b"ssh-ed25519" + SUFFIX


def _content(signature: bytes) -> bytes:
    reader = wire.Reader(signature)
    reader.string()
    return reader.string()


def _second_form(signature: bytes) -> bytes:
    """The same Ed25519 signature with S + L in place of S."""
    raw = _content(signature)
    other = int.from_bytes(raw[32:], "little") + ORDER
    return texts(b"ssh-ed25519", raw[:32] + other.to_bytes(32, "little"))


def _ecdsa(key: object, name: bytes, change: Callable[[int, int], bytes]) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        reader = wire.Reader(_content(keys.sign(key, data)))  # type: ignore[arg-type]
        return texts(name, change(reader.mpint(80), reader.mpint(80)))

    return sign


def _padded(number: int) -> bytes:
    return wire.string(b"\0" + wire.mpint(number)[4:])


def odd_keys() -> Iterator[Case]:
    large = rsa.generate_private_key(65537, 4096)
    for name in (b"rsa-sha2-256", b"rsa-sha2-512"):
        yield Case(f"RSA of 4096 bits, {name.decode()}", True, certificate(large), large, name + SUFFIX)
    uneven = rsa.generate_private_key(65537, 2056)
    yield Case("RSA of 2056 bits", True, certificate(uneven), uneven)
    points = {name: wire.Reader(keys.public_blob(KEYS[name])) for name in ("p256", "p384", "p521")}
    fields = {name: (reader.string(), reader.string(), reader.string()) for name, reader in points.items()}
    for claimed in points:
        for held in points:
            if claimed != held:
                _, curve, point = fields[held]
                yield Case(f"{claimed} certificate with a key of {held}", False,
                           certificate(KEYS[claimed], subject_fields=texts(curve, point)), KEYS[held],
                           fields[claimed][0] + SUFFIX)
    _, curve, point = fields["p256"]
    hybrid = bytes([6 + (point[-1] & 1)]) + point[1:]
    for what, changed in (("a byte more", point + b"\0"), ("hybrid form", hybrid), ("no point", b""),
                          ("one byte", b"\4"), ("half", point[:33])):
        yield Case(f"p256 key: {what}", False,
                   certificate(KEYS["p256"], subject_fields=texts(curve, changed)), KEYS["p256"])
    authority = wire.Reader(keys.public_blob(CAS["p256"]))
    kind, _, point = authority.string(), authority.string(), authority.string()
    for name in (b"nistp384", b"", b"nistp256\0"):
        blob = certificate(ca=CAS["p256"], authority=wire.string(texts(kind, name, point)))
        stricter = "nul" if b"\0" in name else ""
        yield Case(f"p256 CA of curve {name.decode()!r}", False, blob, stricter=stricter)
    numbers = CAS["rsa"].public_key().public_numbers()
    padded = texts(b"ssh-rsa") + wire.mpint(numbers.e) + _padded(numbers.n)
    yield Case("RSA CA with needless zeros", False, certificate(ca=CAS["rsa"], authority=wire.string(padded)),
               stricter="needless-zeros")
    yield Case("Ed25519 CA's signature, second form", False,
               certificate(sign=lambda body: _second_form(keys.sign(CA, body))),
               stricter="malleable-signatures")
    for flags in (b"\1", b"\0\0\0\0\1", b"\1\0\0\0\7"):
        yield Case(f"CA's signature with flags {flags.hex()}", False,
                   certificate(sign=lambda body, flags=flags: keys.sign(CA, body) + flags))
    changes: dict[str, tuple[Callable[[int, int], bytes], str]] = {
        "r with needless zeros": (lambda r, s: _padded(r) + wire.mpint(s), "needless-zeros"),
        "negative s": (lambda r, s: wire.mpint(r) + wire.string(b"\x80"), ""),
        "r of zero": (lambda r, s: wire.string(b"") + wire.mpint(s), ""),
        "s beyond the order": (lambda r, s: wire.mpint(r) + wire.mpint(s + 2**256), ""),
        "a tail": (lambda r, s: wire.mpint(r) + wire.mpint(s) + b"\0", ""),
        "one number": (lambda r, s: wire.mpint(r), ""),
    }
    for what, (change, stricter) in changes.items():
        name = b"ecdsa-sha2-nistp256"
        yield Case(f"p256 CA's signature: {what}", False,
                   certificate(ca=CAS["p256"], sign=_ecdsa(CAS["p256"], name, change)), stricter=stricter)
        yield Case(f"p256 user's signature: {what}", False, certificate(KEYS["p256"]), KEYS["p256"],
                   sign=_ecdsa(KEYS["p256"], name, change), stricter=stricter)
    blob = certificate()
    yield Case("user's signature, second form", False, blob, stricter="malleable-signatures",
               sign=lambda data: _second_form(keys.sign(SUBJECT, data)))
    for size in (0, 63, 65, 128):
        def sized(data: bytes, size: int = size) -> bytes:
            return texts(b"ssh-ed25519", (_content(keys.sign(SUBJECT, data)) * 2)[:size])

        yield Case(f"user's signature of {size} bytes", False, blob, sign=sized)
    for ca, key in CAS.items():
        yield Case(f"the {ca} CA certifies itself", True, certificate(key, key), key)
        yield Case(f"a certificate for the {ca} CA, by another", True,
                   certificate(key, CAS["p384" if ca != "p384" else "rsa"]), key)
    nested = certificate(CA, CA)
    yield Case("signed by a certified CA", False, certificate(ca=KEYS["p384"], authority=wire.string(nested)))


def odd_sizes() -> Iterator[Case]:
    for size, good in ((100_000, True), (129_000, True), (131_500, False), (200_000, False)):
        yield Case(f"key id of {size} bytes", good, certificate(key_id=wire.string(b"k" * size)))
    yield Case("nonce of 100 kB", True, certificate(nonce=wire.string(b"n" * 100_000)))
    yield Case("reserved field of 100 kB", True, certificate(reserved=wire.string(b"r" * 100_000)))
    yield Case("principal of 100 kB beside", True, certificate(principals=texts(b"x" * 100_000, ME)))
    for size, good in ((400, True), (700, False)):
        others = (b"%03d" % n + b"x" * (size - 3) for n in range(255))
        yield Case(f"256 principals of {size} bytes", good, certificate(principals=texts(*others, ME)))
    yield Case("256 times the same principal", True, certificate(principals=texts(*[ME] * 256)))
    yield Case("257 times the same principal", False, certificate(principals=texts(*[ME] * 257)))
    yield Case("256 empty principals", False, certificate(principals=texts(*[b""] * 256)))
    source = ",".join(f"10.{n // 250}.{n % 250}.0/24" for n in range(3000))
    for what, good in ((f"{source},127.0.0.1", True), (source, False), (f"{source},junk,127.0.0.1", False)):
        options = ((b"source-address", wire.string(what.encode())),)
        name = f"source-address of {what.count(',') + 1} blocks, {what[-9:]!r}"
        yield Case(name, good, certificate(critical=options))
    forced = ((b"force-command", wire.string(b"true " + b"y" * 100_000)),)
    yield Case("force-command of 100 kB", True, certificate(critical=forced))
    for count in (0, 1, 500):
        names = tuple((b"n%04d@x" % n, b"d" * (n % 7)) for n in range(count))
        yield Case(f"{count} unknown extensions", True, certificate(extensions=names))
        yield Case(f"{count} unknown extensions twice", True, certificate(extensions=names * 2))
    pty = packed_options(((b"permit-pty", b""),))
    inner = {"principals": texts(ME), "critical": b"", "extensions": pty}
    for field in inner:
        for tail in (b"\0", b"\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\0\0\0\2x"):
            yield Case(f"{field} and {tail.hex()}", False, certificate(**{field: inner[field] + tail}))


def odd_requests() -> Iterator[Case]:
    good = certificate()
    for login in (ME + b"\0x", b"\0" + ME, ME * 300, ME + b"\n", b"./" + ME, ME + b"%", b"*", b"-" + ME):
        yield Case(f"login {login[:20]!r} of {len(login)} bytes", False, good, login=login)
    yield Case("login with a style", False, good, login=ME + b":style", stricter="login-styles")
    for name in (TYPE.upper(), TYPE + b"\0", b" " + TYPE, TYPE + b",", b"," + TYPE, TYPE[:-1], b"ssh-ed25519",
                 b"*", b"ssh-*", b"ssh-ed25519-cert-v00@openssh.com", b"sk-" + TYPE, b"x" * 70, b"\xff"):
        yield Case(f"announced as {name[:40]!r}", False, good, algorithm=name)
    for method in (b"password", b"none", b"keyboard-interactive", b"hostbased", b"gssapi-with-mic", b"",
                   b"publickey\0", b"PUBLICKEY", b"publickey,password", b"publickey-hostbound"):
        yield Case(f"method {method!r}", False, good, method=method)
    for service in (b"ssh-connection\0", b"SSH-CONNECTION", b"ssh-connection,x", b"x" * 70):
        yield Case(f"service {service[:20]!r}", False, good, service=service)
    for flag in (b"\2", b"\x80", b"\0", b""):
        yield Case(f"flag {flag.hex()!r}", False, good, flag=flag)
    for tail in (b"\0\0\0\0", b"x" * 1000, wire.string(keys.sign(SUBJECT, b"x"))):
        yield Case(f"{len(tail)} bytes behind", False, good, tail=tail)
    for at in (0, 4, 20):
        def moved(data: bytes, at: int = at) -> bytes:
            return keys.sign(SUBJECT, data[at + 1 :])

        yield Case(f"signature over all but {at + 1} bytes", False, good, sign=moved)
    def plainly(data: bytes) -> bytes:
        return keys.sign(SUBJECT, data.replace(wire.string(TYPE), texts(b"ssh-ed25519"), 1))

    yield Case("signature over the plain name", False, good, sign=plainly)

    def over_the_key(data: bytes) -> bytes:
        data = data.replace(wire.string(good), wire.string(keys.public_blob(SUBJECT)))
        return keys.sign(SUBJECT, data.replace(wire.string(TYPE), texts(b"ssh-ed25519")))

    yield Case("signature over the plain key", False, good, sign=over_the_key)
