"""The transport with clients of others: host keys, ciphers, and changes of keys by either side."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.certs import keys
from mezite.ssh import framing
from tests.ssh.test_openssh import Node, started

REKEY_BYTES = 200_000
HOST_KEYS = [
    "ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256",
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that changes its keys all the time."""
    yield from started(tmp_path_factory, rekey_bytes=REKEY_BYTES)


@pytest.mark.parametrize("kind", HOST_KEYS)
def test_host_certificate_of_every_kind_convinces_ssh(kind: str, node: Node) -> None:
    """With strict checking, and nothing known but the Host CA."""
    algorithm = f"HostKeyAlgorithms={kind}-cert-v01@openssh.com"
    done = node.run(node.identity(), "whoami", options=(algorithm,))
    assert (done.stdout, done.returncode) == (b"deploy\n", 0)


@pytest.mark.parametrize("kind", HOST_KEYS)
def test_plain_host_key_of_every_kind_can_be_pinned(kind: str, node: Node) -> None:
    pinned = node.directory / f"pinned-{kind}"
    common = (f"UserKnownHostsFile={pinned}", f"HostKeyAlgorithms={kind}")
    for strict in ("no", "yes"):
        done = node.run(node.identity(), "true", options=(*common, f"StrictHostKeyChecking={strict}"))
        assert done.returncode == 0, done.stderr
    assert pinned.read_text().split()[1] == ("ssh-rsa" if kind.startswith("rsa") else kind)


def test_ssh_falls_back_to_the_plain_key_where_no_ca_fits(node: Node) -> None:
    """A client that knows another Host CA, and this node's key."""
    known = node.directory / "known-plain"
    node.run(node.identity(), "true", options=(
        f"UserKnownHostsFile={known}", "StrictHostKeyChecking=no", "HostKeyAlgorithms=ssh-ed25519"))
    foreign = keys.public_line(keys.public_blob(node.foreign_ca))
    known.write_text(f"@cert-authority * {foreign}\n{known.read_text()}")
    done = node.run(node.identity(), "true", options=(f"UserKnownHostsFile={known}",))
    assert done.returncode == 0, done.stderr


def test_no_sha1_host_key(node: Node) -> None:
    done = node.run(node.identity(), "true", options=("HostKeyAlgorithms=ssh-rsa", "LogLevel=INFO"))
    assert done.returncode == 255
    assert b"no matching host key type" in done.stderr


CIPHERS = [name.decode() for name in (*framing.GCM, *framing.CTR)]


@pytest.mark.parametrize("cipher", CIPHERS)
def test_megabytes_pass_while_both_sides_change_keys(cipher: str, node: Node) -> None:
    data = os.urandom(6_000_000)
    options = (f"Ciphers={cipher}", "RekeyLimit=300K", "LogLevel=DEBUG1")
    done = node.run(node.identity(), "echo", stdin=data, options=options)
    assert done.stdout == data
    assert f"cipher: {cipher}".encode() in done.stderr
    changes = done.stderr.count(b"SSH2_MSG_NEWKEYS received")
    assert changes > len(data) * 2 / REKEY_BYTES / 2


def test_asyncssh_takes_the_change_of_keys(node: Node) -> None:
    asyncssh = pytest.importorskip("asyncssh")
    data = os.urandom(1_500_000)

    async def log_in(cipher: str, kex: str) -> bytes:
        key = asyncssh.read_private_key(str(node.identity()))
        certificate = asyncssh.read_certificate(f"{node.identity()}-cert.pub")
        async with asyncssh.connect(
            "127.0.0.1", node.port, username="deploy", client_keys=[(key, certificate)], agent_path=None,
            known_hosts=str(node.directory / "known_hosts"), config=None, encryption_algs=[cipher],
            kex_algs=[kex],
        ) as connection:
            done = await connection.run("echo", input=data, encoding=None)
        return bytes(done.stdout)

    for cipher in ("aes256-gcm@openssh.com", "aes128-ctr"):
        for kex in ("curve25519-sha256", "mlkem768x25519-sha256"):
            if kex.encode() in asyncssh.kex.get_kex_algs():
                assert asyncio.run(log_in(cipher, kex)) == data


def test_paramiko_takes_the_change_of_keys(node: Node) -> None:
    """It knows no host certificates, and finds the plain key."""
    paramiko = pytest.importorskip("paramiko")
    path = node.identity()
    key = paramiko.ECDSAKey.from_private_key_file(str(path))
    key.load_certificate(f"{path}-cert.pub")
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", node.port, "deploy", pkey=key, look_for_keys=False, allow_agent=False)
    try:
        stdin, stdout, _ = client.exec_command("echo", timeout=60)
        data = os.urandom(900_000)
        stdin.channel.settimeout(60)
        received = bytearray()
        for at in range(0, len(data), 30_000):
            stdin.write(data[at : at + 30_000])
            stdin.flush()
            received += stdout.read(len(data[at : at + 30_000]))
        stdin.channel.shutdown_write()
        assert bytes(received) == data
    finally:
        client.close()


@pytest.mark.parametrize(
    "cipher", ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com"]
)
def test_ssh_needs_no_common_mac_with_gcm(cipher: str, node: Node) -> None:
    only = (f"Ciphers={cipher}", "MACs=umac-64@openssh.com")
    done = node.run(node.identity(), "whoami", options=only)
    assert (done.stdout, done.returncode) == (b"deploy\n", 0), done.stderr


def test_ssh_needs_a_common_mac_with_ctr(node: Node) -> None:
    done = node.run(node.identity(), "true", options=("Ciphers=aes256-ctr", "MACs=umac-64@openssh.com"))
    assert done.returncode == 255


def test_ssh_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Through changes of keys, and for longer than a login may take (a laptop that sleeps)."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    end = tmp_path / "end"
    node = Node(tmp_path, exec="system", run_as=me, rekey_seconds=0.5, login_timeout_seconds=4)
    command = f"while [ ! -e {end} ]; do echo tick; sleep 0.1; done; echo end"
    ssh = subprocess.Popen(node.command(node.identity(), command), stdout=subprocess.PIPE)
    try:
        assert ssh.stdout is not None
        assert ssh.stdout.readline() == b"tick\n"
        ssh.send_signal(signal.SIGSTOP)
        time.sleep(7)
        ssh.send_signal(signal.SIGCONT)
        for _ in range(20):
            assert ssh.stdout.readline() == b"tick\n"
        end.touch()
        assert ssh.stdout.read().endswith(b"tick\nend\n")
        assert ssh.wait(60) == 0
    finally:
        ssh.kill()
        ssh.wait()
        ssh.stdout.close()  # type: ignore[union-attr]
        log = node.close()
    assert "ended" not in log
