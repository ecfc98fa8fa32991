"""The real ``ssh`` with the same certificates before sshd and our node: one outcome."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezite.certs import keys, ssh
from tests.ssh.matrix.both import MISSING, node_like_sshd, sshd_or_skip
from tests.ssh.matrix.packing import CAS, FOREIGN, KEYS, LOGIN
from tests.ssh.matrix.servers import SSHD, Sshd
from tests.ssh.node import user_certificate
from tests.ssh.test_openssh import Node

CA = CAS["ed25519"]

pytestmark = pytest.mark.skipif(SSHD is None, reason=MISSING)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from node_like_sshd(tmp_path_factory)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_or_skip(tmp_path_factory) as server:
        blob = user_certificate(keys.public_blob(KEYS["ed25519"]), CA, principals=(LOGIN,))
        if log_in(server.directory, server.port, blob).returncode:
            # An account without a shell, or a process without the rights it needs.
            pytest.skip("this sshd lets nobody in")
        yield server


def log_in(
    directory: Path, port: int, blob: bytes, command: str = "true", kind: str = "ed25519"
) -> subprocess.CompletedProcess[bytes]:
    """Of the host nothing is known: it is not what is compared here."""
    path = directory / f"id-{kind}"
    path.write_bytes(keys.private_to_openssh(KEYS[kind], "id"))
    path.chmod(0o600)
    (directory / f"id-{kind}-cert.pub").write_text(ssh.certificate_line(blob) + "\n")
    return subprocess.run(
        ["ssh", "-F", "none", "-i", str(path), "-p", str(port), "-oIdentitiesOnly=yes",
        "-oIdentityAgent=none",
         "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null",
         "-oLogLevel=ERROR",
         f"{LOGIN}@127.0.0.1", command],
        capture_output=True, timeout=60,
    )


def soon(offset: int) -> int:
    return int(time.time()) + offset


def option(name: str, text: str | None) -> dict[str, Any]:
    return {"critical_options": ((name, text),)}


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "good": ({}, True),
    "several principals": ({"principals": ("x", LOGIN, "*")}, True),
    "for ever": ({"valid_after": 0, "valid_before": 2**64 - 1}, True),
    "beyond signed numbers": ({"valid_after": 0, "valid_before": 2**63}, True),
    "weeks around": ({"valid_after": soon(-7 * 86400), "valid_before": soon(14 * 86400)}, True),
    "expired": ({"valid_before": soon(-5)}, False),
    "not yet valid": ({"valid_after": soon(3600), "valid_before": soon(7200)}, False),
    "wildcard": ({"principals": ("*",)}, False),
    "wrong names and a wildcard": ({"principals": ("a", "b", "*")}, False),
    "other principal": ({"principals": (LOGIN.upper(),)}, False),
    "list in one principal": ({"principals": (f"{LOGIN},x",)}, False),
    "foreign CA": ({"ca": FOREIGN}, False),
    "signed by itself": ({"ca": KEYS["ed25519"]}, False),
    "its address": (option("source-address", "127.0.0.0/8,10.0.0.1"), True),
    "other address": (option("source-address", "10.0.0.0/8"), False),
    "host bits in the block": (option("source-address", "127.0.0.1/8"), False),
    "netmask": (option("source-address", "127.0.0.0/255.0.0.0"), False),
    "junk as a block": (option("source-address", "127.0.0.1,junk"), False),
    "negated block": (option("source-address", "!10.0.0.0/8,127.0.0.0/8"), False),
    "unknown critical option": (option("x@example.com", None), False),
    "permission as critical": (option("permit-pty", None), False),
    "unknown extension": ({"extensions": (("x@example.com", "y"),)}, True),
    "no extensions": ({"extensions": ()}, True),
    "permission with data": ({"extensions": (("permit-pty", "y"),)}, False),
    "long key id": ({"key_id": "k" * 60000}, True),
    "key id with escapes": ({"key_id": "a\nb\x1b[31m"}, True),
}


@pytest.mark.parametrize("what", CASES)
def test_both_decide_alike(what: str, sshd: Sshd, node: Node) -> None:
    changes, is_good = CASES[what]
    made = {"ca": CA, "principals": (LOGIN,), **changes}
    blob = user_certificate(keys.public_blob(KEYS["ed25519"]), **made)
    for port in (sshd.port, node.port):
        done = log_in(sshd.directory, port, blob)
        assert (done.returncode == 0) == is_good, done.stderr


@pytest.mark.parametrize("ca", CAS)
@pytest.mark.parametrize("kind", KEYS)
def test_both_take_every_kind(kind: str, ca: str, sshd: Sshd, node: Node) -> None:
    blob = user_certificate(keys.public_blob(KEYS[kind]), CAS[ca], principals=(LOGIN,))
    for port in (sshd.port, node.port):
        done = log_in(sshd.directory, port, blob, kind=kind)
        assert done.returncode == 0, done.stderr


def test_certificate_with_another_private_key_is_refused(sshd: Sshd, node: Node) -> None:
    """ssh tells the mismatch itself; what it sends instead gets in nowhere."""
    blob = user_certificate(keys.public_blob(KEYS["p256"]), CA, principals=(LOGIN,))
    for port in (sshd.port, node.port):
        assert log_in(sshd.directory, port, blob).returncode == 255


def test_both_obey_force_command(sshd: Sshd, node: Node) -> None:
    blob = user_certificate(
        keys.public_blob(KEYS["ed25519"]), CA, principals=(LOGIN,), **option("force-command", "whoami")
    )
    for port in (sshd.port, node.port):
        done = log_in(sshd.directory, port, blob, "echo asked")
        assert done.stdout.split()[-1:] == [LOGIN.encode()]
