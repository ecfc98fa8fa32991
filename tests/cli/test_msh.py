"""What msh makes of its words, the environment and the identities that it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from mezite.certs.ssh import certificate_line
from mezite.cli import msh
from mezite.errors import UsageError
from mezite.identity.destination import Directory
from mezite.identity.outputs import Outputs
from tests.harness import Auth, Machine
from tests.identity.making import held


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    directory = Directory(tmp_path / "certs")
    directory.publish(Outputs.from_held(held()), timedelta(0))
    return directory.path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": str(tmp_path / "state")}


def config(destination: Path, number: int = 1) -> list[str]:
    return ["-F", str(destination / f"sets/{number}/ssh_config")]


def argv(
    destination: Path,
    node: str,
    *command: str,
    login: str | None = "deploy",
    env: dict[str, str] | None = None,
) -> list[str]:
    return msh.ssh_argv(login, str(destination), node, command, env or {})


@pytest.mark.parametrize("path", [".", "ssh_key-cert.pub", "current", "current/ssh_key-cert.pub", "sets/1"])
def test_every_name_of_a_destination_leads_to_its_set(destination: Path, path: str) -> None:
    expected = ["ssh", *config(destination), "-l", "deploy", "--", "web-1", "uptime"]
    assert expected == argv(destination / path, "web-1", "uptime")


def test_the_set_of_the_moment_is_used_to_the_end(destination: Path) -> None:
    """A renewal after msh has looked does not change what ssh reads."""
    before = argv(destination, "web-1")
    Directory(destination).publish(Outputs.from_held(held(2)), timedelta(0))
    assert config(destination, 1) == before[1:3]
    assert Path(before[2]).exists()
    assert config(destination, 2) == argv(destination, "web-1")[1:3]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ((), []),
        (("--",), []),
        (("--", "./deploy.sh", "--force", "a b"), ["./deploy.sh", "--force", "a b"]),
        (("ls", "-la"), ["ls", "-la"]),
        (("--", "-x"), ["-x"]),
        (("echo", "--", "x"), ["echo", "--", "x"]),
    ],
)
def test_commands_reach_ssh_word_by_word(
    destination: Path, command: tuple[str, ...], expected: list[str]
) -> None:
    found = argv(destination, "web-1", *command)
    assert ["--", "web-1", *expected] == found[found.index("--") :]


def test_login_in_the_node(destination: Path) -> None:
    assert argv(destination, "web-1") == argv(destination, "deploy@web-1", login=None)
    assert argv(destination, "web-1") == argv(destination, "deploy@web-1")
    with pytest.raises(UsageError, match="two logins"):
        argv(destination, "root@web-1")


def test_without_login_ssh_takes_the_local_account(destination: Path) -> None:
    assert "-l" not in argv(destination, "web-1", login=None)


@pytest.mark.parametrize(
    ("login", "node"),
    [("-oProxyCommand=x", "web-1"), ("", "web-1"), ("a b", "web-1"), ("a\n", "web-1"),
     ("deploy", "-oProxyCommand=x"), ("deploy", ""), ("deploy", "a b"), ("deploy", "x\n"),
     (None, "-l@web-1"), (None, "@web-1"), (None, "deploy@-x")],
)
def test_words_that_ssh_could_take_for_options_are_refused(
    destination: Path, login: str | None, node: str
) -> None:
    with pytest.raises(UsageError):
        argv(destination, node, login=login)


def test_options_behind_the_node_are_not_taken_for_a_command(destination: Path) -> None:
    with pytest.raises(UsageError, match="options go before NODE"):
        argv(destination, "web-1", "--login=deploy", login=None)


# --- finding the identity ------------------------------------------------------------------


def note(environ: dict[str, str], destination: Path) -> None:
    path = Path(environ["XDG_STATE_HOME"]) / "mezite/last-identity"
    path.parent.mkdir(parents=True)
    path.write_text(f"{destination}\n")


def test_order_of_the_three_places(destination: Path, environ: dict[str, str], tmp_path: Path) -> None:
    others = []
    for name in ("variable", "noted"):
        directory = Directory(tmp_path / name)
        directory.publish(Outputs.from_held(held()), timedelta(0))
        others.append(directory.path)
    variable, noted = others
    note(environ, noted)
    assert config(noted) == msh.find_identity(None, environ).options()
    environ["MEZITE_IDENTITY"] = str(variable)
    assert config(variable) == msh.find_identity(None, environ).options()
    assert config(destination) == msh.find_identity(str(destination), environ).options()


def test_the_default_destination_comes_last(environ: dict[str, str], tmp_path: Path) -> None:
    """Where mezd could not note what it has written, as under its systemd unit."""
    usual = Directory(tmp_path / "state/mezite/identity")
    usual.publish(Outputs.from_held(held()), timedelta(0))
    assert config(usual.path) == msh.find_identity(None, environ, uid=1000).options()


def test_nothing_found_names_all_three_places(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        msh.find_identity(None, environ)
    for place in ("--cert", "MEZITE_IDENTITY", f"{environ['XDG_STATE_HOME']}/mezite/last-identity"):
        assert place in str(caught.value)


@pytest.mark.parametrize("how", ["--cert", "MEZITE_IDENTITY", "noted"])
def test_a_place_that_was_named_is_not_passed_over(
    destination: Path, environ: dict[str, str], tmp_path: Path, how: str
) -> None:
    gone = tmp_path / "gone"
    note(environ, gone if how == "noted" else destination)
    if how == "MEZITE_IDENTITY":
        environ["MEZITE_IDENTITY"] = str(gone)
    with pytest.raises(UsageError, match="gone") as caught:
        msh.find_identity(str(gone) if how == "--cert" else None, environ)
    assert how in str(caught.value)


def test_a_certificate_outside_of_a_destination(destination: Path, tmp_path: Path) -> None:
    place = tmp_path / "else where"
    place.mkdir()
    for name in ("ssh_key", "ssh_key-cert.pub"):
        (place / f"my{name}").write_bytes((destination / name).read_bytes())
    found = argv(place / "myssh_key-cert.pub", "web-1")
    certificate = place / "myssh_key-cert.pub"
    expected = ["-i", str(place / "myssh_key"), "-o", f'CertificateFile="{certificate}"',
                "-o", "IdentitiesOnly=yes"]
    assert ["ssh", *expected, "-l", "deploy", "--", "web-1"] == found
    (place / "known_hosts").write_text("")
    assert f'UserKnownHostsFile="{place}/known_hosts"' in argv(place / "myssh_key-cert.pub", "web-1")


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    (tmp_path / "x-cert.pub").write_text("")
    with pytest.raises(UsageError, match="no private key beside"):
        argv(tmp_path / "x-cert.pub", "web-1")
    (tmp_path / "x.pub").write_text("")
    with pytest.raises(UsageError, match="not a certificate"):
        argv(tmp_path / "x.pub", "web-1")


# --- scp, env, status ------------------------------------------------------------------------


def test_scp_takes_the_same_set(destination: Path) -> None:
    found = msh.scp_argv("deploy", str(destination), ["-r"], ["site", "web-1:/srv"], {})
    assert ["scp", "-r", *config(destination), "-o", "User=deploy", "--", "site", "web-1:/srv"] == found
    found = msh.scp_argv(None, str(destination), [], ["-oProxyCommand=x", "deploy@web-1:"], {})
    assert found[-3:] == ["--", "-oProxyCommand=x", "deploy@web-1:"]


def test_scp_wants_two_names_and_a_login_that_is_one(destination: Path) -> None:
    with pytest.raises(UsageError, match="where to"):
        msh.scp_argv(None, str(destination), [], ["site"], {})
    with pytest.raises(UsageError, match="no login"):
        msh.scp_argv("-x", str(destination), [], ["site", "web-1:"], {})


def test_env_names_paths_that_outlive_a_renewal(destination: Path) -> None:
    found = msh.variables(str(destination / "ssh_key-cert.pub"), {})
    assert found == {
        "MEZITE_IDENTITY": str(destination),
        "GIT_SSH_COMMAND": f"ssh -F {destination}/ssh_config",
        "RSYNC_RSH": f"ssh -F {destination}/ssh_config",
        "ANSIBLE_SSH_ARGS": f"-F {destination}/ssh_config",
    }
    (destination / "agent.sock").touch()
    assert msh.variables(str(destination), {})["SSH_AUTH_SOCK"] == f"{destination}/agent.sock"


def test_env_wants_a_directory_of_mezd(destination: Path, tmp_path: Path) -> None:
    for name in ("ssh_key", "ssh_key-cert.pub"):
        (tmp_path / name).write_bytes((destination / name).read_bytes())
    with pytest.raises(UsageError, match="outlives a renewal"):
        msh.variables(str(tmp_path / "ssh_key-cert.pub"), {})


@pytest.mark.parametrize("directory", ["plain", "with space", "it's", "$HOME"])
def test_a_shell_reads_what_env_prints(tmp_path: Path, directory: str) -> None:
    """Whatever the directory is called; and git's own shell, the command in it."""
    made = Directory(tmp_path / directory)
    made.publish(Outputs.from_held(held()), timedelta(0))
    printed = run("env", "--cert", made.path).stdout
    script = 'printf "%s\\n" "$MEZITE_IDENTITY"; eval "set -- $GIT_SSH_COMMAND"; printf "%s\\n" "$3"'
    done = subprocess.run(["sh", "-c", printed + script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(made.path), f"{made.path}/ssh_config"]
    assert run("env", "--shell=fish", "--cert", made.path).stdout.startswith("set -gx MEZITE_IDENTITY '")


def test_status_without_a_daemon_shows_the_certificate(destination: Path) -> None:
    done = run("status", "--cert", destination, PATH=os.environ["PATH"])
    assert done.returncode == 1
    assert "no daemon" in done.stderr
    assert done.stdout.startswith(f"Certificate: {destination}/sets/1/ssh_key-cert.pub\n")
    assert "Principals:" in done.stdout


def test_status_shows_no_bytes(tmp_path: Path) -> None:
    """Which is how ssh-keygen shows the extensions of a certificate that a server has issued."""
    auth = Auth()
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    (tmp_path / "ssh_key-cert.pub").write_text(certificate_line(machine.certificate) + "\n")
    (tmp_path / "ssh_key").touch()
    auth.close()
    done = run("status", "--cert", tmp_path)
    assert (done.returncode, done.stderr) == (1, "msh: no daemon keeps this identity\n")
    assert "permit-pty" in done.stdout
    assert "mezite.com" not in done.stdout


def test_status_of_a_certificate_that_is_torn(destination: Path) -> None:
    (destination / "ssh_key-cert.pub").write_text("torn")
    done = run("status", "--cert", destination)
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)
    assert "mezd" in done.stderr.splitlines()[1]


# --- the program ---------------------------------------------------------------------------


def run(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from mezite.cli.msh import main; main()", *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )


def test_it_becomes_ssh(destination: Path, tmp_path: Path) -> None:
    """The process itself: ssh's exit code and output are the caller's."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "ssh").write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 42\n')
    (bin_dir / "ssh").chmod(0o755)
    done = run("ssh", "--login=deploy", "--cert", destination, "web-1", "--", "./deploy.sh", "--all",
               PATH=f"{bin_dir}:/usr/bin:/bin")
    assert done.returncode == 42
    assert "|".join([*config(destination), "-l", "deploy", "--", "web-1", "./deploy.sh", "--all", ""]) == (
        done.stdout
    )


def test_nothing_found_is_exit_2_and_one_line(tmp_path: Path) -> None:
    done = run("ssh", "--login=deploy", "web-1", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("msh: no identity found; looked for --cert (not given), MEZITE_IDENTITY")


def test_no_ssh_on_the_path(destination: Path, tmp_path: Path) -> None:
    done = run("ssh", "--cert", destination, "web-1", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "install the OpenSSH client" in done.stderr


def test_it_imports_little() -> None:
    """Nothing may stand between a script and ssh."""
    code = "import sys, mezite.cli.msh; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"twisted", "grpc", "cryptography", "yaml", "asyncio"}


def test_version_and_help() -> None:
    runner = CliRunner()
    assert runner.invoke(msh.main, ["--version"]).output.startswith("msh ")
    assert "--login" in runner.invoke(msh.main, ["ssh", "--help"]).output
