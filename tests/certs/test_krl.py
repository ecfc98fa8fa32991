"""Revocation lists: what they revoke, what is no list, and the same answers as ssh-keygen's."""

from __future__ import annotations

import hashlib
import json
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezite.certs import keys, ssh, verify, wire
from mezite.certs.krl import MAGIC, Revocations, parse_revocations
from mezite.errors import CertificateRejected, InvalidInput
from tests.certs import krl_making as pack
from tests.certs.making import CA, CA_BLOB, KEYS, NOW, OTHER_CA, SUBJECT_BLOB, make, rsa_key

LAST = 2**64 - 1
OTHER_BLOB = keys.public_blob(OTHER_CA)
VECTORS = Path(__file__).parents[1] / "vectors" / "krl"


def revoked(data: bytes, **changes: object) -> bool:
    """Whether a certificate with *changes* is revoked by the list *data*."""
    return parse_revocations(data).reason(make(**changes)) is not None


# --- what is revoked ---------------------------------------------------------------------------

SERIALS = {
    "a list": (pack.serials(5, 1, LAST), {1, 5, LAST}, {2, 4, 6, LAST - 1}),
    "a range": (pack.serial_range(3, 9), {3, 6, 9}, {2, 10}),
    "everything": (pack.serial_range(1, LAST), {1, 2**63 - 1, 2**63, LAST}, set[int]()),
    "the upper half": (pack.serial_range(2**63, LAST), {2**63, LAST}, {1, 2**63 - 1}),
    "a range of one": (pack.serial_range(LAST, LAST), {LAST}, {LAST - 1}),
    "a bitmap": (pack.bitmap(100, 0b1011), {100, 101, 103}, {99, 102, 104}),
    "a bitmap at the end": (pack.bitmap(LAST - 3, 0b1001), {LAST - 3, LAST}, {LAST - 1, LAST - 2}),
    "a bitmap across 2^63": (pack.bitmap(2**63 - 1, 0b11), {2**63 - 1, 2**63}, {2**63 - 2, 2**63 + 1}),
    "an empty bitmap": (pack.bitmap(1, 0), set[int](), {1, 2}),
    "a bitmap with zeros in front": (pack.bitmap(8, b"\0\0\1"), {8}, {9, 16, 24}),
    "the longest bitmap": (pack.bitmap(1, 1 << 16383), {16384}, {1, 16383, 16385}),
    "overlapping ranges": (
        pack.serial_range(5, 20) + pack.serial_range(1, 6) + pack.serials(21) + pack.serial_range(7, 9),
        {1, 5, 20, 21}, {22, 30},
    ),
    "an empty list": (pack.serials(), set[int](), {1, LAST}),
}


@pytest.mark.parametrize("name", SERIALS)
def test_serial_numbers(name: str) -> None:
    inner, gone, kept = SERIALS[name]
    for authority, applies in ((CA_BLOB, True), (b"", True), (OTHER_BLOB, False)):
        data = pack.krl(pack.certificates(authority, inner))
        for serial in gone:
            assert revoked(data, serial=serial) is applies, serial
        for serial in kept:
            assert not revoked(data, serial=serial), serial


def test_zero_is_no_serial_number() -> None:
    """A CA that gives no numbers gives zero: never revoked by number."""
    assert not revoked(pack.krl(pack.certificates(b"", pack.serial_range(1, LAST))), serial=0)


def test_key_ids_are_compared_as_bytes() -> None:
    data = pack.krl(pack.certificates(CA_BLOB, pack.key_ids(b"host-1", b"", "käse".encode())))
    for name in ("host-1", "", "käse"):
        assert revoked(data, key_id=name)
    for name in ("host-", "host-11", "HOST-1", "host-*"):
        assert not revoked(data, key_id=name)
    assert not revoked(data, ca=OTHER_CA, key_id="host-1")


def test_several_sections_of_one_ca_add_up() -> None:
    data = pack.krl(
        pack.certificates(CA_BLOB, pack.serials(1)), pack.certificates(b"", pack.serials(2)),
        pack.certificates(CA_BLOB, pack.serials(3), pack.key_ids(b"x")), pack.certificates(CA_BLOB),
    )
    assert [serial for serial in range(6) if revoked(data, serial=serial)] == [1, 2, 3]


def key_lists(blob: bytes) -> dict[str, bytes]:
    """The key *blob* revoked in every way there is."""
    return {
        "explicit": pack.krl(pack.blobs(2, blob)),
        "sha1": pack.krl(pack.blobs(3, hashlib.sha1(blob).digest())),
        "sha256": pack.krl(pack.blobs(5, hashlib.sha256(blob).digest())),
        "plain list": keys.public_line(blob, "a comment").encode(),
    }


@pytest.mark.parametrize("kind", key_lists(SUBJECT_BLOB))
def test_a_revoked_key_takes_its_certificates_along(kind: str) -> None:
    found = parse_revocations(key_lists(SUBJECT_BLOB)[kind])
    assert found.revokes_key(SUBJECT_BLOB)
    assert found.reason(make())
    assert found.reason(make(ca=OTHER_CA))
    assert not found.reason(make(subject=keys.public_blob(KEYS["rsa"])))


@pytest.mark.parametrize("kind", key_lists(SUBJECT_BLOB))
def test_a_revoked_ca_takes_all_its_certificates_along(kind: str) -> None:
    found = parse_revocations(key_lists(CA_BLOB)[kind])
    assert found.reason(make())
    assert found.reason(make(subject=keys.public_blob(KEYS["p384"]), serial=0))
    assert not found.reason(make(ca=OTHER_CA))


def test_a_revoked_certificate_leaves_its_key_alone() -> None:
    found = parse_revocations(pack.krl(pack.certificates(CA_BLOB, pack.serials(77))))
    assert found.reason(make(serial=77))
    assert not found.revokes_key(SUBJECT_BLOB)
    assert not found.reason(make(serial=78))


def test_a_certificate_in_a_plain_list_stands_for_its_key() -> None:
    """As with sshd: lists of keys know no serial numbers."""
    line = ssh.certificate_line(make(serial=5).blob).encode()
    assert revoked(line, serial=6, ca=OTHER_CA)


def test_plain_lists_may_hold_whatever_openssh_takes_for_a_key() -> None:
    odd = [
        keys.public_blob(rsa_key(1024)),
        wire.string(keys.ED25519) + wire.string(bytes(32)),
        wire.string(b"sk-ssh-ed25519@openssh.com") + wire.string(b"k" * 32) + wire.string(b"ssh:"),
        wire.string(b"ssh-dss") + wire.mpint(7) * 4,
        *(keys.public_blob(key) for key in KEYS.values()),
    ]
    lines = "".join(f"  \t{keys.public_line(blob)} c\r\n" for blob in odd)
    found = parse_revocations(f"# keys\n\n{lines}\t# end".encode())
    assert all(found.revokes_key(blob) for blob in odd)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing", b" \t\n", pack.krl(), pack.krl(comment=b"none"),
                                  pack.krl(pack.certificates(b"")), pack.krl(pack.blobs(2))])
def test_an_empty_list_revokes_nothing(data: bytes) -> None:
    assert not revoked(data)


def test_the_check_of_certificates_heeds_lists() -> None:
    lists = [Revocations(), parse_revocations(pack.krl(pack.certificates(CA_BLOB, pack.serials(77))))]
    with pytest.raises(CertificateRejected) as caught:
        verify.check_user_certificate(
            make(), trusted={CA_BLOB}, now_unix=NOW, login="deploy", address="192.0.2.1", revoked=lists
        )
    assert caught.value.code == "revoked"
    assert "serial number 77" in str(caught.value)


# --- what is no list ---------------------------------------------------------------------------

LINE = keys.public_line(SUBJECT_BLOB).encode()
WRONG = {
    "another version": pack.krl(version=2),
    "cut in the head": pack.krl()[:30],
    "the magic alone": MAGIC,
    "NUL in the comment": pack.krl(comment=b"a\0b"),
    "cut in a section": pack.krl(pack.blobs(2, SUBJECT_BLOB))[:-1],
    "a byte behind": pack.krl() + b"\1",
    "unknown section": pack.krl(pack.section(6, b"")),
    "section zero": pack.krl(pack.section(0, b"")),
    "signature": pack.krl(pack.blobs(2, SUBJECT_BLOB), bytes([4]) + wire.string(CA_BLOB) + wire.string(b"s")),
    "critical extension": pack.krl(pack.extension(1)),
    "critical extension with another true": pack.krl(pack.extension(7)),
    "extension with a tail": pack.krl(pack.extension(0, tail=b"x")),
    "extension without content": pack.krl(pack.section(255, b"")),
    "NUL in an extension's name": pack.krl(pack.extension(0, name=b"a\0")),
    "unknown certificate section": pack.krl(pack.certificates(b"", pack.section(0x24, b""))),
    "critical certificate extension": pack.krl(pack.certificates(b"", pack.extension(1, 0x39))),
    "CA that is no key": pack.krl(pack.certificates(b"junk")),
    "CA that is a certificate": pack.krl(pack.certificates(make().blob)),
    "CA of an unknown type": pack.krl(pack.certificates(wire.string(b"ssh-new") + wire.string(b"k"))),
    "CA with a tail": pack.krl(pack.certificates(CA_BLOB + b"\0")),
    "no reserved field": pack.krl(pack.section(1, wire.string(b""))),
    "serial cut short": pack.krl(pack.certificates(b"", pack.section(0x20, b"1234567"))),
    "serial zero": pack.krl(pack.certificates(b"", pack.serials(1, 0))),
    "range from zero": pack.krl(pack.certificates(b"", pack.serial_range(0, 5))),
    "range backwards": pack.krl(pack.certificates(b"", pack.serial_range(5, 4))),
    "range with a tail": pack.krl(pack.certificates(b"", pack.serial_range(5, 6, b"\0"))),
    "bitmap from zero": pack.krl(pack.certificates(b"", pack.bitmap(0, 0b11))),
    "bitmap that wraps": pack.krl(pack.certificates(b"", pack.bitmap(LAST, 0b11))),
    "bitmap that is negative": pack.krl(pack.certificates(b"", pack.bitmap(1, b"\x80"))),
    "bitmap too long": pack.krl(pack.certificates(b"", pack.bitmap(1, b"\1" * 2049))),
    "NUL in a key id": pack.krl(pack.certificates(b"", pack.key_ids(b"a\0b"))),
    "SHA-1 of another length": pack.krl(pack.blobs(3, b"x" * 19)),
    "SHA-256 of another length": pack.krl(pack.blobs(5, b"x" * 20)),
    "nearly a KRL": MAGIC[:-1] + b"\1",
    "half a line": LINE[:-10],
    "a good line and junk": LINE + b"\njunk\n",
    "options in front": b"cert-authority " + LINE,
    "another type than it says": LINE.replace(b"ecdsa-sha2-nistp256", b"ssh-ed25519", 1),
    "unknown type": b"ssh-new AAAAB3NzaC1uZXc=",
    "a carriage return alone": b"\r\n" + LINE,
    "a private key": keys.private_to_openssh(CA),
    "a NUL": LINE + b"\n\0\n",
    "a type alone": b"ssh-ed25519",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_with_a_fault_is_refused_whole(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse_revocations(WRONG[name])


@pytest.mark.parametrize("section", [pack.extension(0), pack.certificates(b"", pack.extension(0, 0x39))])
def test_an_extension_that_is_not_critical_is_passed_over(section: bytes) -> None:
    data = pack.krl(section, pack.certificates(CA_BLOB, pack.serials(77)))
    assert revoked(data, serial=77)
    assert not revoked(data, serial=78)


# --- whatever bytes come -----------------------------------------------------------------------

WHOLE = pack.krl(
    pack.certificates(CA_BLOB, pack.serials(1, 5), pack.serial_range(7, 9), pack.bitmap(20, 5),
                      pack.key_ids(b"a", b"b"), pack.extension(0, 0x39)),
    pack.certificates(b"", pack.serials(3)), pack.blobs(2, SUBJECT_BLOB), pack.extension(0),
    pack.blobs(3, b"1" * 20), pack.blobs(5, b"2" * 32),
)


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(MAGIC.__add__),
                 st.binary(max_size=200).map(lambda tail: pack.krl() + tail)))
def test_junk_is_refused_or_a_list(data: bytes) -> None:
    try:
        found = parse_revocations(data)
    except InvalidInput:
        return
    found.reason(make())


@settings(max_examples=500)
@given(st.data())
def test_a_damaged_list_is_refused_or_another_list(data: st.DataObject) -> None:
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))  # the end, too: nothing may be left to change
        match data.draw(st.sampled_from(["change", "drop", "insert", "cut"])):
            case "change":
                changed[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "drop":
                del changed[at : at + 1]
            case "insert":
                changed.insert(at, data.draw(st.integers(0, 255)))
            case "cut":
                del changed[at:]
    try:
        found = parse_revocations(bytes(changed))
    except InvalidInput:
        return
    found.reason(make())


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(1, LAST), st.integers(0, 2**12)), max_size=12),
       st.lists(st.integers(1, LAST), max_size=6), st.data())
def test_ranges_hold_what_was_put_in(
    spans: list[tuple[int, int]], single: list[int], data: st.DataObject
) -> None:
    """However they overlap, touch, or lie at the ends of the numbers."""
    ranges = [(first, min(first + length, LAST)) for first, length in spans]
    inner = [pack.serial_range(first, last) for first, last in ranges]
    found = parse_revocations(pack.krl(pack.certificates(b"", *inner, pack.serials(*single))))
    edges = {edge + step for pair in ranges for edge in pair for step in (-1, 0, 1)} | set(single)
    for serial in sorted(edge for edge in edges if 1 <= edge <= LAST):
        expected = serial in single or any(first <= serial <= last for first, last in ranges)
        assert (serial in found.certificates[b""].serials) is expected


@settings(max_examples=300)
@given(st.integers(1, LAST), st.integers(0, 2**300))
def test_bitmaps_hold_their_bits(offset: int, bits: int) -> None:
    data = pack.krl(pack.certificates(b"", pack.bitmap(offset, bits)))
    if offset + bits.bit_length() - 1 > LAST:
        with pytest.raises(InvalidInput):
            parse_revocations(data)
        return
    held = parse_revocations(data).certificates[b""].serials
    assert all((offset + at in held) == bool(bits >> at & 1) for at in range(min(302, LAST - offset + 1)))


# --- vectors, and ssh-keygen -------------------------------------------------------------------


def vectors() -> list[dict[str, str]]:
    return [json.loads(line) for line in (VECTORS / "lists.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, str]) -> None:
    """Lists of once, most of them made by ssh-keygen -k: for ever the same answer."""
    cert = ssh.parse_certificate(b64decode(vector["certificate"]))
    try:
        outcome = "revoked" if parse_revocations(b64decode(vector["list"])).reason(cert) else "good"
    except InvalidInput:
        outcome = "refused"
    assert outcome == vector["outcome"]


def keygen(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ssh-keygen", *words], cwd=cwd, capture_output=True, text=True, timeout=30)


SPECS = {
    "a serial": "serial: 77", "other serials": "serial: 1-76\nserial: 78-1000", "a range": "serial: 5-900",
    "the last": f"serial: {LAST}", "an upper range": f"serial: {2**63}-{LAST}", "an id": "id: ci/0b8f/3",
    "another id": "id: ci/0b8f/4", "many": "\n".join(f"serial: {n}" for n in range(1, 400, 3)),
    "scattered": "\n".join(f"serial: {n}" for n in (3, 70, 71, 77, 4000, 2**32, 2**32 + 2, 2**63)),
    "a key": "key: {subject}", "a key's hash": "sha256: {subject}", "a key's SHA-1": "sha1: {subject}",
    "the CA": "key: {ca}", "another key": "key: {other}", "a hash": "hash: {hash}",
}


@pytest.mark.parametrize("scope", ["ca", "wildcard", "other CA"])
@pytest.mark.parametrize("name", SPECS)
def test_ssh_keygen_gives_the_same_answers(name: str, scope: str, tmp_path: Path) -> None:
    """Lists that ssh-keygen makes, and adds to, revoke here what they revoke there."""
    ca, other = keys.public_line(CA_BLOB), keys.public_line(OTHER_BLOB)
    (tmp_path / "ca.pub").write_text(ca + "\n")
    (tmp_path / "other.pub").write_text(other + "\n")
    spec = SPECS[name].format(
        subject=keys.public_line(SUBJECT_BLOB), ca=ca, other=other, hash=keys.fingerprint(SUBJECT_BLOB)
    )
    (tmp_path / "spec").write_text(spec + "\n")
    words = {"ca": ("-s", "ca.pub"), "wildcard": ("-s", "none"), "other CA": ("-s", "other.pub")}[scope]
    made = keygen("-q", "-k", "-f", "list", *words, "spec", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    certs = {
        f"{number}.pub": make(ca=authority, serial=serial, key_id=key_id, subject=subject)
        for number, (authority, serial, key_id, subject) in enumerate(
            (authority, serial, key_id, subject)
            for authority in (CA, OTHER_CA)
            for serial in (0, 1, 76, 77, 2**32 + 1, 2**63, LAST)
            for key_id in ("ci/0b8f/3", "x")
            for subject in (SUBJECT_BLOB, keys.public_blob(KEYS["p384"]))
        )
    }
    for file, cert in certs.items():
        (tmp_path / file).write_text(ssh.certificate_line(cert.blob) + "\n")

    def theirs() -> dict[str, bool]:
        asked = keygen("-Q", "-f", "list", *certs, cwd=tmp_path).stdout
        told = {line.partition(" ")[0]: line for line in asked.splitlines()}
        return {file: told[file].endswith("REVOKED") for file in certs}

    def ours() -> dict[str, bool]:
        found = parse_revocations((tmp_path / "list").read_bytes())
        return {file: found.reason(cert) is not None for file, cert in certs.items()}

    assert ours() == theirs()
    (tmp_path / "more").write_text("serial: 2000-3000\nserial: 1\n")
    assert keygen("-q", "-k", "-u", "-f", "list", *words, "more", cwd=tmp_path).returncode == 0
    assert ours() == theirs()


@pytest.mark.parametrize("name", WRONG)
def test_what_ssh_keygen_takes_for_no_list_is_none_here(name: str, tmp_path: Path) -> None:
    """And the reverse, but for what docs/node.md names."""
    (tmp_path / "list").write_bytes(WRONG[name])
    (tmp_path / "id.pub").write_text(keys.public_line(OTHER_BLOB) + "\n")
    asked = keygen("-Q", "-f", "list", "id.pub", cwd=tmp_path)
    laxer = {"signature", "CA that is a certificate"}
    plain = not WRONG[name].startswith(MAGIC)  # ssh-keygen -Q reads KRLs only
    assert plain or name in laxer or asked.returncode != 0
