"""``auth.workers``: several processes serve one port from one data directory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from mezite.certs import keys
from mezite.certs.x509 import create_server_ca, issue_leaf
from mezite.core.model import LockKind
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import make_lock, write
from tests.system.processes import BIN, Cluster, MachineProcess, Process, run, wait_for

pytestmark = [pytest.mark.system, pytest.mark.config(auth={"workers": 2})]

INTERVAL = "1s"


def children(pid: int) -> list[int]:
    """The processes that *pid* has started and that live."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(word) for word in (task / listed.name).read_text().split()]
    return sorted(found)


def workers(server: Process) -> list[int]:
    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:  # it has just ended
            return b""

    return [pid for pid in children(server.pid) if b"mezite.worker" in command(pid)]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def generation(machine: MachineProcess) -> int:
    return machine.status().get("generation") or 0


def renewed(machine: MachineProcess, beyond: int) -> int:
    """The generation of a running daemon once it is higher than *beyond*."""
    return wait_for(
        lambda: (found := generation(machine)) > beyond and found,
        f"renewal beyond generation {beyond}",
    )


@pytest.fixture
def machine(cluster: Cluster) -> MachineProcess:
    """A machine whose daemon renews every second."""
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    machine.daemon(f"--join-token={token}", f"--renewal-interval={INTERVAL}", "--certificate-ttl=2m")
    wait_for(lambda: generation(machine) >= 1, "first certificate")
    return machine


def test_both_workers_serve_machines_and_logins_work(cluster: Cluster) -> None:
    """The kernel deals out connections, and whichever worker answers, it is one cluster."""
    server = cluster.server
    assert server is not None
    pids = workers(server)
    assert len(pids) == 2
    cluster.add_role()
    before = {pid: cpu_ticks(pid) for pid in pids}
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    for _ in range(100):  # which one gets a connection is chance
        assert machine.once().code == 0
        if all(cpu_ticks(pid) > before[pid] + 1 for pid in pids):
            break
    else:
        pytest.fail(f"one worker did nothing: {before}")
    assert machine.ssh("whoami").out.strip() == "deploy"


def test_worker_that_dies_is_replaced_and_machines_go_on(cluster: Cluster, machine: MachineProcess) -> None:
    """kill -9 of a worker costs no machine its identity."""
    server = cluster.server
    assert server is not None
    before = workers(server)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(now := workers(server)) == 2 and before[0] not in now, "a worker in its place")
    renewed(machine, generation(machine) + 2)
    assert "has died (signal 9)" in server.text()


def test_worker_that_cannot_be_started_is_started_later(cluster: Cluster) -> None:
    """Without files for its pipes there is no process; with some there is one, and nobody has to help."""
    server = cluster.server
    assert server is not None
    before = workers(server)
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, most))
    try:
        os.kill(before[0], signal.SIGKILL)
        wait_for(
            lambda: "could not be started (Too many open files); it is started" in server.text(),
            "a start that fails",
        )
        # Nothing is there that could be ended or told of a change.
        server.send(signal.SIGHUP)
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
    wait_for(lambda: len(now := workers(server)) == 2 and before[0] not in now, "a worker in its place")
    assert cluster.mezctl("status").code == 0
    assert "nhandled" not in server.text()


def test_reload_replaces_every_worker_and_no_renewal_fails(cluster: Cluster, machine: MachineProcess) -> None:
    """SIGHUP: one after another, so that the port is served throughout."""
    server = cluster.server
    assert server is not None
    before = workers(server)
    known = generation(machine)
    server.send(signal.SIGHUP)
    wait_for(lambda: len(now := workers(server)) == 2 and not set(now) & set(before), "two new workers")
    renewed(machine, known + 2)
    assert cluster.mezctl("status").code == 0
    assert "has died" not in server.text()


def test_a_reload_that_cannot_start_a_worker_leaves_the_others(cluster: Cluster) -> None:
    """A bad key for TLS, by a renewal gone wrong: machines are served by the old one. With
    good files the next reload replaces all, at once."""
    key, certificate = cluster.root / "tls.key", cluster.root / "tls.pem"
    now, authority = datetime.now(UTC), keys.generate_key()
    ca = create_server_ca(authority, "example", str(uuid4()), now=now, serial=1)
    pair = issue_leaf(authority, ca, ["localhost"], now=now, ttl=timedelta(days=1), serial=2)
    key.write_bytes(pair[0])
    certificate.write_bytes(pair[1])
    document = yaml.safe_load(cluster.config.read_text())
    document["auth"]["tls"] = {"certificate": str(certificate), "key": str(key)}
    cluster.config.write_text(yaml.safe_dump(document))
    assert cluster.server is not None
    assert cluster.server.stop() == 0
    cluster.server.log.write_text("")
    server = cluster.start()
    wait_for(lambda: server.text().count("machines are served on") == 2, "two workers that serve")
    before = workers(server)
    key.write_text("none")
    server.send(signal.SIGHUP)
    wait_for(lambda: "the other workers are left as they are" in server.text(), "end of the reload")
    assert set(before) & set(workers(server))
    wait_for(lambda: json.loads(cluster.ctl("--format=json", "status"))["ready"], "a server that is ready")
    key.write_bytes(pair[0])
    server.send(signal.SIGHUP)
    wait_for(
        lambda: len(new := workers(server)) == 2 and not set(new) & set(before), "two new workers"
    )


def test_stop_ends_every_worker_before_the_head(cluster: Cluster) -> None:
    server = cluster.server
    assert server is not None
    pids = workers(server)
    assert server.stop() == 0
    assert [pid for pid in pids if lives(pid)] == []


def test_workers_end_when_their_head_is_killed(cluster: Cluster, machine: MachineProcess) -> None:
    """And the next head waits for none of them for long: the data directory is theirs until then."""
    server = cluster.server
    assert server is not None
    pids = workers(server)
    known = generation(machine)
    server.kill()
    wait_for(lambda: not any(map(lives, pids)), "end of the workers")
    cluster.start()
    renewed(machine, known + 1)


def test_second_server_on_the_port_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """The port may be shared among workers, not with a stranger's server of the same account."""
    other = tmp_path / "other.yaml"
    text = cluster.config.read_text().replace(str(cluster.data), str(tmp_path / "other"))
    other.write_text(text.replace(str(cluster.node_port), "0"))
    done = run([BIN / "twistd", "-n", "--pidfile=", "mezite-auth", "--config", other], cluster.env)
    assert done.code == 1
    assert f"cannot listen on 127.0.0.1:{cluster.port}" in done.err


def test_theft_found_by_a_worker_ends_the_live_session_on_the_node(
    cluster: Cluster, machine: MachineProcess
) -> None:
    """The lock is set by a worker; the node is the head's."""
    copy, daemon = cluster.machine("thief"), cluster.processes[-1]
    daemon.send(signal.SIGSTOP)  # nothing that is copied goes away meanwhile
    subprocess.run(["cp", "-a", machine.destination, copy.destination], check=True)
    daemon.send(signal.SIGCONT)
    (copy.destination / ".mezite" / "control.sock").unlink(missing_ok=True)
    copy.once()

    def locked() -> bool:
        listed = json.loads(cluster.ctl("--format=json", "locks", "ls"))
        return any(lock["reason"] == "generation_mismatch" for lock in listed["locks"])

    wait_for(locked, "lock for the theft")
    wait_for(lambda: machine.ssh("whoami").code == 255, "refusal at the node")


def test_what_a_worker_has_committed_and_not_told_before_it_was_killed_holds_at_the_node(
    cluster: Cluster, machine: MachineProcess
) -> None:
    """The commit is made here, by a process that tells nobody of it; then a worker dies."""
    server = cluster.server
    assert server is not None
    assert machine.ssh("whoami").code == 0
    other = SqliteStorage(cluster.data / "mezite.db")
    write(other, lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "deploy")))
    other.close()
    os.kill(workers(server)[0], signal.SIGKILL)
    wait_for(lambda: machine.ssh("whoami").code == 255, "refusal at the node")


def test_refusals_of_all_workers_are_in_the_status(cluster: Cluster) -> None:
    bad = f"tok-bot-{'0' * 12}-{'0' * 32}-{pin_of(cluster)}"
    for number in range(4):
        assert cluster.machine(f"stranger{number}").once(f"--join-token={bad}").code == 3

    def counted() -> int:
        return int(json.loads(cluster.ctl("--format=json", "status"))["refusals"].get("token_unknown", 0))

    wait_for(lambda: counted() == 4, "refusals counted")


def pin_of(cluster: Cluster) -> str:
    cluster.add_role("pinned")
    return cluster.add_bot("pinned", roles="pinned").rsplit("-", 1)[1]
