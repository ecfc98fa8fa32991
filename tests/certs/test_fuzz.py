"""Whatever bytes come: typed refusals only, and nothing is accepted that OpenSSH's tools refuse."""

from __future__ import annotations

import json
import subprocess
import tempfile
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mezite.certs import keys, ssh, verify, wire
from mezite.errors import CertificateRejected, InvalidInput
from tests.certs.making import CA, CA_BLOB, KEYS, NOW, SUBJECT_BLOB, make

VECTORS = Path(__file__).parents[1] / "vectors" / "certificates.jsonl"
HERE = "192.0.2.7"


def judge(blob: bytes, *, trusted: bytes = CA_BLOB, login: str | None = "deploy") -> ssh.Certificate:
    cert = ssh.parse_certificate(blob)
    verify.check_user_certificate(cert, trusted={trusted}, now_unix=NOW, login=login, address=HERE)
    return cert


def code_of(blob: bytes, trusted: bytes = CA_BLOB) -> str:
    """The code of the refusal, or nothing."""
    try:
        judge(blob, trusted=trusted)
    except CertificateRejected as error:
        return error.code
    return ""


# --- vectors -----------------------------------------------------------------------------------


def vectors() -> list[dict[str, str]]:
    return [json.loads(line) for line in VECTORS.read_text().splitlines()]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, str]) -> None:
    """Certificates of once: made by ssh-keygen or by hand, at the same moment for ever."""
    assert code_of(b64decode(vector["certificate"]), b64decode(vector["ca"])) == vector["code"]


# --- signatures --------------------------------------------------------------------------------

GOOD = {name: keys.sign(key, b"data") for name, key in KEYS.items()}


@settings(max_examples=300)
@given(st.sampled_from(sorted(KEYS)), st.binary(max_size=600))
def test_junk_is_no_signature(name: str, junk: bytes) -> None:
    with pytest.raises(CertificateRejected):
        keys.verify(keys.public_blob(KEYS[name]), junk, b"data")


@settings(max_examples=300)
@given(st.data())
def test_no_other_bytes_are_the_signature(data: st.DataObject) -> None:
    """A changed, longer or shorter signature, or one with another name, never holds."""
    name = data.draw(st.sampled_from(sorted(KEYS)))
    changed = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["flip", "drop", "insert", "cut", "append"])):
            case "flip":
                changed[at] ^= data.draw(st.integers(1, 255))
            case "drop":
                del changed[at]
            case "insert":
                changed.insert(at, data.draw(st.integers(0, 255)))
            case "cut":
                del changed[at:]
            case _:
                changed += data.draw(st.binary(min_size=1, max_size=9))
        assume(changed)
    assume(bytes(changed) != GOOD[name])
    with pytest.raises(CertificateRejected):
        keys.verify(keys.public_blob(KEYS[name]), bytes(changed), b"data")


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_junk_is_no_line(junk: str) -> None:
    for parse in (keys.parse_public_line, ssh.parse_certificate_line):
        with pytest.raises((InvalidInput, CertificateRejected)):
            parse(junk)


# --- the same certificates before ssh-keygen ---------------------------------------------------


def option(names: list[bytes]) -> st.SearchStrategy[bytes]:
    inner = st.one_of(st.binary(max_size=20), st.sampled_from([b"192.0.2.0/24", b"true", b"ci", b"3"]))
    data = st.one_of(st.just(b""), inner, inner.map(wire.string),
    inner.map(lambda one: wire.string(one) + b"\0"))
    return st.builds(
        lambda name, value: wire.string(name) + wire.string(value),
        st.one_of(st.sampled_from(names), st.binary(max_size=8)), data,
    )


def listed(names: list[bytes]) -> st.SearchStrategy[bytes]:
    whole = st.lists(option(names), max_size=4).map(b"".join)
    return st.one_of(whole, whole, whole, st.binary(max_size=12))


PRINCIPALS = st.lists(st.sampled_from([b"deploy", b"*", b"", b"a b"]) | st.binary(max_size=9), max_size=4)
TIMES = st.sampled_from([0, 1, NOW - 1, NOW, NOW + 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0,
2**64 - 1)


@st.composite
def certificates(draw: st.DrawFn) -> bytes:
    """Any form, rightly signed."""
    reader = wire.Reader(keys.public_blob(draw(st.sampled_from(list(KEYS.values())))))
    kind, fields = reader.string(), bytearray(reader.rest())
    if draw(st.integers(0, 5)) == 0:
        fields[draw(st.integers(0, len(fields) - 1))] ^= draw(st.integers(1, 255))
    body = b"".join((
        wire.string(kind + ssh.SUFFIX), wire.string(draw(st.binary(max_size=40))), bytes(fields),
        wire.u64(draw(st.integers(0, 2**64 - 1))), wire.u32(draw(st.sampled_from([1, 1, 1, 1, 2, 0, 3]))),
        wire.string(draw(st.binary(max_size=20))),
        wire.string(draw(PRINCIPALS.map(lambda names: b"".join(map(wire.string, names))))),
        wire.u64(draw(TIMES)), wire.u64(draw(TIMES)),
        wire.string(draw(listed([b"force-command", b"source-address", b"verify-required"]))),
        wire.string(draw(listed([b"permit-pty", b"permit-user-rc", b"roles@mezite.com", b"x"]))),
        wire.string(draw(st.binary(max_size=9))), wire.string(CA_BLOB),
    ))
    return body + wire.string(keys.sign(CA, body))


def is_read(blob: bytes) -> bool:
    """Whether we would accept it, but for its times and names."""
    try:
        cert = ssh.parse_certificate(blob)
        verify._read_options(cert)
        keys.load_public(cert.subject_blob)
        keys.verify(cert.ca_blob, cert.signature, cert.signed_part)
    except CertificateRejected:
        return False
    return True


@settings(max_examples=12)
@given(st.lists(certificates(), min_size=15, max_size=25))
def test_ssh_keygen_reads_whatever_we_read(blobs: list[bytes]) -> None:
    """One process reads them all; it names each line that it cannot."""
    read = [blob for blob in blobs if is_read(blob)]
    assume(read)
    done = subprocess.run(
        ["ssh-keygen", "-L", "-f", "-"],
        input="".join(ssh.certificate_line(blob) + "\n" for blob in read).encode(),
        capture_output=True, timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode("utf-8", "replace")
    assert shown.count("Type: ") == len(read)
    for blob in read:
        assert f"Serial: {ssh.parse_certificate(blob).serial}\n" in shown


# --- source-address ----------------------------------------------------------------------------

ADDRESS = st.one_of(
    st.ip_addresses().map(str),
    st.builds("{}/{}".format, st.ip_addresses(), st.integers(0, 140)),
    st.builds("{}.0.0.0/{}".format, st.integers(0, 300), st.integers(0, 40)),
    st.text("0123456789abcdef.:/", max_size=20),
    st.text("0123456789abcdefxF.:/!*%-+, \t", max_size=20),
    st.sampled_from(["10.0.0.0/255.0.0.0", "10.0.0.0/0.255.255.255", "::/0", "0.0.0.0/0",
    "::ffff:10.0.0.0/104"]),
)


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("signing")
    (directory / "ca").write_bytes(keys.private_to_openssh(CA, "ca"))
    (directory / "ca").chmod(0o600)
    (directory / "key.pub").write_text(keys.public_line(SUBJECT_BLOB) + "\n")
    return directory


@settings(max_examples=150)
@given(addresses=st.lists(ADDRESS, min_size=1, max_size=3).map(",".join))
def test_ssh_keygen_takes_every_source_address_that_we_take(signing: Path, addresses: str) -> None:
    """ssh-keygen checks the list by the code that sshd checks it by."""
    code = code_of(make(critical_options=(("source-address", addresses),)).blob)
    assert code in ("", "bad_option", "source_address")
    if code == "bad_option":
        return
    with tempfile.TemporaryDirectory() as copy:
        (Path(copy) / "key.pub").write_text((signing / "key.pub").read_text())
        done = subprocess.run(
            ["ssh-keygen", "-q", "-s", signing / "ca", "-I", "x", "-n", "deploy", "-O",
             f"source-address={addresses}", Path(copy) / "key.pub"],
            capture_output=True, timeout=30,
        )
    assert done.returncode == 0, (addresses, done.stderr)
