"""The node of a real server: what operators change takes effect in live connections and at the next login."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from mezite.admin.client import connect
from tests.system.processes import (
    TIMEOUT,
    Cluster,
    Finished,
    MachineProcess,
    Process,
    free_port,
    run,
    wait_for,
)

ME = pwd.getpwuid(os.geteuid()).pw_name
SYSTEM = {"exec": "system", "run_as": ME}
NAME = "web-server-01"
FREE = {"max_session_ttl": "1h", "file_copy": True, "port_forwarding": True}


def joined(cluster: Cluster, *words: str, **spec: Any) -> MachineProcess:
    cluster.add_role(**{"deny": {"logins": ["nobody"]}, **spec})
    machine = cluster.machine()
    done = machine.once(f"--join-token={cluster.add_bot()}", *words)
    assert done.code == 0, done
    return machine


def events(cluster: Cluster, *kinds: str) -> list[dict[str, Any]]:
    found = yaml.safe_load(cluster.ctl("audit", "ls", "--format", "json"))["events"]
    return [one for one in found if one["event_type"] in kinds]


def spawn(machine: MachineProcess, name: str, *words: str) -> Process:
    """A client that stays, in the background; its input never ends."""
    command = 'sleep 60 | exec ssh -F "$@"'
    return machine.cluster.spawn(
        ["sh", "-c", command, "sh", machine.destination / "ssh_config", *words],
        machine.env, machine.home / f"{name}.log",
    )


def speaks(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def running(marker: str) -> bool:
    done = subprocess.run(["pgrep", "-fx", f"sleep {marker}"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.config(ssh=SYSTEM)
def test_a_lock_ends_terminals_and_forwardings(cluster: Cluster) -> None:
    """With everything that a terminal's shell has started, in its background too."""
    machine = joined(cluster, options=FREE)
    marker = f"6{free_port()}.125"
    terminal = spawn(
        machine, "terminal", "-tt", f"deploy@{NAME}",
        f"set -m; trap '' HUP; sleep {marker} & echo ready; cat",
    )
    wait_for(lambda: "ready" in terminal.text(), "terminal")
    assert running(marker)
    port = free_port()
    tunnel = spawn(machine, "tunnel", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{cluster.port}",
                   f"deploy@{NAME}")
    wait_for(lambda: speaks(port), "tunnel")
    with socket.create_connection(("127.0.0.1", port)) as live:
        wait_for(lambda: len(events(cluster, "port.forward")) >= 2, "forwarding in the audit log")
        cluster.ctl("bots", "lock", "github-deploy", "--reason=looked odd")
        live.settimeout(TIMEOUT)
        assert live.recv(1) == b""
    for client in (terminal, tunnel):
        wait_for(lambda: "locked" in client.text(), "end of the session")  # noqa: B023
    wait_for(lambda: not running(marker), "end of what the terminal ran")
    ended = wait_for(lambda: events(cluster, "session.end"), "session's end in the audit log")
    assert [one["reason"] for one in ended] == ["locked"]
    assert {one["reason"] for one in events(cluster, "user.logout")} == {"locked"}


@pytest.mark.config(ssh=SYSTEM)
def test_a_changed_role_holds_from_the_next_login_on(cluster: Cluster) -> None:
    """For what is already issued: rights, logins and nodes are the server's to say."""
    machine = joined(cluster, options=FREE, allow={"node_labels": {"env": "^sta.*$"}, "logins": ["deploy"]})
    elsewhere = f"127.0.0.1:{cluster.port}"
    assert machine.ssh("true").code == 0
    assert machine.ssh(options=["-W", elsewhere]).code == 0
    cluster.add_role(options={"max_session_ttl": "1h"}, deny={"logins": ["nobody"]})
    assert machine.ssh(options=["-W", elsewhere]).code == 255
    assert machine.ssh("rsync --server . .").code == 1
    cluster.add_role(deny={"logins": ["deploy"]})
    assert machine.ssh("true").code == 255
    cluster.add_role(deny={"logins": ["nobody"], "node_labels": {"env": "*"}})
    assert machine.ssh("true").code == 255
    cluster.add_role(deny={"logins": ["nobody"]}, allow={"node_labels": {"*": "*"}, "logins": ["deploy"]})
    assert machine.ssh("true").code == 0


@contextlib.contextmanager
def reading(cluster: Cluster, callers: int = 4) -> Iterator[None]:
    """Operators who list all bots without a pause: the server's readers are never idle."""
    socket_path, ended = cluster.data / "admin.sock", threading.Event()

    def call(method: str, *requests: dict[str, Any], until: Callable[[], bool] = lambda: True) -> None:
        with contextlib.closing(connect([socket_path], remedy="", timeout=TIMEOUT)) as client:
            while True:
                for params in requests:
                    client.call(method, params)
                if until():
                    return

    call("bots.add", *({"name": f"idle-{number}", "roles": ["ci-deployer"]} for number in range(200)))
    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call, "bots.ls", {"limit": 200}, until=ended.is_set) for _ in range(callers)]
        try:
            yield
        finally:
            ended.set()
        for one in calls:
            one.result()


def test_a_lock_holds_at_once_however_much_is_read(cluster: Cluster) -> None:
    """The node reads its policy anew after a change, and keeps it: it must be the new one."""
    machine = joined(cluster, allow={"node_labels": {"*": "*"}, "logins": ["deploy", "watch"]})
    # While somebody is logged in, a change is read at once, not at the next login.
    session = spawn(machine, "session", "-N", f"watch@{NAME}")
    wait_for(lambda: events(cluster, "user.login"), "session")
    with reading(cluster):
        for _ in range(6):
            lock = yaml.safe_load(cluster.ctl("locks", "add", "--login=deploy", "--format=json"))["lock"]
            assert machine.ssh("true").code == 255
            cluster.ctl("locks", "rm", lock["id"])
            assert machine.ssh("true").code == 0
    assert "locked" not in session.text()


@pytest.mark.config(ssh=SYSTEM)
def test_the_audit_log_tells_each_login_and_what_ran(cluster: Cluster) -> None:
    machine = joined(cluster)
    assert machine.ssh("echo hello; exit 3").code == 3
    assert machine.ssh("true", login="nobody").code == 255

    def told() -> Any:
        found = events(cluster, "user.login", "session.start", "session.end", "authz.denied")
        return found if len(found) == 4 else None

    login, start, end, denied = sorted(wait_for(told, "audit events"), key=lambda one: int(one["id"]))
    assert [one["event_type"] for one in (login, start, end, denied)] == [
        "user.login", "session.start", "session.end", "authz.denied",
    ]
    for one in (login, start, end, denied):
        fields = one["fields"]
        assert one["client_ip"] == "127.0.0.1"
        assert fields["key_id"].startswith("github-deploy/")
        assert fields["ca"].startswith("SHA256:")
        assert int(fields["serial"]) > 0
    assert (end["fields"]["command"], end["fields"]["exit_status"]) == ("echo hello; exit 3", 3)
    assert end["fields"]["bytes_out"] == 6
    assert (denied["reason"], denied["success"]) == ("wrong_principal", False)


@pytest.mark.config(ssh={**SYSTEM, "end_sessions_at_expiry": True})
def test_sessions_can_end_with_their_certificate(cluster: Cluster) -> None:
    machine = joined(cluster, "--certificate-ttl=10s", "--renewal-interval=5s")
    session = spawn(machine, "session", f"deploy@{NAME}", "echo ready; sleep 60")
    wait_for(lambda: "the certificate has expired" in session.text(), "end of the session")
    ended = wait_for(lambda: events(cluster, "session.end"), "session's end in the audit log")
    assert [one["reason"] for one in ended] == ["expired"]


def test_builtin_is_safe_whatever_the_roles_allow(cluster: Cluster) -> None:
    """The default: no files, no forwarding, no terminal, no command of the system."""
    machine = joined(cluster, options=FREE)
    assert machine.ssh("id").code == 127
    assert machine.ssh(options=["-W", f"127.0.0.1:{cluster.port}"]).code == 255
    assert machine.ssh("sftp", options=["-s"]).code == 255
    assert "PTY allocation request failed" in machine.ssh("true", options=["-tt"]).err
    reasons = wait_for(lambda: {one["reason"] for one in events(cluster, "authz.denied")}, "refusals")
    assert reasons == {"port_forwarding", "no_subsystem"}


# --- authorization: principals ---------------------------------------------------------------


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """A CA of somebody else's, made by ``ssh-keygen``, and a user's key."""
    directory = tmp_path / "company"
    directory.mkdir()
    for name in ("ca", "other_ca", "id"):
        keygen(directory, "-t", "ed25519", "-N", "", "-f", name)
    lines = ["# the company's own", "", (directory / "ca.pub").read_text()]
    (directory / "cas").write_text("\n".join(lines))
    return directory


def keygen(directory: Path, *words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], cwd=directory, check=True, capture_output=True, timeout=30)


@pytest.fixture
def principals(tmp_path: Path, company: Path) -> Iterator[Cluster]:
    root = tmp_path / "cluster"
    root.mkdir()
    settings = {
        **SYSTEM, "authorization": "principals", "trusted_user_ca_keys": [str(company / "cas")],
    }
    made = Cluster(root, {"ssh": settings})
    made.start()
    yield made
    made.close()


def log_in(cluster: Cluster, company: Path, *command: str, ca: str = "ca", login: str = "deploy",
           options: tuple[str, ...] = ("-O", "clear")) -> Finished:
    keygen(company, "-s", ca, "-I", "someone@company", "-n", "deploy", "-V", "+5m", *options, "id.pub")
    hosts = company / "known_hosts"
    host_ca = cluster.ctl("ca", "export", "--type=host").strip()
    hosts.write_text(host_ca + "\n")
    return run(
        ["ssh", "-F", "none", "-p", str(cluster.node_port), "-i", company / "id", "-o", "BatchMode=yes",
         "-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes",
         f"{login}@127.0.0.1", *command],
        cluster.env,
    )


def test_certificates_of_another_ca_log_in_by_their_principals(principals: Cluster, company: Path) -> None:
    """As with sshd: no bot, no role, but the names and options in the certificate; and locks."""
    assert log_in(principals, company, "echo hello").out == "hello\n"
    assert log_in(principals, company, "true", login="root").code == 255
    assert log_in(principals, company, "true", ca="other_ca").code == 255
    forced = log_in(principals, company, "ls", options=("-O", "force-command=echo $SSH_ORIGINAL_COMMAND"))
    assert forced.out == "ls\n"
    assert log_in(principals, company, "true", options=("-O", "source-address=192.0.2.0/24")).code == 255
    forward = log_in(principals, company, "-W", f"127.0.0.1:{principals.port}")
    assert forward.code == 255
    principals.ctl("locks", "add", "--login=deploy", "--reason=test")
    assert log_in(principals, company, "true").code == 255
    refused = [one["reason"] for one in reversed(events(principals, "authz.denied"))]
    assert set(refused) >= {"wrong_principal", "untrusted_ca", "source_address", "locked"}


def test_own_machines_log_in_without_roles_for_the_node(principals: Cluster) -> None:
    machine = joined(principals, allow={"node_labels": {"env": "elsewhere"}, "logins": ["deploy"]})
    assert machine.ssh("true").code == 0
