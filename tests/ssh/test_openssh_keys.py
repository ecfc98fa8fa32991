"""How ``ssh`` finds its certificates: files of any name, several of them, agents."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.certs import keys
from tests.ssh.test_openssh import Node, load, started

EXPIRED = {"valid_after": 0, "valid_before": 1_600_000_000}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from started(tmp_path_factory)


def moved(node: Node, name: str, to: str, **changes: object) -> Path:
    """A certificate for the key *name*, in a file that ssh finds only when told."""
    node.identity(name, **changes)
    return Path(f"{node.directory / name}-cert.pub").rename(node.directory / to)


def test_certificate_by_option_without_any_public_key_file(node: Node) -> None:
    path = moved(node, "optional", "elsewhere.pub")
    assert node.run(node.directory / "optional", "true").returncode == 255
    done = node.run(node.directory / "optional", "whoami", options=(f"CertificateFile={path}",))
    assert (done.stdout, done.returncode) == (b"deploy\n", 0)


def test_good_certificate_among_bad_ones(node: Node) -> None:
    """Each bad one is a failed attempt; six end the connection, as with sshd."""
    bad = [moved(node, "among", f"bad-{number}.pub", serial=number, **EXPIRED) for number in range(3)]
    good = moved(node, "among", "good.pub")
    options = tuple(f"CertificateFile={path}" for path in (*bad, good))
    assert node.run(node.directory / "among", "true", options=options).returncode == 0


def test_certificate_of_another_key_is_of_no_use(node: Node) -> None:
    path = moved(node, "owner", "stolen.pub")
    node.identity("thief")
    Path(f"{node.directory / 'thief'}-cert.pub").unlink()
    options = (f"CertificateFile={path}",)
    assert node.run(node.directory / "thief", "true", options=options).returncode == 255


class Agent:
    """An ``ssh-agent`` of the tests' own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", node.directory / "agent"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self._env = {**os.environ, "SSH_AUTH_SOCK": str(node.directory / "agent")}

    def add(self, path: Path) -> None:
        subprocess.run(["ssh-add", "-q", path], env=self._env, check=True, timeout=60, capture_output=True)

    def log_in(self) -> bool:
        """By what is in the agent alone."""
        command = [word for word in self._node.command(Path("/nonexistent"), "true")
                   if word not in ("-oIdentityAgent=none", "-oIdentitiesOnly=yes")]
        return subprocess.run(command, env=self._env, capture_output=True, timeout=60).returncode == 0

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._process.stdout.close()


def test_certificates_in_an_agent(node: Node) -> None:
    """No certificate: refused; a bad one: refused; a bad and a good one: in."""
    agent = Agent(node)
    try:
        plain = node.identity("in-agent")
        Path(f"{plain}-cert.pub").unlink()
        agent.add(plain)
        assert not agent.log_in()
        agent.add(node.identity("in-agent", **EXPIRED))
        assert not agent.log_in()
        agent.add(node.identity("in-agent-too"))
        assert agent.log_in()
    finally:
        agent.close()


def test_rsa_key_in_an_agent_signs_with_sha2(node: Node) -> None:
    agent = Agent(node)
    try:
        path = node.directory / "rsa-in-agent"
        path.write_bytes(keys.private_to_openssh(keys.generate_rsa_key(), "rsa"))
        path.chmod(0o600)
        assert keys.key_type(keys.public_blob(load(path))) == b"ssh-rsa"
        agent.add(node.identity("rsa-in-agent"))
        assert agent.log_in()
    finally:
        agent.close()
