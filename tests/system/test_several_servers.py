"""Several auth servers on one PostgreSQL, with real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.processes import BIN, Cluster, MachineProcess, Process, free_port, run, wait_for

pytestmark = pytest.mark.postgres


@pytest.fixture
def servers(tmp_path: Path, database: dict[str, Any]) -> Iterator[list[Cluster]]:
    """Two, started together on an empty database."""
    made = []
    for name in ("a", "b"):
        root = tmp_path / name
        root.mkdir()
        made.append(Cluster(root, {"database": database, "ssh": {"node_name": f"node-{name}"}}))
    for one in made:
        one.start(wait=False)
    try:
        for one in made:
            wait_for(one.is_serving, f"server {one.root.name}")
        yield made
    finally:
        for one in made:
            one.close()


def generation(machine: MachineProcess) -> int:
    return int(machine.status().get("generation") or 0)


def addresses(*servers: Cluster) -> str:
    return "--auth-server=" + ",".join(f"127.0.0.1:{one.port}" for one in servers)


def live_session(machine: MachineProcess, node: Cluster) -> Process:
    """A login to the node of *node* that nobody ends."""
    files = machine.destination
    command = (
        f'sleep 60 | ssh -F none -p {node.node_port} -i "{files}/ssh_key" -o StrictHostKeyChecking=no '
        f"-o UserKnownHostsFile=/dev/null -o BatchMode=yes deploy@127.0.0.1 echo"
    )
    return node.spawn(["sh", "-c", command], machine.env, machine.home / "session.log")


def test_a_lock_set_at_one_server_ends_a_session_at_the_other(servers: list[Cluster]) -> None:
    """And stops renewals and logins there; the unlock lets them on."""
    first, second = servers
    first.add_role()
    machine = second.machine()
    token = first.add_bot()
    machine.daemon(f"--join-token={token}", "--renewal-interval=2s", addresses(second))
    wait_for(lambda: generation(machine), "join at the other server")
    assert machine.ssh("whoami", options=["-o", "StrictHostKeyChecking=no"]).out == "deploy\n"
    session = live_session(machine, second)
    wait_for(lambda: "session.start" in second.ctl("audit", "ls"), "session")
    first.ctl("bots", "lock", "github-deploy", "--reason=looked odd")
    wait_for(lambda: "locked" in (machine.home / "session.log").read_text(), "end of the session")
    assert machine.ssh("whoami", options=["-o", "StrictHostKeyChecking=no"]).code == 255
    wait_for(lambda: "locked" in str(machine.status().get("last_error")), "refused renewal")
    before = generation(machine)
    first.ctl("bots", "unlock", "github-deploy")
    wait_for(lambda: generation(machine) > before, "renewal after the unlock")
    session.end_group()


def test_a_daemon_goes_to_the_next_server_and_mezctl_too(servers: list[Cluster]) -> None:
    """One pinned trust holds for all of them; both servers made one cluster."""
    first, second = servers
    first.add_role()
    uuids = {json.loads(one.ctl("--format", "json", "status"))["cluster_uuid"] for one in servers}
    assert len(uuids) == 1
    machine = first.machine()
    daemon = machine.daemon(
        f"--join-token={first.add_bot()}", "--renewal-interval=1s", addresses(first, second)
    )
    wait_for(lambda: generation(machine) > 1, "renewal")
    assert first.server is not None
    assert second.server is not None
    sockets = f"{first.data}/admin.sock,{second.data}/admin.sock"
    for stopped in (first, second):
        assert stopped.server is not None
        stopped.server.kill()
        before = generation(machine)
        wait_for(lambda before=before: generation(machine) > before + 2, "renewals by the other server")
        done = run([BIN / "mezctl", "--socket", sockets, "bots", "ls"], first.env)
        assert (done.code, "github-deploy" in done.out) == (0, True), done
        stopped.start()
    assert daemon.code is None
    assert json.loads(first.ctl("--format", "json", "locks", "ls"))["locks"] == []
    # Without flags it remembers them all.
    assert daemon.stop() == 0
    env = {**machine.env, "MEZITE_DESTINATION": str(machine.destination)}
    first.spawn([BIN / "mezd", "identity", "start", "--renewal-interval=1s"], env, machine.home / "again.log")
    before = generation(machine)
    first.server.kill()
    wait_for(lambda: generation(machine) > before + 2, "renewals after a restart without flags")


def test_workers_of_a_server_use_it_too(tmp_path: Path, database: dict[str, Any]) -> None:
    """Joins, renewals and a lock, whichever worker answers."""
    root = tmp_path / "s"
    root.mkdir()
    cluster = Cluster(root, {"database": database, "auth": {"workers": 2}})
    try:
        cluster.start()
        cluster.add_role()
        machines = [cluster.machine(f"m{number}") for number in range(4)]
        for machine in machines:
            token = cluster.add_bot(f"bot-{machine.home.name}")
            machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
        for machine in machines:
            wait_for(lambda machine=machine: generation(machine) > 4, "renewals")
        cluster.ctl("locks", "add", "--role=ci-deployer")
        for machine in machines:
            is_locked = lambda machine=machine: "locked" in str(machine.status().get("last_error"))  # noqa: E731
            wait_for(is_locked, "refused renewal")
        refused = cluster.mezctl("backup", tmp_path / "copy.db")
        assert (refused.code, "pg_dump" in refused.err) == (3, True), refused
    finally:
        cluster.close()


@pytest.mark.parametrize("fault", ["password", "port"])
def test_a_database_that_cannot_be_had_is_one_line_and_exit_code_1(
    tmp_path: Path, database: dict[str, Any], fault: str
) -> None:
    """It names host, port and account, and never the password."""
    wrong = {"password": "s3cret-wrong"} if fault == "password" else {"port": free_port()}
    cluster = Cluster(tmp_path, {"database": {**database, **wrong}})
    try:
        server = cluster.start(wait=False)
        assert server.wait() == 1
        text = server.text()
        (line,) = [line for line in text.splitlines() if line.startswith("mezite-auth: ")]
        assert f"127.0.0.1:{ {**database, **wrong}['port'] }" in line
        assert "user mezite" in line
        assert "s3cret" not in text
        assert database["password"] not in text
    finally:
        cluster.close()


def test_the_fleet_goes_on_after_the_move_from_sqlite(tmp_path: Path, database: dict[str, Any]) -> None:
    """`mezctl db migrate`: refused while the server runs, by whatever name, and when it was done before;
    the same machines renew, and the old file starts no server."""
    root = tmp_path / "s"
    root.mkdir()
    cluster = Cluster(root)
    try:
        cluster.start()
        cluster.add_role()
        machines = [cluster.machine(f"m{number}") for number in range(3)]
        for machine in machines:
            token = cluster.add_bot(f"bot-{machine.home.name}")
            machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
        for machine in machines:
            wait_for(lambda machine=machine: generation(machine) > 2, "renewals on SQLite")
        document = yaml.safe_load(cluster.config.read_text())
        cluster.config.write_text(yaml.safe_dump({**document, "database": database}))
        migrate = ["db", "migrate", "--from", "sqlite", "--to", "postgres", "--config", cluster.config]
        refused = cluster.mezctl(*migrate)
        assert (refused.code, "already in use" in refused.err) == (3, True), refused
        link = cluster.root / "link.db"
        link.symlink_to(cluster.data / "mezite.db")
        by_link = cluster.mezctl(*migrate, "--file", link)
        assert (by_link.code, "already in use" in by_link.err) == (3, True), by_link
        assert not (cluster.root / "lock").exists()
        assert cluster.server is not None
        cluster.server.stop()
        before = {machine.home.name: generation(machine) for machine in machines}
        moved = cluster.mezctl(*migrate)
        assert moved.code == 0, moved
        assert "instances:" in moved.out
        assert database["password"] not in moved.out + moved.err
        assert not (cluster.data / "mezite.db").exists()
        (cluster.data / "mezite.db.moved").rename(cluster.data / "copy.db")
        again = cluster.mezctl(*migrate, "--file", cluster.data / "copy.db")
        assert (again.code, "holds this cluster already" in again.err) == (3, True), again
        cluster.start()
        for machine in machines:
            goal = before[machine.home.name] + 2
            has_gone_on = lambda machine=machine, goal=goal: generation(machine) >= goal  # noqa: E731
            wait_for(has_gone_on, "renewals on PostgreSQL", 60)
            assert machine.ssh("whoami").out == "deploy\n"
        assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
        assert "generation_adopted" not in cluster.ctl("audit", "ls", "--all")
    finally:
        cluster.close()


def test_a_dump_is_a_backup(postgres_server: Any, tmp_path: Path, database: dict[str, Any]) -> None:
    """pg_dump while the server runs, and pg_restore into a new database: as docs/storage.md says."""
    root = tmp_path / "s"
    root.mkdir()
    cluster = Cluster(root, {"database": database})
    try:
        cluster.start()
        cluster.add_role()
        machine = cluster.machine()
        machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
        wait_for(lambda: generation(machine) > 1, "renewal")
        dump = postgres_server.root / f"{database['name']}.dump"
        where = ["-h", postgres_server.root, "-p", postgres_server.port, "-U", "mezite"]
        postgres_server.tool("pg_dump", *where, "--format=custom", f"--file={dump}", database["name"])
        reached = generation(machine) + 2
        wait_for(lambda: generation(machine) >= reached, "renewals after the dump")
        assert cluster.server is not None
        cluster.server.stop()
        postgres_server.empty(database["name"])
        with postgres_server.superuser(database["name"]) as connection:
            connection.execute("drop schema public cascade; create schema public authorization mezite")
        postgres_server.tool("pg_restore", *where, f"--dbname={database['name']}", "--no-owner",
                             "--exit-on-error", "--schema=public", dump)
        cluster.start()
        wait_for(lambda: "put back" in cluster.ctl("status"), "that it is an older copy")
        cluster.ctl("restore")
        wait_for(lambda: generation(machine) >= reached + 2, "renewals after the restore", 60)
        assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
    finally:
        cluster.close()
