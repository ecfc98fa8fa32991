"""A stock sshd and a machine trust each other by the cluster's two CAs, and by nothing else."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from tests.ssh.matrix.both import MISSING, sshd_or_skip
from tests.ssh.matrix.servers import SSHD, Sshd
from tests.system.processes import Cluster, Finished, MachineProcess, environment, run

ME = getpass.getuser()

pytestmark = pytest.mark.skipif(SSHD is None, reason=MISSING)


def log_in(machine: MachineProcess, sshd: Sshd, host: str) -> Finished:
    """As the documentation says, strict about the host."""
    files = machine.destination
    return run(
        ["ssh", "-F", "none", "-p", str(sshd.port), "-i", files / "ssh_key",
         f"-oUserKnownHostsFile={files}/known_hosts", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes",
         "-oIdentitiesOnly=yes", f"{ME}@{host}", "echo in"],
        machine.env,
    )


def test_sshd_is_known_by_the_host_ca(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster.add_role(allow={"node_labels": {"*": "*"}, "logins": [ME]}, deny={"logins": ["nobody"]})
    machine = cluster.machine()
    done = machine.once(f"--join-token={cluster.add_bot()}")
    assert done.code == 0, done
    trusted = cluster.root / "user_ca.pub"
    trusted.write_text(cluster.ctl("ca", "export", "--type=user"))
    host_key = make_host_key(cluster.root)
    names = "--principals=LOCALHOST,127.0.0.1"
    signed = cluster.mezctl("ca", "sign-host", names, host_key.with_suffix(".pub"))
    assert signed.code == 0, signed
    certificate = cluster.root / "host-cert.pub"
    certificate.write_text(signed.out)
    options = {"HostKey": host_key, "TrustedUserCAKeys": trusted}
    with sshd_or_skip(tmp_path_factory, **options) as sshd:
        done = log_in(machine, sshd, "127.0.0.1")
        assert (done.code, done.out) == (255, ""), "its plain key is nobody's"
    with sshd_or_skip(tmp_path_factory, HostCertificate=certificate, **options) as sshd:
        for host in ("127.0.0.1", "localhost", "LocalHost"):
            done = log_in(machine, sshd, host)
            assert (done.code, done.out) == (0, "in\n"), (host, done)
        done = log_in(machine, sshd, "127.0.0.2")
        assert (done.code, done.out) == (255, ""), "no name of its certificate"


def make_host_key(directory: Path) -> Path:
    path = directory / "host"
    done = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], environment(directory))
    assert done.code == 0, done
    return path
