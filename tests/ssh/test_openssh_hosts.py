"""Host certificates before the real ``ssh`` and before our own judgment of them: one outcome."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mezite.certs import keys, ssh, verify
from mezite.certs.krl import parse_revocations
from mezite.errors import CertificateRejected
from mezite.identity.outputs import known_hosts
from tests.certs import krl_making as pack
from tests.ssh.test_openssh import Node, keygen, load

CERTIFIED = "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com"
HERE = ["localhost", "127.0.0.1"]


@contextmanager
def showing(directory: Path, **certificate: Any) -> Iterator[Node]:
    """A node whose one host certificate says this."""
    directory.chmod(0o755)
    node = Node(directory, host_certificate={"names": HERE, **certificate})
    try:
        yield node
    finally:
        node.close()


def shown(node: Node) -> ssh.Certificate:
    """What the node shows to its next client."""
    with socket.create_connection(("127.0.0.1", node.port), 60) as probe:
        assert probe.recv(4) == b"SSH-"
    return ssh.parse_certificate_line((node.directory / "host-cert.pub").read_text())


def ours(node: Node, cert: ssh.Certificate, host: str, **more: Any) -> bool:
    trusted = {keys.public_blob(load(node.directory / "host_ca"))}
    try:
        verify.check_host_certificate(cert, trusted=trusted, now_unix=int(time.time()), host=host, **more)
    except CertificateRejected:
        return False
    return True


def theirs(node: Node, host: str, *options: str) -> bool:
    done = node.run(node.identity(), "whoami", options=(CERTIFIED, f"HostKeyAlias={host}", *options))
    return done.stdout == b"deploy\n"


NOW, DAY = int(time.time()), 86400
CASES: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "its names": ({}, {"localhost": True, "LOCALHOST": True, "127.0.0.1": True, "localhos": False}),
    "a wildcard": ({"names": ["loc*"]}, {"localhost": True, "loc": True, "lo": False, "x.loc": False}),
    "a question mark": ({"names": ["localhos?"]}, {"localhost": True, "localhos": False}),
    "a set is none": ({"names": ["[l]ocalhost"]}, {"localhost": False}),
    "a user certificate": ({"type": 1}, {"localhost": False}),
    "expired": ({"valid_before": NOW - 10}, {"localhost": False}),
    "not yet valid": ({"valid_after": NOW + DAY, "valid_before": NOW + 2 * DAY}, {"localhost": False}),
    "a critical option": ({"critical_options": [["force-command", "x"]]}, {"localhost": False}),
    "an extension": ({"extensions": [["x@example.com", "y"]]}, {"localhost": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_ssh_and_we_judge_alike(name: str, tmp_path: Path) -> None:
    changes, hosts = CASES[name]
    with showing(tmp_path, **changes) as node:
        cert = shown(node)
        for host, good in hosts.items():
            assert ours(node, cert, host) is good, host
            # ssh knows wildcards in principals of hosts since some version after 9.2.
            allowed = {good, False} if {"*", "?"} & set(repr(cert.principals)) else {good}
            assert theirs(node, host) in allowed, host


def test_revoked_hosts(tmp_path: Path) -> None:
    """By key, by certificate, by CA, in lists and KRLs; an empty list passes."""
    with showing(tmp_path, serial=9, key_id="node/a") as node:
        cert = shown(node)
        ca, key = cert.ca_blob, cert.subject_blob
        lists = {
            "empty": (b"", True), "empty KRL": (pack.krl(), True),
            "key": (keys.public_line(key).encode() + b"\n", False),
            "CA": (keys.public_line(ca).encode() + b"\n", False),
            "KRL, key": (pack.krl(pack.blobs(2, key)), False),
            "KRL, CA": (pack.krl(pack.blobs(2, ca)), False),
            "KRL, serial": (pack.krl(pack.certificates(ca, pack.serials(9))), False),
            "KRL, another serial": (pack.krl(pack.certificates(ca, pack.serials(8))), True),
            "KRL, key id": (pack.krl(pack.certificates(b"", pack.key_ids(b"node/a"))), False),
        }
        for name, (data, good) in lists.items():
            (tmp_path / "revoked").write_bytes(data)
            assert ours(node, cert, "localhost", revoked=[parse_revocations(data)]) is good, name
            assert theirs(node, "localhost", f"RevokedHostKeys={tmp_path}/revoked") is good, name
        known = (tmp_path / "known_hosts").read_text()
        for blob in (key, ca):
            (tmp_path / "known_hosts").write_text(known + f"@revoked * {keys.public_line(blob)}\n")
            assert not theirs(node, "localhost")


def test_tools_leave_our_known_hosts_alone(tmp_path: Path) -> None:
    """ssh-keygen finds our CA line, and neither hashing nor removing hosts touches it."""
    line = known_hosts([keys.public_blob(keys.generate_ca_key())]).decode()
    other = f"old.example.com {keys.public_line(keys.public_blob(keys.generate_ca_key()))}\n"
    revoked = f"@revoked * {keys.public_line(keys.public_blob(keys.generate_ca_key()))}\n"
    path = tmp_path / "known_hosts"
    path.write_text(line + revoked + other)
    keygen("-R", "old.example.com", "-f", str(path), cwd=tmp_path)
    assert path.read_text() == line + revoked
    path.write_text(line + revoked + other)
    keygen("-H", "-f", str(path), cwd=tmp_path)
    assert path.read_text().startswith(line + revoked)
    assert "old.example.com" not in path.read_text()


def test_a_port_is_no_part_of_a_principal(tmp_path: Path) -> None:
    with showing(tmp_path) as node:
        cert = shown(node)
        assert not ours(node, cert, f"[localhost]:{node.port}")
        assert node.run(node.identity(), "true", options=(CERTIFIED,)).returncode == 0
