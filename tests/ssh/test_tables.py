"""``authorized_principals_file`` as sshd's AuthorizedPrincipalsFile: the same tables before both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.certs import keys, wire
from mezite.ssh.forwarding import Destination
from mezite.ssh.tables import PrincipalTables
from tests.ssh.client import FAILURE, REQUEST, SUBJECT_BLOB, SUCCESS, Wire
from tests.ssh.matrix.both import UNBOUNDED_NODE, UNBOUNDED_SSHD, judged, node_like_sshd, sshd_or_skip
from tests.ssh.matrix.packing import CAS, KEYS, LOGIN, Case, certificate, texts
from tests.ssh.matrix.servers import Sshd
from tests.ssh.node import user_certificate
from tests.ssh.test_openssh import Node
from tests.ssh.test_sshd import log_in


def named(*principals: bytes, **fields: bytes) -> Case:
    return Case("", True, certificate(principals=texts(*principals), **fields))


FORCED = ((b"force-command", wire.string(b"echo forced")),)
CERTIFICATES = {
    "ops": named(b"ops"),
    "ops among others": named(b"x", b"ops", b"*"),
    "login": named(LOGIN.encode()),
    "other": named(b"other"),
    "wildcard": named(b"*"),
    "none": named(),
    "with a space": named(b"o ps"),
    "forced": Case("", True, certificate(principals=texts(b"ops"), critical=FORCED)),
    "expired": Case("", True, certificate(principals=texts(b"ops"), before=1)),
    "of a host": named(b"ops", type=wire.u32(2)),
    "from elsewhere": Case("", True, certificate(
        principals=texts(b"ops"), critical=((b"source-address", wire.string(b"10.0.0.0/8")),))),
}
TABLES: dict[str, bytes] = {
    "empty": b"",
    "a comment": b"# ops\n",
    "the name": b"ops\n",
    "without a line end": b"ops",
    "among others": b"a\nb\n\n  ops  \t\nc\n",
    "with a comment": b"ops # on call\n",
    "other names": b"op\nopss\nOPS\n*\n?ps\n",
    "commas": b"x,ops\n",
    "carriage return": b"ops\r\n",
    "the login": LOGIN.encode() + b"\n",
    "a good option": b"no-pty ops\n",
    "all options": b'restrict,pty,command="true",environment="A=b",permitopen="a:1" ops\n',
    "tab": b"no-pty\tops\n",
    "an unknown option": b"no-such-option ops\n",
    "an unknown option, then good": b"no-such-option ops\nops\n",
    "a good option, twice": b'command="a",command="b" ops\n',
    "unquoted": b"command=a ops\n",
    "forced": b'command="echo entry" ops\n',
    "forced alike": b'command="echo forced" ops\n',
    "forced, empty": b'command="" ops\n',
    "from here": b'from="127.0.0.1" ops\n',
    "from a block": b'from="10.0.0.0/8,127.0.0.0/8" ops\n',
    "from a pattern": b'from="127.*" ops\n',
    "from elsewhere": b'from="10.0.0.0/8" ops\n',
    "not from here": b'from="!127.0.0.1,*" ops\n',
    "from with host bits": b'from="127.0.0.1/8" ops\n',
    "from nothing": b'from="" ops\n',
    "from elsewhere, then good": b'from="10.0.0.0/8" ops\nops\n',
    "later": b'expiry-time="20990101" ops\n',
    "over": b'expiry-time="20200101" ops\n',
    "over in UTC": b'expiry-time="202001010000Z" ops\n',
    "principals": b'principals="ops" ops\n',
    "authority": b"cert-authority ops\n",
    "authority with principals": b'cert-authority,principals="ops" ops\n',
    "words": b"a b ops\n",
    "restrict and words": b"restrict b ops\n",
    "a quoted space": b'command="x ops\n',
    "options alone": b"restrict\n",
    "hash in quotes": b'command="#" ops\n',
    "a NUL": b"a\0\nops\n",
    "not UTF-8": b"\xff\xfe\nops\n",
    "long": b"".join(b"user%d\n" % n for n in range(5000)) + b"ops\n",
    "trailing comma": b"no-pty, ops\n",
    "leading comma": b",no-pty ops\n",
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tables")
    directory.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Iterator[Node]:
    yield from node_like_sshd(
        tmp_path_factory, authorized_principals_file=f"{tables}/%u", exec="system", **UNBOUNDED_NODE
    )


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Iterator[Sshd]:
    options = {"AuthorizedPrincipalsFile": f"{tables}/%u", **UNBOUNDED_SSHD}
    with sshd_or_skip(tmp_path_factory, **options) as server:
        yield server


@pytest.mark.parametrize("name", [*TABLES, "missing", "a directory"])
def test_both_map_alike(name: str, node: Node, sshd: Sshd, tables: Path) -> None:
    path = tables / LOGIN
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if name == "a directory":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(TABLES[name])
        path.chmod(0o644)
    ours = judged(node.port, CERTIFICATES)
    assert ours == judged(sshd.port, CERTIFICATES)
    assert not any(admitted for _, admitted in (ours["none"], ours["expired"], ours["of a host"]))


def test_both_run_the_forced_command(node: Node, sshd: Sshd, tables: Path) -> None:
    """The entry's, the certificate's, and for two different ones no login at all."""
    path = tables / LOGIN
    if path.is_dir():
        path.rmdir()
    subject = keys.public_blob(KEYS["ed25519"])
    for table, forced, output in (
        (b'command="echo entry" ops\n', None, b"entry\n"),
        (b"ops\n", "echo cert", b"cert\n"),
        (b'command="echo same" ops\n', "echo same", b"same\n"),
        (b'command="echo entry" ops\n', "echo cert", b""),
        (b'command="echo $SSH_ORIGINAL_COMMAND" ops\n', None, b"asked\n"),
    ):
        path.write_bytes(table)
        path.chmod(0o644)
        options = () if forced is None else (("force-command", forced),)
        blob = user_certificate(subject, CAS["ed25519"], principals=("ops",), critical_options=options)
        for port in (sshd.port, node.port):
            assert log_in(sshd.directory, port, blob, "asked").stdout == output, (table, forced)


# --- in memory ---------------------------------------------------------------------------------


def test_tables_are_files_that_nobody_else_writes(tmp_path: Path) -> None:
    read = PrincipalTables(f"{tmp_path}/100%%-%u")
    (tmp_path / "100%-a").write_bytes(b"ops\n")
    (tmp_path / "100%-a").chmod(0o644)
    assert read("a") == b"ops\n"
    for login in ("b", "", "..", ".", "../100%-a", "a/", "a\0", "\udcff", "x" * 5000, "%u"):
        assert read(login) == b""
    for mode in (0o664, 0o646):
        (tmp_path / "100%-a").chmod(mode)
        assert read("a") == b""
    os.mkfifo(tmp_path / "100%-pipe", 0o600)
    assert read("pipe") == b""


def test_permissions_are_those_of_both(tmp_path: Path) -> None:
    """No terminal where the entry denies it, no forwarding but to where it allows."""
    (tmp_path / "deploy").write_bytes(b'no-pty,permitopen="db:5432",permitopen="*:80" ops\n')
    (tmp_path / "deploy").chmod(0o600)
    blob = user_certificate(
        SUBJECT_BLOB, principals=("ops",), valid_after=0, valid_before=2**40,
        extensions=(("permit-pty", None), ("permit-port-forwarding", None)),
    )
    one = Wire(authorization="principals", authorized_principals_file=f"{tmp_path}/%u")
    one.start_userauth()
    assert one.numbers(REQUEST, one.request(blob)) == [SUCCESS]
    user = one.server.avatar
    assert user.admitted.identity.permissions == {"permit-port-forwarding"}
    reached = [("db", 5432), ("db", 80), ("x", 80), ("db", 22), ("x", 5432), ("DB", 5432)]
    assert [user._may_reach(Destination(*one)) for one in reached] == [True, True, True, False, False, False]


def test_a_table_replaces_the_login_and_a_lock_still_holds(tmp_path: Path) -> None:
    (tmp_path / "deploy").write_bytes(b"ops\n")
    (tmp_path / "deploy").chmod(0o600)
    settings = {"authorization": "principals", "authorized_principals_file": f"{tmp_path}/%u"}
    one = Wire(**settings).start_userauth()  # type: ignore[arg-type]
    assert one.numbers(REQUEST, one.request()) == [FAILURE]
    assert one.reasons() == ["wrong_principal"]
    (tmp_path / "deploy").write_bytes(b"deploy\n")
    one.access.lock("bot", "ci", one.now())
    assert one.numbers(REQUEST, one.request()) == [FAILURE]
    assert one.reasons()[-1] == "locked"


def test_tables_need_the_mode_that_goes_by_principals() -> None:
    with pytest.raises(ValueError, match="principals"):
        Wire(authorized_principals_file="/x/%u")
