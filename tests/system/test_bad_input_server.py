"""What reaches the server, its files and its sockets from outside, and how it starts and ends."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mezite.proto.mezite.v1 import identity_pb2 as pb
from tests.system.processes import (
    BIN,
    Cluster,
    Finished,
    Process,
    call,
    environment,
    free_port,
    run,
    token_in,
    wait_for,
)

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534")
SERVICE = "/mezite.v1.IdentityService/"


def needs_nobody() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv (Debian: util-linux), to become nobody")
    tried = subprocess.run(
        [*NOBODY, "--clear-groups", BIN / "mezctl", "--version"], capture_output=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"nobody cannot run the programs in {BIN}")


def open_up(path: Path) -> None:
    """Every directory above *path* lets others through."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod((mode | 0o011) & 0o7777)


def ends(done: Finished, code: int, *parts: str, program: str = "mezite-auth") -> None:
    """With *code*, and one line on standard error that holds *parts*."""
    assert code == done.code, done
    assert len(done.lines) == 1, done
    assert done.err.startswith(f"{program}: "), done
    for part in parts:
        assert part in done.err, done
    assert "Traceback" not in done.out, done


def serve(cluster: Cluster, config: Path | None = None, *before: str) -> Finished:
    """A server in the foreground that is expected to end by itself."""
    words = [BIN / "twistd", "-n", "--pidfile=", "mezite-auth", "--config", config or cluster.config]
    return run([*before, *words], cluster.env)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that is not started."""
    made = Cluster(tmp_path)
    yield made
    made.close()


def changed(cluster: Cluster, name: str, **changes: Any) -> Path:
    """The cluster's configuration with other values, ``auth__listen_addr`` for nested ones,
    on free ports and in a directory of its own."""
    document = yaml.safe_load(cluster.config.read_text())
    document["data_dir"] = str(cluster.root / name)
    document["auth"].update(
        listen_addr=f"127.0.0.1:{free_port()}", admin_socket=str(cluster.root / name / "admin.sock")
    )
    document["ssh"]["listen_addr"] = f"127.0.0.1:{free_port()}"
    for key, value in changes.items():
        first, _, second = key.partition("__")
        if second:
            document[first][second] = value
        else:
            document[first] = value
    path = cluster.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


# --- configuration ------------------------------------------------------------------------------

CONFIGURATIONS: tuple[tuple[bytes, str], ...] = (
    (b"cluster_nme: x\n", "cluster_nme: unknown key; did you mean cluster_name?"),
    (b"auth: {listn_addr: x}\n", "auth.listn_addr: unknown key; did you mean listen_addr?"),
    (b"ssh: {enabled: true, node_nam: x}\n", "ssh.node_nam: unknown key; did you mean node_name?"),
    (b"a: [\n", "line 2, column 1"),
    (b"data_dir: a\ndata_dir: b\n", "the key 'data_dir' stands twice"),
    (b"\xff\xfe", "not UTF-8 at byte 0"),
    (b"#" * 2_000_000, "larger than 1 MiB"),
    (b"a: " + b"[" * 5000, "nested deeper than 20 levels"),
    (b"a: &a [*a]\n", "line 1, column 4: found unconstructable recursive node"),
    (b"auth: {listen_addr: '1.2.3.4:99999'}\n", "auth.listen_addr"),
    (b"a: !!python/object/apply:os.system [id]\n", "line 1, column 4"),
    (b"log: {level: loud}\n", "log.level: expected one of"),
    (b'"\\e[31mred\\nx": 1\n', r"\x1b[31mred x: unknown key"),
)


def test_a_faulty_configuration_is_told_with_file_and_key(stopped: Cluster) -> None:
    for content, part in CONFIGURATIONS:
        stopped.config.write_bytes(content)
        ends(serve(stopped), 2, f"mezite-auth: {stopped.config}: ", part)
    ends(serve(stopped, stopped.root / "none.yaml"), 2, "none.yaml: No such file or directory")
    assert not stopped.data.exists()


def test_a_faulty_role_file_changes_nothing(cluster: Cluster) -> None:
    file = cluster.root / "role.yaml"
    head = b"kind: role\nmetadata: {name: x}\n"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghij")
    )
    for content, part in (
        (b"kind: role\nmetadata: {name: x, nam: y}\nspec: {}\n", "metadata.nam: unknown key"),
        (head + b"spec: {alow: {logins: [a]}}\n", "spec.alow: unknown key; did you mean allow?"),
        (head + b"spec: {allow: {loginz: [a]}}\n", "spec.allow.loginz: unknown key"),
        (b"kind: role\xff\n", "not UTF-8 at byte 10"),
        (b"x" * 3_000_000, "larger than 1 MiB"),
        (b"[" * 20_000 + b"]" * 20_000, "nested deeper than 20 levels"),
        (b"a: " + b"[" * 100 + b"]" * 100, "nested deeper than 20 levels"),
        (bomb.encode(), "more than 100000 values, aliases written out"),
        ((bomb + "? *j\n: 1\n").encode(), "a list or mapping is no key"),
        (b"", "empty; a role has kind, metadata and spec"),
    ):
        file.write_bytes(content)
        ends(cluster.mezctl("roles", "create", f"--from-file={file}"), 2, f"{file}: ", part, program="mezctl")
    assert json.loads(cluster.ctl("--format", "json", "roles", "ls"))["roles"] == []


# --- starting and stopping ----------------------------------------------------------------------


def test_what_is_taken_is_refused_in_one_line(cluster: Cluster) -> None:
    """Data directory, ports, admin socket; nothing of the running server is touched."""
    plain = cluster.root / "plain"
    plain.write_text("mine")
    ends(serve(cluster), 1, f"{cluster.data} is already in use by another process")
    taken = f"127.0.0.1:{cluster.port}"
    ends(serve(cluster, changed(cluster, "b", auth__listen_addr=taken)), 1, taken, "stop the other server")
    node = f"127.0.0.1:{cluster.node_port}"
    ends(serve(cluster, changed(cluster, "b", ssh__listen_addr=node)), 1, f"{node} (Address already in use)")
    live = str(cluster.data / "admin.sock")
    ends(serve(cluster, changed(cluster, "b", auth__admin_socket=live)), 1, "another server already listens")
    foreign = changed(cluster, "b", auth__admin_socket=str(plain))
    ends(serve(cluster, foreign), 1, "a file that is no socket stands there")
    ends(serve(cluster, changed(cluster, "b", data_dir=str(plain))), 1, "a file stands in its way")
    ends(serve(cluster, changed(cluster, "b", auth__admin_group="no-such-group")), 1, "there is no group")
    assert plain.read_text() == "mine"
    cluster.ctl("status")


def test_a_lock_file_that_cannot_be_had_is_told(stopped: Cluster) -> None:
    """As one that a first run by root has left behind."""
    lock = stopped.data / "lock"
    lock.mkdir(parents=True)
    ends(serve(stopped), 1, f"{lock}: Is a directory; it has to be a file that this account may write to")
    lock.rmdir()
    lock.symlink_to("/etc/passwd")
    ends(serve(stopped), 1, f"{lock}: Too many levels of symbolic links; it has to be a file")


def test_daemonized_it_serves_and_ends_without_a_trace(stopped: Cluster) -> None:
    root = stopped.root

    def daemonize(config: Path, name: str) -> Finished:
        return run(
            [BIN / "twistd", f"--pidfile={root / name}.pid", f"--logfile={root / name}.log",
             f"--rundir={root}", "mezite-auth", "--config", config],
            stopped.env,
        )

    started = daemonize(stopped.config, "one")
    assert started.code == 0, started
    number = int((root / "one.pid").read_text())
    try:
        wait_for(lambda: stopped.mezctl("status").code == 0, "answer to mezctl")
        ca = stopped.ctl("ca", "export", "--type=server").encode()
        cluster = pb.GetClusterResponse.FromString(call(stopped.port, ca, SERVICE + "GetCluster", b""))
        assert cluster.cluster_name == "example"
        taken = f"127.0.0.1:{stopped.port}"
        second = daemonize(changed(stopped, "two", auth__listen_addr=taken), "two")
        assert second.code == 1, second
        assert second.lines[0].startswith(f"mezite-auth: cannot listen on {taken}")
        assert not (root / "two.pid").exists()
        assert f"cannot listen on {taken}" in (root / "two.log").read_text()
    finally:
        os.kill(number, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{number}").exists(), "end of the server")
    assert not (root / "one.pid").exists()
    assert not (stopped.data / "admin.sock").exists()
    assert "Traceback" not in (root / "one.log").read_text()


def test_options_of_twistd_that_come_too_late_are_refused(stopped: Cluster) -> None:
    """It would make everything as root, change its account, and could do nothing then."""

    def started(*options: str) -> Finished:
        words = [BIN / "twistd", *options, "-n", "--pidfile=", "mezite-auth", "--config", stopped.config]
        return run(words, stopped.env)

    ends(started("--uid=65534", "--gid=65534"), 2, "--uid and --gid come too late", "start twistd as that")
    ends(started("--euid", "--gid=65534"), 2, "--uid and --gid come too late")
    ends(started(f"--chroot={stopped.root}"), 2, "--chroot")
    assert not stopped.data.exists()


def test_without_a_configuration_and_without_rights_it_works(tmp_path: Path) -> None:
    needs_nobody()
    if Path("/etc/mezite/mezite.yaml").exists() or _is_taken(3025):
        pytest.skip("this machine has a server of its own, on port 3025 or configured in /etc/mezite")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    open_up(home)
    env, log = environment(home), tmp_path / "server.log"
    words = [*NOBODY, "--clear-groups", BIN / "twistd", "-n", "--pidfile=", "mezite-auth"]
    server = Process(words, env, log)
    try:
        asked = [*NOBODY, "--clear-groups", BIN / "mezctl", "status"]
        wait_for(lambda: server.code is not None or run(asked, env).code == 0, "answer to mezctl")
        assert server.code is None, server.text()
        assert server.stop() == 0
    finally:
        server.end_group()
    made = home / ".local/share/mezite"
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "mezite.db").stat().st_mode & 0o777 == 0o600


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_ends_calls_in_flight_and_loses_no_machine(cluster: Cluster) -> None:
    """Four machines renew all the time; three stops among them, each with exit code 0."""
    cluster.add_role()
    cluster.add_bot()
    token = token_in(cluster.ctl("tokens", "create", "--bot=github-deploy", "--uses=4"))
    machines = [cluster.machine(f"m{number}") for number in range(4)]
    daemons = [machine.daemon(f"--join-token={token}", "--renewal-interval=1s") for machine in machines]

    def generations() -> list[int]:
        return [int(machine.status().get("generation") or 0) for machine in machines]

    for _ in range(3):
        before = wait_for(lambda: all(found := generations()) and found, "identities")
        wait_for(lambda before=before: generations() > before, "renewals")
        assert cluster.server is not None
        assert cluster.server.stop() == 0, cluster.server.text()
        cluster.start()
    before = generations()
    wait_for(lambda: all(new > old for new, old in zip(generations(), before, strict=True)), "renewals")
    assert [daemon.code for daemon in daemons] == [None] * 4
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
    assert cluster.server is not None
    assert "Traceback" not in cluster.server.text()


def test_listing_the_commands_of_twistd_loads_nothing_of_ours(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['twistd', '--help']; from twisted.scripts.twistd import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules))"
    )
    done = run([sys.executable, "-c", code], environment(tmp_path))
    assert "mezite-auth" in done.out
    loaded = {name.partition(".")[0] for name in done.out.splitlines()[-1].split()}
    assert "twisted" in loaded
    assert not loaded & {"grpc", "cryptography", "mezite", "OpenSSL", "yaml"}


# --- the database -------------------------------------------------------------------------------


def test_a_database_that_is_unfit_is_told_and_left_as_it_is(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    assert cluster.server is not None
    cluster.server.stop()
    database = cluster.data / "mezite.db"
    good = database.read_bytes()
    foreign = cluster.root / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as other:
        other.execute("create table t (a)")
    newer = cluster.root / "newer.db"
    newer.write_bytes(good)
    with contextlib.closing(sqlite3.connect(newer)) as other, other:
        other.execute("insert into schema_migrations values (99, '0099_future')")
    for content, part in (
        (b"hello world", "is not a SQLite database"),
        (os.urandom(100_000), "is not a SQLite database"),
        (good[: len(good) // 2], "damaged"),
        (good[:8192] + os.urandom(8192) + good[16384:], "damaged"),
        (foreign.read_bytes(), "is a database of another program"),
        (newer.read_bytes(), "has schema 99"),
    ):
        for name in ("mezite.db-wal", "mezite.db-shm"):
            (cluster.data / name).unlink(missing_ok=True)
        database.write_bytes(content)
        ends(serve(cluster), 1, str(database), part)
        assert content == database.read_bytes()
    database.unlink()
    database.mkdir()
    ends(serve(cluster), 1, "is a directory")
    database.rmdir()
    database.write_bytes(good)
    cluster.start()
    assert machine.once().code == 0


def test_a_database_without_rights_is_told(cluster: Cluster) -> None:
    needs_nobody()
    assert cluster.server is not None
    cluster.server.stop()
    open_up(cluster.data)
    for path in (cluster.root, cluster.data, *cluster.data.iterdir()):
        os.chown(path, 65534, 65534)
    database = cluster.data / "mezite.db"
    nobody = (*NOBODY, "--clear-groups")
    database.chmod(0o400)
    ends(serve(cluster, None, *nobody), 1, f"{database} cannot be used: this account cannot read")
    database.chmod(0o600)
    os.chown(cluster.data, 0, 0)
    ends(serve(cluster, None, *nobody), 1, str(cluster.data), "writ")
    missing = changed(cluster, "missing", data_dir="/proc/none/mezite")
    ends(serve(cluster, missing), 1, "data_dir /proc/none/mezite: No such file or directory")


# --- the operator's socket ----------------------------------------------------------------------


def test_an_admin_socket_that_is_none_is_told(cluster: Cluster) -> None:
    plain = cluster.root / "plain"
    plain.write_text("mine")
    for path, part in (
        (cluster.root / "none.sock", "there is no socket at"),
        (plain, "that is no socket"),
        (cluster.root, "that is no socket"),
    ):
        done = run([BIN / "mezctl", "--socket", path, "status"], cluster.env)
        ends(done, 1, part, str(path), "start the server with", program="mezctl")
    assert cluster.server is not None
    cluster.server.kill()
    ends(cluster.mezctl("status"), 1, "nobody listens there any more", program="mezctl")
    cluster.start()
    cluster.ctl("status")


def test_only_the_admin_group_is_let_in(tmp_path: Path) -> None:
    needs_nobody()
    group = grp.getgrgid(max(entry.gr_gid for entry in grp.getgrall() if 0 < entry.gr_gid < 60000))
    place = tmp_path / "run" / "admin.sock"
    made = Cluster(tmp_path, {"auth": {"admin_socket": str(place), "admin_group": group.gr_name}})
    open_up(place.parent)
    try:
        server = made.start(wait=False)
        asked = [BIN / "mezctl", "--socket", place, "bots", "ls"]
        wait_for(lambda: server.code is not None or run(asked, made.env).code == 0, "answer to mezctl")
        member = run([*NOBODY, f"--groups={group.gr_gid}", *asked], made.env)
        assert member.code == 0, (member, server.text())
        stranger = run([*NOBODY, "--clear-groups", *asked], made.env)
        ends(stranger, 3, f"a member of the group {group.gr_name}", "(permission_denied)", program="mezctl")
    finally:
        made.close()


def ask(path: Path, *chunks: bytes) -> bytes:
    """What the socket at *path* answers to *chunks*, until it has said everything."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(path))
        answer = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                peer.sendall(chunk)
            peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while chunk := peer.recv(65536):
                answer += chunk
    return answer


def test_malformed_requests_of_operators_get_typed_errors(cluster: Cluster) -> None:
    path = cluster.data / "admin.sock"
    head = b'{"jsonrpc": "2.0", "id": 1, "method": '
    for line, code in (
        (b"{nope}\n", "parse_error"),
        (b"\xff\xfe\n", "parse_error"),
        (b"\n", "parse_error"),
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", "parse_error"),
        (b'{"id": ' + b"9" * 10_000 + b"}\n", "parse_error"),
        (head + b'"bots.show", "params": {"name": "\\ud800"}}\n', "parse_error"),
        (b"[]\n", "invalid_request"),
        (head + b'"nope"}\n', "method_not_found"),
        (head + b'"bots.show", "params": {"name": 5}}\n', "invalid"),
        (head + b'"bots.show", "params": {"name": "a\\u0000b"}}\n', "invalid"),
        (head + b'"' + b"x" * 3_000_000 + b'"}\n', "too_large"),
        (b"x" * 3_000_000, "too_large"),
    ):
        for _ in range(3):
            answer = json.loads(ask(path, line))
            assert answer["error"]["data"]["code"] == code, (line[:60], answer)
    assert ask(path, head) == b""
    assert ask(path) == b""
    assert json.loads(ask(path, head + b'"status"}\n'))["result"]["cluster_name"] == "example"
    assert cluster.server is not None
    assert "Traceback" not in cluster.server.text()


def test_two_hundred_connections_to_the_admin_socket(cluster: Cluster) -> None:
    """Those above the limit are told so; when they are gone, everything is as before."""
    path = cluster.data / "admin.sock"
    answers: list[bytes] = []
    with contextlib.ExitStack() as open_ones:
        for _ in range(200):
            peer = open_ones.enter_context(socket.socket(socket.AF_UNIX))
            # Blocking: it waits in line like any other.
            peer.connect(str(path))
            peer.settimeout(30)
            answers.append(b"")
            if len(answers) > 64:
                answers[-1] = peer.recv(4096)
        assert all(json.loads(answer)["error"]["data"]["code"] == "busy" for answer in answers[64:])
        ends(cluster.mezctl("status"), 1, "(busy)", program="mezctl")
    wait_for(lambda: cluster.mezctl("status").code == 0, "answer once there is room")
    assert cluster.server is not None
    assert "Traceback" not in cluster.server.text()


def test_a_burst_of_mezctl_waits_its_turn(cluster: Cluster) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(cluster.mezctl("status").code)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [0] * 12


# --- the machines' port -------------------------------------------------------------------------


def refusal(port: int, ca: bytes, method: str, message: bytes) -> tuple[grpc.StatusCode, str, str]:
    """Status, details and reason that *message* is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(port, ca, method, message)
    error: Any = caught.value
    trailers = dict(error.trailing_metadata() or ())
    reason = pb.Refusal.FromString(trailers.get("mezite-refusal-bin", b"")).reason
    return error.code(), error.details(), reason


def signed(body: pb.JoinBody | pb.RenewBody | bytes) -> bytes:
    data = body if isinstance(body, bytes) else body.SerializeToString()
    return pb.SignedRequest(body=data, signature=b"x").SerializeToString()


def test_malformed_messages_of_machines_get_typed_errors(cluster: Cluster) -> None:
    ca = cluster.ctl("ca", "export", "--type=server").encode()
    key = pb.SshKey(output="default", public_key=b"k")
    token = pb.JoinToken(id="tok-bot-\x1b[31m\n", secret="s" * 32)
    join = pb.JoinBody(token=token, lineage_key=b"x", ssh_keys=[key])
    renew = pb.RenewBody(
        instance_id="00000000-0000-0000-0000-000000000000", generation=1, lineage_key=b"x", certificate=b"y",
        new_lineage_key=b"z", ssh_keys=[key],
    )
    not_utf8 = join.SerializeToString().replace(b"tok-bot", b"\xff\xfebot\xff\xfe")
    for method in ("Join", "Renew"):
        for message in (
            b"", b"\xff" * 50, b"\x07" + os.urandom(1000), b"\x0a\xff\xff\xff\xff\x0f", signed(b""),
            signed(b"\xff" * 99), signed(join), signed(renew), signed(not_utf8),
        ):
            code, details, reason = refusal(cluster.port, ca, SERVICE + method, message)
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"), (method, details)
            assert "Exception" not in details
            assert details.isprintable()
        for size in (70_000, 10_000_000):
            code, _, _ = refusal(cluster.port, ca, SERVICE + method, bytes(size))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    for method in (SERVICE + "Nope", "/x/y", "/", "nonsense"):
        assert refusal(cluster.port, ca, method, b"")[0] is grpc.StatusCode.UNIMPLEMENTED
    # What speaks no gRPC, or no TLS at all.
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4000), b"\x16\x03\x01" + b"\xff" * 200):
        with socket.create_connection(("127.0.0.1", cluster.port)) as peer:
            peer.sendall(data)
    with _tls(cluster.port, ssl.TLSVersion.TLSv1_3) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
    cluster.add_role()
    assert cluster.machine().once(f"--join-token={cluster.add_bot()}").code == 0
    assert cluster.server is not None
    log = cluster.server.text()
    assert "Traceback" not in log
    assert "\x1b" not in log
    assert not re.search(r"^[EIW]\d{4} ", log, re.M)


def _tls(port: int, version: ssl.TLSVersion) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _header(name: bytes, value: bytes) -> bytes:
    """RFC 7541 §6.2.2: a literal without indexing, its name spelled out."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_a_call_over_tls_1_2_is_refused(cluster: Cluster) -> None:
    """By hand, in HTTP/2 frames (RFC 9113): our own client speaks 1.3 only."""
    headers = b"".join(
        _header(name, value) for name, value in (
            (b":method", b"POST"), (b":scheme", b"https"), (b":path", (SERVICE + "GetCluster").encode()),
            (b":authority", b"localhost"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
        )
    )
    with _tls(cluster.port, ssl.TLSVersion.TLSv1_2) as peer:
        peer.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, headers)
            + _frame(0, 1, 1, bytes(5))
        )
        answer = b""
        while b"TLS 1.3 is required" not in answer:
            chunk = peer.recv(65536)
            assert chunk, answer
            answer += chunk
    assert b"example" not in answer


def test_health_and_reflection_are_served(cluster: Cluster) -> None:
    ca = cluster.ctl("ca", "export", "--type=server").encode()
    check = "/grpc.health.v1.Health/Check"
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "mezite.v1.IdentityService"):
        asked = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        found = health_pb2.HealthCheckResponse.FromString(call(cluster.port, ca, check, asked))
        assert found.status == serving
    asked = health_pb2.HealthCheckRequest(service="nobody").SerializeToString()
    assert refusal(cluster.port, ca, check, asked)[0] is grpc.StatusCode.NOT_FOUND
    options = (("grpc.ssl_target_name_override", "auth.mezite.internal"),)
    credentials = grpc.ssl_channel_credentials(ca)
    with grpc.secure_channel(f"127.0.0.1:{cluster.port}", credentials, options) as channel:
        info = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        answer = reflection_pb2.ServerReflectionResponse.FromString(next(info(iter([question]), timeout=30)))
    names = {service.name for service in answer.list_services_response.service}
    assert {"mezite.v1.IdentityService", "grpc.health.v1.Health"} <= names


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.config(log={"level": "debug"}, ca_key_passphrase="correct-horse-battery-staple")
def test_secrets_stay_out_of_logs_audit_and_error_lines(cluster: Cluster) -> None:
    cluster.add_role()
    token = cluster.add_bot()
    machine, other = cluster.machine(), cluster.machine("other")
    daemon = machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
    wait_for(lambda: (machine.status().get("generation") or 0) > 1, "renewal")
    status = json.dumps(machine.status())
    daemon.stop()
    foreign = f"{token.rpartition('-')[0]}-{'0' * 32}"
    lines = [
        other.once(f"--join-token={words}").err
        for words in (token, token[:-1], token.replace("bot", "bit"), foreign)
    ]
    lines.append(machine.once(f"--join-token={token}").err)
    cluster.ctl("bots", "rotate-token", "github-deploy")
    lines += [cluster.mezctl("bots", "add", "--name=github-deploy", "--roles=ci-deployer").err]
    told = cluster.ctl("audit", "ls", "--all") + cluster.ctl("--format", "json", "audit", "ls", "--all")
    assert cluster.server is not None
    cluster.server.stop()
    wrong = changed(cluster, "wrong", ca_key_passphrase="wrong-horse", data_dir=str(cluster.data))
    refused = serve(cluster, wrong)
    ends(refused, 1, "ca_key_passphrase does not open")
    with contextlib.closing(sqlite3.connect(cluster.data / "mezite.db")) as database:
        told += "\n".join(str(row) for row in database.execute("select * from events"))
        pems = b"".join(row[0] for row in database.execute("select private_pem from authorities"))
        assert pems.count(b"ENCRYPTED") > 0
    where = {
        "server.log": cluster.server.text(), "mezd.log": daemon.text(), "errors": "\n".join(lines),
        "audit": told, "status": status, "refused": refused.out + refused.err,
    }
    key = (machine.destination / "ssh_key").read_text().splitlines()[2]
    for name, text in where.items():
        for secret in (token.split("-")[3], "correct-horse", "wrong-horse", "PRIVATE KEY", key):
            assert secret not in text, (name, secret)
