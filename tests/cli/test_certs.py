"""`mezctl certs inspect`, beside ssh-keygen's own opinion."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mezite.certs import keys, ssh
from mezite.cli.ctl_certs import facts
from mezite.cli.mezctl import mezctl
from mezite.core.request import Wishes
from tests.harness import Auth, Machine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate as a server issues it now, and the CA's key."""
    directory = tmp_path_factory.mktemp("certs")
    auth = Auth()
    auth.now = datetime.now(UTC)
    machine = Machine(auth, wishes=Wishes(None, None, auth.now))
    machine.join(auth.add_token(auth.add_bot(source_address=("192.0.2.0/24",))))
    (directory / "ssh_key-cert.pub").write_text(ssh.certificate_line(machine.certificate, "comment") + "\n")
    (directory / "ca.pub").write_text(keys.public_line(auth.context.trust().user_cas[0]) + "\n")
    (directory / "other.pub").write_text(keys.public_line(keys.public_blob(keys.generate_ca_key())) + "\n")
    auth.close()
    return directory


def inspect(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(mezctl, ["certs", "inspect", *map(str, words)], input=stdin, prog_name="mezctl")


def test_what_a_certificate_says(made: Path) -> None:
    """By a file, by its directory and by standard input alike; no server is asked."""
    text = (made / "ssh_key-cert.pub").read_text()
    results = [inspect(made / "ssh_key-cert.pub"), inspect(made), inspect("-", stdin=text)]
    assert {result.exit_code for result in results} == {0}
    lines = dict(line.split(":", 1) for line in results[1].stdout.splitlines())
    assert lines["State"].strip().startswith("valid, 59m")
    assert lines["Logins"].strip() == "deploy"
    assert lines["Bot"].strip() == "github-deploy (roles: ci-deployer)"
    assert lines["Instance"].strip().endswith(", generation 1")
    assert lines["Options"].strip() == "source-address=192.0.2.0/24"
    assert lines["Permits"].strip() == "permit-pty"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen (Debian: openssh-client)")
def test_ssh_keygen_says_the_same(made: Path) -> None:
    found = json.loads(inspect(made, "--format=json").stdout)
    said = subprocess.run(
        ["ssh-keygen", "-L", "-f", made / "ssh_key-cert.pub"], capture_output=True, text=True, check=True,
        timeout=30, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout
    for part in (found["key"].split()[1], found["ca_key"], f"Serial: {found['serial']}", found["key_id"],
                 found["valid_after"][:-1], found["valid_before"][:-1]):
        assert part in said


@pytest.mark.parametrize(("ca", "code"), [("ca.pub", 0), ("other.pub", 3)])
def test_whether_a_ca_has_signed_it(made: Path, ca: str, code: int) -> None:
    result = inspect(made, "--ca", made / ca, "--format=json")
    assert (result.exit_code, json.loads(result.stdout)["trusted"]) == (code, code == 0)


def test_a_signature_that_does_not_hold_is_told(made: Path) -> None:
    kind, text, _ = (made / "ssh_key-cert.pub").read_text().split()
    changed = text.replace(text[-40:-30], "AAAAAAAAAA")
    result = inspect("-", stdin=f"{kind} {changed}\n")
    assert result.exit_code == 0
    assert "DOES NOT HOLD" in result.stdout


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not a certificate"), ("nonsense", "not a certificate"), ("ssh-ed25519 AAAA", "certificate"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        (keys.public_line(keys.public_blob(keys.generate_ca_key())), "public key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "not a certificate that can be read"),
        ("\x1b[31m\n", "not a certificate"), ("\udcff", "not a certificate"),
    ],
)
def test_what_is_none(text: str, part: str, tmp_path: Path) -> None:
    """It is named, whatever it is instead, and so is what would be one."""
    (tmp_path / "file").write_text(text, errors="surrogateescape")
    for file, name in (("-", "standard input"), (tmp_path / "file", str(tmp_path / "file"))):
        result = inspect(file, stdin=text if text.isascii() else "")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith(f"mezctl: {name}: ")
        assert part in result.stderr or not text.isascii()
        assert "name a file that ends with -cert.pub" in result.stderr


def test_what_is_no_list_of_cas(made: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "none", made / "ssh_key-cert.pub", Path(__file__)):
        result = inspect(made, "--ca", file)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert result.stderr.startswith(f"mezctl: {file}: ")
        assert "mezctl ca export --type=user" in result.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = inspect(tmp_path / "none")
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_before_and_after_its_time(made: Path) -> None:
    text, now = (made / "ssh_key-cert.pub").read_text(), datetime.now(UTC)
    assert facts(text, now + timedelta(hours=3))["state"].startswith("ended 2h")
    assert facts(text, now - timedelta(hours=3))["state"].startswith("not valid yet, for 2h 5")
