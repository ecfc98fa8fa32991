"""Certificates survive the round trip, OpenSSH agrees, and junk is only ever rejected."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mezite.certs import keys, ssh, verify, wire
from mezite.core.template import HOST, CertificateTemplate
from mezite.errors import CertificateRejected, InvalidInput
from tests.certs.making import CA, CA_BLOB, KEYS, NONCE, NOW, SUBJECT_BLOB, TEMPLATE, make

BLOB = ssh.build_certificate(TEMPLATE, SUBJECT_BLOB, CA, NONCE)


def test_round_trip() -> None:
    cert = ssh.parse_certificate(BLOB)
    assert cert.blob == BLOB
    assert cert.type_name == b"ecdsa-sha2-nistp256-cert-v01@openssh.com"
    assert cert.subject_blob == SUBJECT_BLOB
    assert (cert.nonce, cert.serial, cert.type, cert.key_id) == (NONCE, 77, 1, b"ci/0b8f/3")
    assert cert.principals == (b"deploy", b"backup")
    assert (cert.valid_after, cert.valid_before) == (NOW - 60, NOW + 3600)
    assert [name for name, _ in cert.extensions] == sorted(name.encode() for name, _ in TEMPLATE.extensions)
    assert dict(cert.extensions)[b"bot@mezite.com"] == wire.string(b"ci")
    assert dict(cert.extensions)[b"permit-pty"] == b""
    assert cert.ca_blob == CA_BLOB
    keys.verify(cert.ca_blob, cert.signature, cert.signed_part)


@pytest.mark.parametrize("ca_kind", KEYS)
@pytest.mark.parametrize("kind", KEYS)
def test_ssh_keygen_reads_ours(kind: str, ca_kind: str, tmp_path: Path) -> None:
    template = CertificateTemplate(
        type=1, serial=2**64 - 1, key_id="the key id", principals=("deploy", "b c"),
        valid_after=NOW, valid_before=2**64 - 1,
        critical_options=(("source-address", "192.0.2.0/24"), ("force-command", "true")),
        extensions=(("permit-pty", None), ("bot@mezite.com", "ci")),
    )
    blob = ssh.build_certificate(template, keys.public_blob(KEYS[kind]), KEYS[ca_kind], NONCE)
    path = tmp_path / "k-cert.pub"
    path.write_text(ssh.certificate_line(blob, "comment") + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", path], check=True, capture_output=True, text=True
    ).stdout
    for part in (
        "user certificate", 'Key ID: "the key id"', f"Serial: {2**64 - 1}", "b c", "permit-pty",
        "source-address 192.0.2.0/24", "force-command true", "bot@mezite.com",
        keys.fingerprint(keys.public_blob(KEYS[kind])), keys.fingerprint(keys.public_blob(KEYS[ca_kind])),
    ):
        assert part in shown
    assert ssh.parse_certificate_line(path.read_text()).blob == blob


@pytest.mark.parametrize("ca_type", [("ed25519",), ("ecdsa", "-b", "384"), ("rsa", "-b", "2048")])
@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa", "rsa"])
def test_we_read_those_of_ssh_keygen(key_type: str, ca_type: tuple[str, ...], tmp_path: Path) -> None:
    """A certificate by ``ssh-keygen -s`` validates, with its options."""

    def keygen(*words: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *words], check=True, cwd=tmp_path, capture_output=True)

    keygen("-t", *ca_type, "-N", "", "-f", "ca")
    keygen("-t", key_type, "-N", "", "-f", "key")
    keygen("-s", "ca", "-I", "some id", "-n", "deploy,root", "-z", "9", "-V", "always:forever",
           "-O", "clear", "-O", "permit-pty", "-O", "force-command=uptime",
           "-O", "source-address=192.0.2.0/24,2001:db8::/32", "key.pub")
    cert = ssh.parse_certificate_line((tmp_path / "key-cert.pub").read_text())
    ca = keys.parse_public_line((tmp_path / "ca.pub").read_text())
    identity = verify.check_user_certificate(
        cert, trusted={ca}, now_unix=NOW, login="root", address="2001:db8::1"
    )
    assert (identity.key_id, identity.serial, identity.principals) == ("some id", 9, ("deploy", "root"))
    assert (identity.valid_after, identity.valid_before) == (0, 2**64 - 1)
    assert identity.permissions == {"permit-pty"}
    assert identity.force_command == "uptime"
    assert cert.subject_blob == keys.parse_public_line((tmp_path / "key.pub").read_text())


# --- rejected ------------------------------------------------------------------------------


def packed(**changes: bytes) -> bytes:
    """The fields of a certificate, each replaceable; the signature is junk."""
    reader = wire.Reader(SUBJECT_BLOB)
    reader.string()
    fields = {
        "type_name": wire.string(b"ecdsa-sha2-nistp256-cert-v01@openssh.com"),
        "nonce": wire.string(NONCE),
        "subject": reader.rest(),
        "serial": wire.u64(1),
        "type": wire.u32(1),
        "key_id": wire.string(b"id"),
        "principals": wire.string(wire.string(b"deploy")),
        "valid_after": wire.u64(0),
        "valid_before": wire.u64(2**64 - 1),
        "critical": wire.string(b""),
        "extensions": wire.string(b""),
        "reserved": wire.string(b""),
        "ca": wire.string(CA_BLOB),
        "signature": wire.string(b"junk"),
        "trailing": b"",
    }
    return b"".join((fields | changes).values())


def test_packed_is_parseable() -> None:
    assert ssh.parse_certificate(packed()).key_id == b"id"


MALFORMED = {
    "empty": b"",
    "trailing bytes": packed(trailing=b"\0"),
    "type 0": packed(type=wire.u32(0)),
    "type 3": packed(type=wire.u32(3)),
    "NUL in key id": packed(key_id=wire.string(b"a\0b")),
    "NUL in a principal": packed(principals=wire.string(wire.string(b"deploy\0"))),
    "257 principals": packed(principals=wire.string(wire.string(b"a") * 257)),
    "principal cut short": packed(principals=wire.string(wire.u32(9) + b"deploy")),
    "principals trailing": packed(principals=wire.string(wire.string(b"deploy") + b"\0\0")),
    "option without data": packed(critical=wire.string(wire.string(b"force-command"))),
    "NUL in an option's name": packed(extensions=wire.string(wire.string(b"a\0") + wire.string(b""))),
    "too many options": packed(extensions=wire.string((wire.string(b"a") + wire.string(b"")) * 1025)),
    "CA key with a tail": packed(ca=wire.string(CA_BLOB + b"\0")),
    "too large": packed(key_id=wire.string(b"a" * ssh.MAX_BLOB)),
    "length beyond the end": packed(signature=wire.u32(2**32 - 1)),
}
UNSUPPORTED = {
    "plain key": SUBJECT_BLOB,
    "nested CA": packed(ca=wire.string(BLOB)),
    "rsa-sha2 as a blob type": packed(type_name=wire.string(b"rsa-sha2-256-cert-v01@openssh.com")),
    "security key": packed(type_name=wire.string(b"sk-ssh-ed25519-cert-v01@openssh.com")),
    "DSA": packed(type_name=wire.string(b"ssh-dss-cert-v01@openssh.com")),
    "v00": packed(type_name=wire.string(b"ssh-rsa-cert-v00@openssh.com")),
    "security key as CA": packed(ca=wire.string(wire.string(b"sk-ssh-ed25519@openssh.com") + b"x" * 60)),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_is_rejected(what: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        ssh.parse_certificate(MALFORMED[what])
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_is_rejected(what: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        ssh.parse_certificate(UNSUPPORTED[what])
    assert caught.value.code == "unsupported_key"


def test_256_principals_are_read() -> None:
    names = tuple(f"u{number}" for number in range(256))
    assert len(make(principals=names).principals) == 256


def test_every_truncation_is_rejected() -> None:
    for length in range(len(BLOB)):
        with pytest.raises(CertificateRejected):
            ssh.parse_certificate(BLOB[:length])


def judge(blob: bytes) -> None:
    """All that a node does with a certificate from outside."""
    cert = ssh.parse_certificate(blob)
    verify.check_user_certificate(
        cert, trusted={cert.ca_blob}, now_unix=NOW, login="deploy", address="192.0.2.1"
    )


@settings(max_examples=400)
@given(st.data())
def test_changed_certificates_are_only_rejected(data: st.DataObject) -> None:
    """No change of any byte gets through, and nothing but the one error comes out."""
    changed = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] ^= data.draw(st.integers(1, 255))
    if bytes(changed) != BLOB:
        with pytest.raises(CertificateRejected):
            judge(bytes(changed))


@settings(max_examples=300)
@given(st.binary(max_size=600))
@example(wire.string(b"ssh-rsa-cert-v01@openssh.com") + b"\0" * 40)
def test_junk_is_only_rejected(junk: bytes) -> None:
    with pytest.raises(CertificateRejected):
        judge(junk)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["critical", "extensions", "principals", "subject", "ca", "key_id"]),
                       st.binary(max_size=80)), st.booleans())
def test_junk_in_a_field_is_only_rejected(changes: dict[str, bytes], wrapped: bool) -> None:
    fields = {name: wire.string(value) if wrapped else value for name, value in changes.items()}
    with pytest.raises(CertificateRejected):
        judge(packed(**fields))


def test_host_and_user_templates_differ_in_type_only() -> None:
    assert make(type=HOST).type == HOST


@pytest.mark.parametrize("line", ["", "x", "ssh-ed25519-cert-v01@openssh.com !"])
def test_bad_line_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput):
        ssh.parse_certificate_line(line)


def test_short_nonce_is_refused() -> None:
    with pytest.raises(ValueError, match="nonce"):
        ssh.build_certificate(TEMPLATE, SUBJECT_BLOB, CA, b"short")
