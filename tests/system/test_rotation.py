"""Rotations of all three CAs beside machines that renew and log in all the time: none of them fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.system.processes import Cluster, Finished, MachineProcess, run, wait_for

STEPS = ("announce", "switch", "retire")


def log_in(machine: MachineProcess) -> Finished:
    """With one published set, strict about the host; a renewal meanwhile takes nothing of it away."""
    files = (machine.destination / "ssh_key").resolve().parent
    return run(
        [
            "ssh", "-F", "none", "-p", str(machine.cluster.node_port), "-i", files / "ssh_key",
            "-o", f"CertificateFile={files}/ssh_key-cert.pub",
            "-o", f"UserKnownHostsFile={files}/known_hosts",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
            "-o", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com", "deploy@127.0.0.1", "whoami",
        ],
        machine.env,
    )


@contextmanager
def logging_in(machine: MachineProcess) -> Iterator[list[Finished]]:
    """Logins one after the other; those that failed."""
    failed: list[Finished] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            done = log_in(machine)
            if done.out != "deploy\n":
                failed.append(done)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join(60)


def renewed(machine: MachineProcess, times: int = 2) -> None:
    """The machine has renewed so often since: the last of these asked after this was called."""
    goal = machine.status()["generation"] + times
    wait_for(lambda: machine.status().get("generation", 0) >= goal, f"generation {goal}")


def exported(cluster: Cluster, kind: str) -> list[str]:
    """Fingerprints, the one that signs first."""
    answer = yaml.safe_load(cluster.ctl("--format", "json", "ca", "export", f"--type={kind}"))
    return [key["fingerprint"] for key in answer["keys"]]


def rotate_all(cluster: Cluster) -> MachineProcess:
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot()
    machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
    wait_for(lambda: machine.status().get("generation"), "the first identity")
    before = {kind: exported(cluster, kind) for kind in ("user", "host", "server")}
    with logging_in(machine) as failed:
        for kind in before:
            for step in STEPS:
                said = cluster.ctl("ca", "rotate", f"--type={kind}", "--now", f"--stage={step}")
                assert f"{kind} CA" in said
                renewed(machine)
                assert failed == []
    after = {kind: exported(cluster, kind) for kind in before}
    assert all(len(found) == 1 and found != before[kind] for kind, found in after.items())
    return machine


def test_no_login_and_no_renewal_fails(cluster: Cluster) -> None:
    """Nine steps, each known to the machine after its next renewal; without a restart."""
    machine = rotate_all(cluster)
    assert log_in(machine).out == "deploy\n"
    known = (machine.destination / "known_hosts").read_text().splitlines()
    assert len(known) == 1, "the old Host CA is trusted no longer"
    log = (machine.home / "mezd.log").read_text()
    for word in ("refused", "cannot", "failed", "warn", "error"):
        assert word not in log.lower(), log
    newcomer = cluster.machine("newcomer")
    done = newcomer.once(f"--join-token={cluster.add_bot('late')}")
    assert done.code == 0, "a token made now proves the new server CA"
    assert log_in(newcomer).out == "deploy\n"


@pytest.mark.config(auth={"workers": 2})
def test_workers_follow(cluster: Cluster) -> None:
    rotate_all(cluster)


def test_a_restart_in_the_middle_changes_nothing(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    for kind in ("user", "host", "server"):
        cluster.ctl("ca", "rotate", f"--type={kind}")
    assert machine.once().code == 0
    for kind in ("user", "host", "server"):
        cluster.ctl("ca", "rotate", f"--type={kind}", "--now")
    assert cluster.server is not None
    assert cluster.server.stop() == 0
    cluster.start()
    assert log_in(machine).out == "deploy\n"
    refused = cluster.mezctl("ca", "rotate", "--type=user")
    assert refused.code != 0
    assert "--now" in refused.err
    assert machine.once().code == 0
    assert log_in(machine).out == "deploy\n"
