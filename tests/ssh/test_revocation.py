"""``revoked_keys`` as sshd's RevokedKeys: the same files before both, changed while they run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.certs import keys, ssh, wire
from mezite.certs.krl import MAGIC
from mezite.errors import CertificateRejected
from mezite.places import read_cas
from mezite.ssh.followed import TrustedCas
from mezite.ssh.revocation import RevocationFiles
from tests.certs import krl_making as pack
from tests.ssh.client import CERTIFICATE, FAILURE, PK_OK, REQUEST, START, SUBJECT_BLOB, SUCCESS, Wire
from tests.ssh.matrix.both import UNBOUNDED_NODE, UNBOUNDED_SSHD, judged, node_like_sshd, sshd_or_skip
from tests.ssh.matrix.packing import CA, CAS, KEYS, SUBJECT, Case, certificate
from tests.ssh.matrix.servers import Sshd
from tests.ssh.node import USER_CA, user_certificate
from tests.ssh.test_openssh import Node

CA_BLOB, OTHER_CA = keys.public_blob(CA), CAS["p256"]
SUBJECT_OF_MATRIX = keys.public_blob(SUBJECT)
LAST = 2**64 - 1

CERTIFICATES = {
    "serial 7": Case("", True, certificate()),
    "serial 0": Case("", True, certificate(serial=wire.u64(0))),
    "serial 1": Case("", True, certificate(serial=wire.u64(1), key_id=wire.string(b"other"))),
    "serial 2^63": Case("", True, certificate(serial=wire.u64(2**63))),
    "last serial": Case("", True, certificate(serial=wire.u64(LAST))),
    "another CA": Case("", True, certificate(ca=OTHER_CA)),
    "another key": Case("", True, certificate(KEYS["p384"]), KEYS["p384"]),
    "RSA": Case("", True, certificate(KEYS["rsa"]), KEYS["rsa"]),
    "no key id": Case("", True, certificate(key_id=wire.string(b""))),
}

LISTS: dict[str, bytes] = {
    "an empty file": b"",
    "comments": b"# none\n\n",
    "an empty KRL": pack.krl(),
    "a KRL of empty sections": pack.krl(pack.certificates(b""), pack.blobs(2), pack.blobs(5)),
    "serial": pack.krl(pack.certificates(CA_BLOB, pack.serials(7))),
    "serial of every CA": pack.krl(pack.certificates(b"", pack.serials(7))),
    "serial of another CA": pack.krl(pack.certificates(keys.public_blob(OTHER_CA), pack.serials(7))),
    "all serials": pack.krl(pack.certificates(CA_BLOB, pack.serial_range(1, LAST))),
    "upper serials": pack.krl(pack.certificates(CA_BLOB, pack.serial_range(2**63, LAST))),
    "bitmap": pack.krl(pack.certificates(CA_BLOB, pack.bitmap(1, 0b1000001))),
    "bitmap at the end": pack.krl(pack.certificates(b"", pack.bitmap(LAST - 1, 0b11))),
    "key id": pack.krl(pack.certificates(CA_BLOB, pack.key_ids(b"matrix"))),
    "empty key id": pack.krl(pack.certificates(b"", pack.key_ids(b""))),
    "key": pack.krl(pack.blobs(2, SUBJECT_OF_MATRIX)),
    "key by SHA-1": pack.krl(pack.blobs(3, hashlib.sha1(SUBJECT_OF_MATRIX).digest())),
    "key by SHA-256": pack.krl(pack.blobs(5, hashlib.sha256(SUBJECT_OF_MATRIX).digest())),
    "CA": pack.krl(pack.blobs(2, CA_BLOB)),
    "CA by SHA-1": pack.krl(pack.blobs(3, hashlib.sha1(CA_BLOB).digest())),
    "CA by SHA-256": pack.krl(pack.blobs(5, hashlib.sha256(CA_BLOB).digest())),
    "certificate as a blob": pack.krl(pack.blobs(2, CERTIFICATES["serial 7"].blob)),
    "plain list": keys.public_line(SUBJECT_OF_MATRIX).encode() + b"\n",
    "plain list of the CA": keys.public_line(CA_BLOB, "our CA").encode() + b"\n",
    "plain list of a certificate": ssh.certificate_line(CERTIFICATES["serial 7"].blob).encode() + b"\n",
    "plain list, indented": b"# keys\n\t " + keys.public_line(SUBJECT_OF_MATRIX).encode(),
    "plain list of others": keys.public_line(keys.public_blob(KEYS["p521"])).encode() + b"\n",
    "junk": b"junk\n",
    "the magic alone": MAGIC,
    "cut short": pack.krl(pack.blobs(2, SUBJECT_OF_MATRIX))[:-3],
    "a byte behind": pack.krl() + b"\0",
    "unknown section": pack.krl(pack.section(9, b"")),
    "critical extension": pack.krl(pack.extension(1)),
    "unknown list of certificates": pack.krl(pack.certificates(b"", pack.section(0x30, b""))),
    "serial zero": pack.krl(pack.certificates(b"", pack.serials(0))),
    "range backwards": pack.krl(pack.certificates(b"", pack.serial_range(9, 8))),
    "bitmap that wraps": pack.krl(pack.certificates(b"", pack.bitmap(LAST, 3))),
    "another version": pack.krl(version=2),
    "options in front": b"restrict " + keys.public_line(keys.public_blob(KEYS["p521"])).encode(),
}
UNREADABLE = {"missing", "a directory", "junk", "the magic alone", "cut short", "a byte behind",
              "unknown section", "critical extension", "unknown list of certificates", "serial zero",
              "range backwards", "bitmap that wraps", "another version", "options in front"}


def put(path: Path, name: str) -> None:
    """The list *name* in place of the file, as an operator would: by a rename."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if name == "a directory":
        path.mkdir()
    elif name != "missing":
        new = path.with_suffix(".new")
        new.write_bytes(LISTS[name])
        new.rename(path)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lists")
    directory.chmod(0o755)
    (directory / "revoked").write_bytes(b"")
    return directory / "revoked"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, lists: Path) -> Iterator[Node]:
    yield from node_like_sshd(tmp_path_factory, revoked_keys=[str(lists)], **UNBOUNDED_NODE)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, lists: Path) -> Iterator[Sshd]:
    with sshd_or_skip(tmp_path_factory, RevokedKeys=lists, **UNBOUNDED_SSHD) as server:
        yield server


@pytest.mark.parametrize("name", [*LISTS, "missing", "a directory"])
def test_both_revoke_alike(name: str, node: Node, sshd: Sshd, lists: Path) -> None:
    """Each list, put in the place of the one before while both servers run."""
    put(lists, name)
    ours = judged(node.port, CERTIFICATES)
    assert ours == judged(sshd.port, CERTIFICATES)
    if name in UNREADABLE:
        assert set(ours.values()) == {(False, False)}
        assert node.last_refusal() == "revocations_unreadable"
    elif (False, False) in ours.values():
        assert node.last_refusal() == "revoked"


# --- in memory ---------------------------------------------------------------------------------


def test_several_files_count_together(tmp_path: Path, problems: list[str]) -> None:
    for name, data in (("a", b""), ("b", pack.krl(pack.certificates(b"", pack.serials(12))))):
        (tmp_path / name).write_bytes(data)
    one = Wire(revoked_keys=(tmp_path / "a", tmp_path / "b")).start_userauth()
    assert one.numbers(REQUEST, one.request(signer=None)) == [FAILURE]
    (tmp_path / "b").write_bytes(pack.krl())
    assert one.numbers(REQUEST, one.request(signer=None)) == [PK_OK]
    (tmp_path / "a").unlink()
    assert one.numbers(REQUEST, one.request()) == [FAILURE]
    assert one.reasons() == ["revoked", "revocations_unreadable"]
    (tmp_path / "a").write_bytes(keys.public_line(keys.public_blob(USER_CA)).encode())
    assert one.numbers(REQUEST, one.request()) == [FAILURE]
    (tmp_path / "a").write_bytes(b"")
    assert one.numbers(REQUEST, one.request()) == [SUCCESS]
    assert len(problems) == 1
    problems.clear()


def test_an_unreadable_list_is_told_once(tmp_path: Path, problems: list[str]) -> None:
    """In the log when the node starts; nobody can fill the audit log with it."""
    (tmp_path / "list").write_bytes(b"junk")
    one = Wire(revoked_keys=(tmp_path / "list",), max_attempts=100).start_userauth()
    for _ in range(30):
        assert one.numbers(REQUEST, one.request()) == [FAILURE]
    assert len(one.reasons()) == 20
    assert len(problems) == 1
    assert "nobody is let in" in problems.pop()
    assert "line 1" in one.access.events[0].message


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    files = RevocationFiles([path])
    first = files()[0]
    assert files()[0] is first
    path.write_bytes(keys.public_line(SUBJECT_BLOB).encode())
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert files()[0].reason(ssh.parse_certificate(CERTIFICATE)), "a change that keeps the time is seen, too"


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path, problems: list[str]) -> None:
    os.mkfifo(tmp_path / "list")
    with pytest.raises(CertificateRejected, match="it is no file"):
        RevocationFiles([tmp_path / "list"])()
    problems.clear()


def test_trusted_cas_are_followed_too(tmp_path: Path, problems: list[str]) -> None:
    """A CA added to its file opens the next login, one taken out none; a broken file trusts nobody."""
    path = tmp_path / "cas"
    path.write_text("# none yet\n")
    company = keys.generate_ca_key()
    blob = user_certificate(SUBJECT_BLOB, company, at=START)
    one = Wire(authorization="principals", trusted_user_ca_files=(path,), max_attempts=99).start_userauth()
    line = keys.public_line(keys.public_blob(company))
    for text, answer in (
        ("# none yet\n", FAILURE), (f"{line} company\n", PK_OK), ("", FAILURE), (f"junk\n{line}\n", FAILURE),
        (f"\n# company\n{line}\n", PK_OK),
    ):
        path.write_text(text)
        assert one.numbers(REQUEST, one.request(blob, signer=None)) == [answer], text
    path.unlink()
    assert one.numbers(REQUEST, one.request(blob)) == [FAILURE]
    assert set(one.reasons()) == {"untrusted_ca"}
    assert ["not trusted until" in problem for problem in problems] == [True, True]
    problems.clear()


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028"])
@pytest.mark.parametrize("before", ["", "# "])
def test_no_ca_hides_in_a_comment(tmp_path: Path, end: str, before: str) -> None:
    """sshd ends lines by a line feed only: what looks like a comment is one."""
    path = tmp_path / "cas"
    seen, hidden = (keys.public_line(keys.public_blob(keys.generate_ca_key())) for _ in range(2))
    path.write_bytes(f"{before}{seen} company{end}{hidden} x\n{seen}\n".encode())
    assert set(TrustedCas([path])()) == {keys.parse_public_line(seen)} == set(read_cas(path))
