"""`mezd identity doctor` beside real processes, healthy and broken in every way that it knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import BIN, Cluster, Finished, MachineProcess, run, wait_for

NODE = "web-server-01"
Findings = dict[str, dict[str, str]]


def doctor(machine: MachineProcess, *words: str) -> tuple[int, Findings]:
    """Exit code, and the worst finding of each check."""
    done = doctor_text(machine, *words, "--format=json")
    found: Findings = {}
    for one in json.loads(done.out)["findings"]:
        if one["check"] not in found or one["level"] == "PROBLEM":
            found[one["check"]] = one
    return done.code, found


def doctor_text(machine: MachineProcess, *words: str) -> Finished:
    argv = [BIN / "mezd", "identity", "doctor", f"--destination={machine.destination}", *words]
    return run(argv, machine.env, timeout=90)


def levels(found: Findings) -> dict[str, str]:
    return {name: one["level"] for name, one in found.items()}


@pytest.fixture
def machine(cluster: Cluster) -> MachineProcess:
    """One that is served by a daemon with files and agent."""
    cluster.add_role()
    made = cluster.machine()
    daemon = made.daemon(f"--join-token={cluster.add_bot()}", "--outputs=files,agent")
    wait_for(lambda: made.status().get("ready"), f"identity; {daemon.text()}")
    return made


def test_all_is_well(machine: MachineProcess) -> None:
    """Down to a real login, in a text whose lines a person can read."""
    code, found = doctor(machine, f"--node={NODE}")
    assert (code, set(levels(found).values())) == (0, {"ok"}), found
    assert set(found) == {
        "directory", "identity", "certificate", "nodes", "files", "agent", "daemon", "server", "clock", "ssh",
        "login",
    }
    text = doctor_text(machine, f"--node={NODE}")
    assert text.code == 0
    assert all(line.startswith("ok ") for line in text.out.splitlines()), text.out


def test_a_login_that_is_refused(machine: MachineProcess) -> None:
    code, found = doctor(machine, f"--node={NODE}", "--login=root")
    assert (code, found["login"]["level"]) == (1, "PROBLEM")
    assert found["login"]["remedy"].startswith("the certificate is for deploy: give --login, or allow root")
    machine.cluster.ctl("locks", "add", "--login=deploy")
    code, found = doctor(machine, f"--node={NODE}")
    assert "authz.denied" in found["login"]["remedy"]
    code, found = doctor(machine, "--node=no-such-node.invalid")
    assert "no such name" in found["login"]["remedy"]


def test_a_renewal_that_was_refused_and_that_nobody_goes_on_with(cluster: Cluster) -> None:
    """As after a theft: the certificate is good still, and the daemon has ended."""
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    shutil.copytree(machine.destination, machine.home / "copy", symlinks=True)
    code, found = doctor(machine)
    assert (code, found["daemon"]["level"]) == (0, "note")
    assert machine.once(f"--destination={machine.home / 'copy'}").code == 0
    assert machine.once().code == 3
    code, found = doctor(machine)
    assert (code, found["daemon"]["level"], found["certificate"]["level"]) == (1, "PROBLEM", "ok")
    assert f"mezd identity start --one-shot --destination={machine.destination}" in found["daemon"]["remedy"]


def test_what_is_no_directory_is_said_to_be_none(cluster: Cluster) -> None:
    machine = cluster.machine()
    machine.destination.write_text("a file")
    code, found = doctor(machine)
    assert (code, levels(found)) == (1, {"directory": "PROBLEM"})
    assert "is not a directory" in found["directory"]["text"]


def _other_key(machine: MachineProcess) -> None:
    key = machine.destination / "current" / "ssh_key"
    other = machine.home / "other"
    run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", other], machine.env)
    key.write_bytes(other.read_bytes())


def _open_key(machine: MachineProcess) -> None:
    (machine.destination / "current" / "ssh_key").chmod(0o644)


def _no_certificate(machine: MachineProcess) -> None:
    (machine.destination / "current" / "ssh_key-cert.pub").unlink()


def _open_state(machine: MachineProcess) -> None:
    (machine.destination / ".mezite").chmod(0o755)


def _broken_config(machine: MachineProcess) -> None:
    (machine.destination / "current" / "ssh_config").write_text("Nonsense yes\n")


def _deaf_agent(machine: MachineProcess) -> None:
    (machine.destination / "agent.sock").unlink(missing_ok=True)
    (machine.destination / "agent.sock").write_text("")


def _torn_state(machine: MachineProcess) -> None:
    for path in (machine.destination / ".mezite").glob("state.*"):
        path.write_bytes(b"torn")


@pytest.mark.parametrize(
    ("harm", "check", "part"),
    [
        (_other_key, "files", "do not belong together"), (_open_key, "files", "0644"),
        (_no_certificate, "files", "is not there"), (_open_state, "directory", "lineage keys"),
        (_broken_config, "ssh", "cannot read"), (_deaf_agent, "agent", "agent.sock"),
        (_torn_state, "identity", "damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_broken_is_named_with_a_way_out(
    cluster: Cluster, harm: Callable[[MachineProcess], None], check: str, part: str
) -> None:
    """And nothing else is, and nothing is changed by looking."""
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    harm(machine)
    before = {path: path.lstat().st_mtime_ns for path in machine.destination.rglob("*")}
    code, found = doctor(machine)
    assert (code, found[check]["level"]) == (1, "PROBLEM"), found
    assert part in found[check]["text"]
    assert found[check]["remedy"]
    assert [name for name, one in found.items() if one["level"] == "PROBLEM"] == [check]
    assert before == {path: path.lstat().st_mtime_ns for path in machine.destination.rglob("*")}


def test_a_server_that_is_down_and_one_that_is_another(
    machine: MachineProcess, tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> None:
    other = Cluster(tmp_path_factory.mktemp("other"))
    try:
        other.start()
        code, found = doctor(machine, f"--auth-server=127.0.0.1:{other.port}")
        assert (code, found["server"]["level"]) == (1, "PROBLEM")
        assert "not the one we know" in found["server"]["text"]
    finally:
        other.close()
    code, found = doctor(machine, f"--auth-server=127.0.0.1:{cluster.node_port}")
    assert "speaks no TLS" in found["server"]["text"]
    code, found = doctor(machine, "--auth-server=nobody.invalid")
    assert "DNS" in found["server"]["remedy"]
    assert cluster.server is not None
    cluster.server.stop()
    code, found = doctor(machine)
    assert (code, found["server"]["level"], found["daemon"]["level"]) == (1, "PROBLEM", "ok")
    assert "connection refused" in found["server"]["text"]


def test_before_a_join(cluster: Cluster) -> None:
    """The pin of a token is enough to look at the server."""
    machine = cluster.machine()
    cluster.add_role()
    pin = cluster.add_bot().rpartition("-")[2]
    server = f"--auth-server=127.0.0.1:{cluster.port}"
    code, found = doctor(machine, server, f"--ca-pin={pin}")
    assert code == 1
    assert levels(found) == {
        "directory": "PROBLEM", "identity": "PROBLEM", "daemon": "note", "server": "ok", "clock": "ok",
        "ssh": "ok",
    }
    code, found = doctor(machine, server, f"--ca-pin={'0' * 32}")
    assert found["server"]["level"] == "PROBLEM"
    code, found = doctor(machine, server)
    assert "--ca-pin" in found["server"]["remedy"]
    assert not Path(machine.destination).exists()
