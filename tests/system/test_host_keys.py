"""The running server's node shows a certificate for each of its host keys, and keeps the keys."""

from __future__ import annotations

import pytest

from tests.system.processes import Cluster, MachineProcess, run

KINDS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]


@pytest.fixture
def machine(cluster: Cluster) -> MachineProcess:
    cluster.add_role()
    made = cluster.machine()
    assert made.once(f"--join-token={cluster.add_bot()}").code == 0
    return made


def test_every_kind_of_host_key_is_certified_and_stays(cluster: Cluster, machine: MachineProcess) -> None:
    """Strictly by the Host CA; and by the plain key, also after a restart."""
    for kind in KINDS:
        done = machine.ssh("whoami", options=(f"-oHostKeyAlgorithms={kind}-cert-v01@openssh.com",))
        assert (done.code, done.out) == (0, "deploy\n"), (kind, done)
    for kind in KINDS:
        assert pin(machine, kind, "no") == 0
    assert cluster.server is not None
    cluster.server.stop()
    cluster.start()
    for kind in KINDS:
        assert pin(machine, kind, "yes") == 0


@pytest.mark.config(ssh={"host_names": ["LocalHost"]})
def test_names_in_capital_letters_are_found(machine: MachineProcess) -> None:
    """ssh looks for them in small ones."""
    files = machine.destination
    done = run(
        ["ssh", "-F", "none", "-p", str(machine.cluster.node_port), "-i", files / "ssh_key",
         f"-oUserKnownHostsFile={files}/known_hosts", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes",
         "-oIdentitiesOnly=yes", "deploy@LOCALHOST", "whoami"],
        machine.env,
    )
    assert (done.code, done.out) == (0, "deploy\n"), done


def pin(machine: MachineProcess, kind: str, strict: str) -> int:
    """Logs in with known_hosts of this kind alone."""
    files = machine.destination
    pinned = f"-oUserKnownHostsFile={machine.home / kind}"
    return run(
        ["ssh", "-F", "none", "-p", str(machine.cluster.node_port), "-i", files / "ssh_key", pinned,
         f"-oStrictHostKeyChecking={strict}", f"-oHostKeyAlgorithms={kind}", "-oBatchMode=yes",
         "-oIdentitiesOnly=yes", "deploy@127.0.0.1", "true"],
        machine.env,
    ).code
