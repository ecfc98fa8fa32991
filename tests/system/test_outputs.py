"""One daemon, several destinations: real logins, rights and hooks."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.system.processes import BIN, Cluster, Finished, MachineProcess, Process, run, wait_for

NAME = "web-server-01"


def role(cluster: Cluster, name: str, login: str) -> None:
    cluster.add_role(name, allow={"node_labels": {"*": "*"}, "logins": [login]}, deny={"logins": ["root"]})


@pytest.fixture
def bot(cluster: Cluster) -> str:
    """The join token of a bot with two roles."""
    role(cluster, "deployer", "deploy")
    role(cluster, "reader", "logs")
    return cluster.add_bot("many", roles="deployer,reader")


def start(machine: MachineProcess, token: str | None, document: dict[str, object]) -> Process:
    path = machine.home / "mezd.yaml"
    path.write_text(yaml.safe_dump(document))
    words = [f"--config={path}"] + ([f"--join-token={token}"] if token else [])
    daemon = machine.daemon(*words)
    wait_for(lambda: machine.status().get("ready") or daemon.code is not None, "identity")
    assert daemon.code is None, daemon.text()
    return daemon


def login(machine: MachineProcess, place: Path, account: str) -> Finished:
    return run(["ssh", "-F", place / "ssh_config", f"{account}@{NAME}", "whoami"], machine.env)


def test_each_destination_logs_in_where_its_roles_let_it(cluster: Cluster, bot: str) -> None:
    machine = cluster.machine()
    logs, agent = machine.home / "logs", machine.home / "agent"
    out = machine.home / "hooks"
    command = ["/bin/sh", "-c", f'echo "$MEZITE_OUTPUT $MEZITE_GENERATION $MEZITE_SSH_CONFIG" >> {out}']
    document = {
        "roles": ["deployer"],
        "destinations": [
            {"name": "logs", "destination": str(logs), "roles": ["reader"], "certificate-ttl": "10m",
             "on-renew": [command]},
            {"name": "agent", "destination": str(agent), "outputs": "agent"},
        ],
    }
    daemon = start(machine, bot, document)
    for place, good, bad in ((machine.destination, "deploy", "logs"), (logs, "logs", "deploy")):
        assert login(machine, place, good).out.strip() == good, place
        assert login(machine, place, bad).code != 0
    for account in ("deploy", "logs"):
        assert login(machine, agent, account).out.strip() == account
    keys = {subprocess.run(["ssh-keygen", "-lf", place / "ssh_key-cert.pub"], capture_output=True, check=True,
                           timeout=30).stdout for place in (machine.destination, logs, agent)}
    assert len(keys) == 3, "a key for each"
    status = machine.status()
    told = {one["name"]: (one["principals"], one["roles"]) for one in status["destinations"]}
    assert told == {
        "default": (["deploy"], ["deployer"]), "logs": (["logs"], ["reader"]),
        "agent": (["deploy", "logs"], ["deployer", "reader"]),
    }
    assert status["seconds_left"] <= 600, "the shortest"
    wait_for(lambda: out.exists() and out.read_text() == f"logs 1 {logs}/ssh_config\n", "hook's line")
    before = {place: (place / "current").readlink() for place in (machine.destination, logs)}
    renewed = run([BIN / "mezctl", "identity", "renew"], machine.env)
    assert renewed.code == 0, renewed
    assert all((place / "current").readlink() != link for place, link in before.items())
    wait_for(lambda: f"logs 2 {logs}/ssh_config" in out.read_text(), "second hook's line")
    daemon.stop()
    daemon = start(machine, None, document)
    assert machine.status()["generation"] == 2
    assert len(out.read_text().splitlines()) == 2, "written only on change, and hooks with it"
    daemon.stop()
    daemon = start(machine, None, {"destinations": document["destinations"][1:]})  # type: ignore[index]
    wait_for(lambda: machine.status().get("generation") == 3, "renewal for the changed outputs")
    assert login(machine, machine.destination, "logs").out.strip() == "logs"


def test_a_failing_hook_is_told_and_harms_nothing(cluster: Cluster, bot: str) -> None:
    machine = cluster.machine()
    daemon = start(machine, bot, {"on-renew": [["/bin/false"], ["/bin/never-reached"]]})
    failure = wait_for(lambda: machine.status()["destinations"][0]["hook_failure"], "failure of the hook")
    assert failure == "/bin/false: exit code 1"
    assert "next try in 5 s" in daemon.text()
    assert machine.status()["ready"]
    assert login(machine, machine.destination, "deploy").code == 0
    assert daemon.stop() == 0


def test_two_daemons_on_one_further_destination(cluster: Cluster, bot: str) -> None:
    """Whose first one it may be, too: else a program would find now this identity there and now that."""
    shared = cluster.root / "shared"
    document = {"destinations": [{"name": "shared", "destination": str(shared)}]}
    first = cluster.machine("first")
    holder = start(first, bot, document)
    second = cluster.machine("second")
    (second.home / "mezd.yaml").write_text(yaml.safe_dump(document))
    further = second.daemon(f"--config={second.home}/mezd.yaml", f"--join-token={bot}")
    assert further.wait() == 1
    second.destination = shared
    whole = second.daemon(f"--join-token={bot}")
    assert whole.wait() == 1
    for line in further.text().splitlines():
        assert f"the destination {shared} is already in use by another process (process {holder.pid})" in line
    assert len(further.text().splitlines()) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_owner_group_and_mode(cluster: Cluster, bot: str) -> None:
    """The account that is named uses the files and the agent; nobody else does."""
    nobody, group = pwd.getpwnam("nobody"), grp.getgrnam("games")
    machine = cluster.machine()
    for path in (cluster.root, *cluster.root.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o011)
    machine.home.chmod(0o711)
    owned, grouped = machine.home / "owned", machine.home / "grouped"
    start(machine, bot, {
        "destinations": [
            {"name": "owned", "destination": str(owned), "owner": "nobody", "outputs": ["files", "agent"]},
            {"name": "grouped", "destination": str(grouped), "group": "games"},
        ]
    })
    key = (owned / "ssh_key").stat()
    assert (key.st_uid, key.st_gid, key.st_mode & 0o777) == (nobody.pw_uid, nobody.pw_gid, 0o600)
    key = (grouped / "ssh_key").stat()
    assert (key.st_uid, key.st_gid, key.st_mode & 0o777) == (0, group.gr_gid, 0o640)
    assert {path.stat().st_mode & 0o777 for path in (owned, grouped)} == {0o750}
    assert machine.destination.stat().st_mode & 0o777 == 0o700
    for place, gid in ((owned, nobody.pw_gid), (grouped, group.gr_gid)):
        done = subprocess.run(
            ["ssh", "-F", place / "ssh_config", f"deploy@{NAME}", "whoami"], env=machine.env,
            user=nobody.pw_uid, group=gid, extra_groups=[], capture_output=True, text=True, timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout.strip()) == (0, "deploy"), done
    done = subprocess.run(
        ["cat", owned / "ssh_key", grouped / "ssh_key"], user=65533, group=65533, extra_groups=[],
        capture_output=True, timeout=60, check=False,
    )
    assert done.stdout == b""
    agent = {**machine.env, "SSH_AUTH_SOCK": str(owned / "agent.sock")}
    for uid, good in ((nobody.pw_uid, True), (0, True), (65533, False)):
        listed = subprocess.run(
            ["ssh-add", "-l"], env=agent, user=uid, group=nobody.pw_gid, extra_groups=[], capture_output=True,
            timeout=60, check=False,
        )
        assert (listed.returncode == 0) == good, (uid, listed)
