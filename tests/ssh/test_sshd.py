"""The same certificates before a stock sshd and before our rules: where we differ, we are stricter."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezite.certs import keys, ssh
from mezite.certs.verify import check_user_certificate
from mezite.errors import CertificateRejected
from tests.ssh.node import now, user_certificate

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
LOGIN = getpass.getuser()
CA = keys.generate_ca_key()
FOREIGN = keys.generate_ca_key()
SUBJECT = keys.generate_key()

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd on this machine")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A stock sshd that trusts our User CA, and nothing else."""
    directory = tmp_path_factory.mktemp("sshd")
    (directory / "host_key").write_bytes(keys.private_to_openssh(keys.generate_ca_key(), "host"))
    (directory / "host_key").chmod(0o600)
    (directory / "id").write_bytes(keys.private_to_openssh(SUBJECT, "id"))
    (directory / "id").chmod(0o600)
    (directory / "ca.pub").write_text(keys.public_line(keys.public_blob(CA)) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": directory / "host_key",
        "TrustedUserCAKeys": directory / "ca.pub", "AuthorizedKeysFile": "none", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "yes", "StrictModes": "no", "PidFile": "none",
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", "/dev/null", *words], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    for line in process.stderr:
        if b"Server listening" in line:
            break
    else:
        pytest.skip("this sshd does not start here")
    try:
        blob = user_certificate(keys.public_blob(SUBJECT), CA, principals=(LOGIN,))
        if log_in(directory, port, blob, "true").returncode:
            # An account without a shell, or a process without the rights it needs.
            pytest.skip("this sshd lets nobody in here")
        yield directory, port
    finally:
        process.terminate()
        process.communicate(timeout=10)


def log_in(directory: Path, port: int, blob: bytes, command: str) -> subprocess.CompletedProcess[bytes]:
    (directory / "id-cert.pub").write_text(ssh.certificate_line(blob) + "\n")
    return subprocess.run(
        ["ssh", "-F", "none", "-i", str(directory / "id"), "-p", str(port), "-oIdentitiesOnly=yes",
         "-oIdentityAgent=none", "-oBatchMode=yes", "-oStrictHostKeyChecking=no",
         "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", f"{LOGIN}@127.0.0.1", command],
        capture_output=True, timeout=30,
    )


def soon(offset: int) -> int:
    return int(time.time()) + offset


def option(name: str, text: str | None) -> dict[str, Any]:
    return {"critical_options": ((name, text),)}


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "good": ({}, True),
    "several principals": ({"principals": ("x", LOGIN, "*")}, True),
    "for ever": ({"valid_after": 0, "valid_before": 2**64 - 1}, True),
    "expired": ({"valid_before": soon(-5)}, False),
    "not yet valid": ({"valid_after": soon(3600), "valid_before": soon(7200)}, False),
    "wildcard": ({"principals": ("*",)}, False),
    "other principal": ({"principals": (LOGIN.upper(),)}, False),
    "list in one principal": ({"principals": (f"{LOGIN},x",)}, False),
    "foreign CA": ({"ca": FOREIGN}, False),
    "its address": (option("source-address", "127.0.0.0/8,10.0.0.1"), True),
    "other address": (option("source-address", "10.0.0.0/8"), False),
    "host bits in the block": (option("source-address", "127.0.0.1/8"), False),
    "junk as a block": (option("source-address", "127.0.0.1,junk"), False),
    "negated block": (option("source-address", "!10.0.0.0/8,127.0.0.0/8"), False),
    "unknown critical option": (option("x@example.com", None), False),
    "permission as critical": (option("permit-pty", None), False),
    "unknown extension": ({"extensions": (("x@example.com", "y"),)}, True),
    "no extensions": ({"extensions": ()}, True),
    "permission with data": ({"extensions": (("permit-pty", "y"),)}, False),
}


@pytest.mark.parametrize("what", CASES)
def test_sshd_and_we_agree(what: str, sshd: tuple[Path, int]) -> None:
    """sshd's outcome is ours."""
    changes, is_good = CASES[what]
    directory, port = sshd
    made = {"ca": CA, "principals": (LOGIN,), **changes}
    blob = user_certificate(keys.public_blob(SUBJECT), **made)
    done = log_in(directory, port, blob, "echo in")
    assert (done.returncode == 0) == is_good, done.stderr
    assert ours(blob) == is_good


def ours(blob: bytes) -> bool:
    try:
        check_user_certificate(
            ssh.parse_certificate(blob), trusted={keys.public_blob(CA)},
            now_unix=int(now().timestamp()), login=LOGIN, address="127.0.0.1",
        )
    except CertificateRejected:
        return False
    return True


def test_force_command_of_ours_is_obeyed_by_sshd(sshd: tuple[Path, int]) -> None:
    directory, port = sshd
    blob = user_certificate(
        keys.public_blob(SUBJECT), CA, principals=(LOGIN,), **option("force-command", "echo forced")
    )
    done = log_in(directory, port, blob, "echo asked")
    assert done.stdout.strip().endswith(b"forced")
