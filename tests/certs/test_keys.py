"""Keys are written as OpenSSH reads them, and signatures hold exactly or not at all."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding
from hypothesis import given
from hypothesis import strategies as st

from mezite.certs import keys, wire
from mezite.errors import CertificateRejected, InvalidInput
from tests.certs.making import KEYS, rsa_key

P25519 = 2**255 - 19
EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
"""y of a point of order 8."""


@pytest.mark.parametrize("kind", KEYS)
def test_private_file_carries_key_and_comment(kind: str, tmp_path: Path) -> None:
    """ssh-keygen reads the file, and finds the comment and the same public key."""
    path = tmp_path / "key"
    path.write_bytes(keys.private_to_openssh(KEYS[kind], "mezite ci/1"))
    path.chmod(0o600)
    line = subprocess.run(
        ["ssh-keygen", "-y", "-f", path], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert keys.public_line(keys.public_blob(KEYS[kind]), "mezite ci/1") == line
    assert keys.parse_public_line(line) == keys.public_blob(KEYS[kind])
    loaded = serialization.load_ssh_private_key(path.read_bytes(), None)
    assert keys.public_blob(loaded) == keys.public_blob(KEYS[kind])  # type: ignore[arg-type]


def test_private_file_without_comment_is_readable() -> None:
    pem = keys.private_to_openssh(KEYS["p256"], "")
    assert serialization.load_ssh_private_key(pem, None).private_numbers() == (  # type: ignore[union-attr]
        KEYS["p256"].private_numbers()  # type: ignore[union-attr]
    )


def test_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    blob = keys.public_blob(KEYS["ed25519"])
    (tmp_path / "key.pub").write_text(keys.public_line(blob) + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert keys.fingerprint(blob) == shown.split()[1]


@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_pem_round_trip(passphrase: bytes | None) -> None:
    pem = keys.private_to_pem(KEYS["ed25519"], passphrase)
    assert keys.public_blob(keys.private_from_pem(pem, passphrase)) == keys.public_blob(KEYS["ed25519"])


@pytest.mark.parametrize(("written", "read"), [(b"right", b"wrong"), (b"right", None), (None, b"any")])
def test_wrong_passphrase_is_refused(written: bytes | None, read: bytes | None) -> None:
    with pytest.raises(InvalidInput):
        keys.private_from_pem(keys.private_to_pem(KEYS["p256"], written), read)


@pytest.mark.parametrize("kind", KEYS)
def test_signature_round_trip(kind: str) -> None:
    blob = keys.public_blob(KEYS[kind])
    signature = keys.sign(KEYS[kind], b"data")
    keys.verify(blob, signature, b"data")
    keys.verify(blob, signature, b"data", algorithm=wire.Reader(signature).string())
    for bad in (signature[:-1], signature + b"\0", b"", signature[:-1] + bytes([signature[-1] ^ 1])):
        with pytest.raises(CertificateRejected) as caught:
            keys.verify(blob, bad, b"data")
        assert caught.value.code == "bad_signature"
    with pytest.raises(CertificateRejected) as caught:
        keys.verify(blob, signature, b"datum")
    assert caught.value.code == "bad_signature"


@pytest.mark.parametrize("label", [b"ssh-rsa", b"ssh-nonsense", b"ecdsa-sha2-nistp384", b"ssh-dss"])
@pytest.mark.parametrize("kind", KEYS)
def test_signature_type_is_pinned_to_the_key(kind: str, label: bytes) -> None:
    """A right signature under another name does not hold (Conch takes it)."""
    if kind == "p384" and label.endswith(b"384"):
        return
    reader = wire.Reader(keys.sign(KEYS[kind], b"data"))
    reader.string()
    with pytest.raises(CertificateRejected):
        keys.verify(keys.public_blob(KEYS[kind]), wire.string(label) + wire.string(reader.string()), b"data")


def test_sha1_signature_is_refused() -> None:
    key = KEYS["rsa"]
    raw = key.sign(b"data", padding.PKCS1v15(), hashes.SHA1())  # type: ignore[call-arg, arg-type, union-attr]
    with pytest.raises(CertificateRejected):
        keys.verify(keys.public_blob(key), wire.string(b"ssh-rsa") + wire.string(raw), b"data")


def test_signature_algorithm_can_be_pinned() -> None:
    signature = keys.sign(KEYS["rsa"], b"data", b"rsa-sha2-256")
    with pytest.raises(CertificateRejected):
        keys.verify(keys.public_blob(KEYS["rsa"]), signature, b"data", algorithm=b"rsa-sha2-512")


def test_short_rsa_key_is_weak() -> None:
    with pytest.raises(CertificateRejected) as caught:
        keys.load_public(keys.public_blob(rsa_key(1024)))
    assert caught.value.code == "weak_key"


P256 = keys.public_blob(KEYS["p256"])


@pytest.mark.parametrize(
    ("blob", "code"),
    [
        (b"", "malformed"),
        (P256[:-1], "malformed"),
        (P256 + b"\0", "malformed"),
        (P256[:-1] + bytes([P256[-1] ^ 1]), "malformed"),
        (P256.replace(b"nistp256", b"nistp384", 1), "malformed"),
        (wire.string(b"ssh-ed25519") + wire.string(b"x" * 31), "malformed"),
        (wire.string(b"ssh-dss") + wire.string(b"x"), "unsupported_key"),
        (wire.string(b"sk-ssh-ed25519@openssh.com") + wire.string(b"x" * 32), "unsupported_key"),
    ],
)
@pytest.mark.parametrize("check", [keys.load_public, keys.check_public])
def test_bad_key_blob_is_rejected(check: Callable[[bytes], object], blob: bytes, code: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        check(blob)
    assert caught.value.code == code


def _usable(check: Callable[[bytes], object], blob: bytes) -> bool:
    try:
        check(blob)
    except CertificateRejected:
        return False
    return True


def _p256(x: int, y: int) -> bytes:
    return P256[:-64] + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def test_a_p256_key_is_usable_where_openssl_takes_it() -> None:
    """Points of the curve and their mirror images; not what is beside it, nor
    numbers beyond the prime, though they stand for a point of it."""
    p, b = keys._P256_P, keys._P256_B
    points = []
    for _ in range(50):
        numbers = keys.generate_key().public_key().public_numbers()
        points.append((numbers.x, numbers.y))
    # p = 3 mod 4: what has a square root has this one.
    small = next(x for x in range(100) if pow((x**3 - 3 * x + b) % p, (p - 1) // 2, p) == 1)
    root = pow((small**3 - 3 * small + b) % p, (p + 1) // 4, p)
    good = [*points, *((x, p - y) for x, y in points), (small, root)]
    bad = [(0, 0), (p, 0), (small + p, root), (2**256 - 1, 2**256 - 1)]
    bad += [(x, y ^ 1) for x, y in points] + [(x ^ 1, y) for x, y in points] + [(y, x) for x, y in points]
    for expected, group in ((True, good), (False, bad)):
        for x, y in group:
            blob = _p256(x, y)
            assert _usable(keys.load_public, blob) is _usable(keys.check_public, blob) is expected
    for head in (2, 3, 5, 6, 7):
        assert not _usable(keys.check_public, P256[:-65] + bytes([head]) + P256[-64:])


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_is_usable(kind: str) -> None:
    keys.check_public(keys.public_blob(KEYS[kind]))


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 !!", "ssh-ed25519 AAAA", "ssh-rsa " + (
    keys.public_line(P256).split()[1])])
def test_bad_public_line_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput):
        keys.parse_public_line(line)


def test_an_ed25519_key_that_anybody_can_sign_for_is_weak() -> None:
    """Shown first by signing without a private key: S = 0, and R another point of small order."""
    small = [
        (y if y < 2**255 else 0) | sign << 255
        for y in (
            0, 1, P25519 - 1, P25519, P25519 + 1,
            P25519 - EIGHTH,
            EIGHTH,
        )
        for sign in (0, 1)
    ]
    points = [y.to_bytes(32, "little") for y in small]
    for raw in points:
        key, forged = ed25519.Ed25519PublicKey.from_public_bytes(raw), 0
        for number in range(64):
            for point in points:
                with contextlib.suppress(InvalidSignature):
                    key.verify(point + bytes(32), b"message %d" % number)
                    forged += 1
        # OpenSSL does not decode every one of these forms; the reader refuses all of them.
        assert forged or raw[31] & 0x80, raw.hex()
        with pytest.raises(CertificateRejected) as caught:
            keys.check_public(wire.string(keys.ED25519) + wire.string(raw))
        assert caught.value.code == "weak_key"


@given(st.integers(2, 18), st.booleans())
def test_an_ed25519_key_is_written_in_one_way(beyond: int, sign: bool) -> None:
    raw = (P25519 + beyond | sign << 255).to_bytes(32, "little")
    with pytest.raises(CertificateRejected, match="beyond the field"):
        keys.check_public(wire.string(keys.ED25519) + wire.string(raw))


def test_an_rsa_key_with_an_even_modulus_is_weak() -> None:
    numbers = rsa_key(2048).public_key().public_numbers()
    blob = wire.string(keys.RSA) + wire.mpint(numbers.e) + wire.mpint(numbers.n - 1)
    with pytest.raises(CertificateRejected) as caught:
        keys.check_public(blob)
    assert caught.value.code == "weak_key"
