"""mezd as a process: what it says and how it ends, before any server has a part in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "tok-bot-a1b2c3d4e5f6-0123456789abcdef0123456789abcdef-00112233445566778899aabbccddeeff"


def run(
    *words: str | Path, home: Path, command: str = "start", stdin: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from mezite.cli.mezd import main; main()", "identity", command, *words],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "certs"


def ends(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """With *code*, and one line that holds *parts*."""
    assert code == done.returncode, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mezd: ")
    for part in parts:
        assert part in done.stderr
    assert TOKEN.split("-")[3] not in done.stderr


def test_no_identity_and_no_token(destination: Path, tmp_path: Path) -> None:
    done = run("--auth-server=127.0.0.1:1", "--destination", destination, home=tmp_path)
    ends(done, 2, f"no identity in {destination} yet", "--join-token")


def test_no_server(destination: Path, tmp_path: Path) -> None:
    ends(run(f"--token={TOKEN}", "--destination", destination, home=tmp_path), 2, "--auth-server")


def test_the_short_token_of_the_documentation(destination: Path, tmp_path: Path) -> None:
    done = run("--auth-server=127.0.0.1:1", "--join-token=tok-bot-a1b2c3d4e5f6",
               "--destination", destination, home=tmp_path)
    ends(done, 2, "mistyped or cut short")


def test_interval_and_ttl(destination: Path, tmp_path: Path) -> None:
    done = run("--auth-server=127.0.0.1:1", f"--join-token={TOKEN}", "--destination", destination,
               "--renewal-interval=2h", "--certificate-ttl=1h", home=tmp_path)
    ends(done, 2, "--renewal-interval", "not shorter than")
    assert not destination.exists()


def test_destination_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(f"--token={TOKEN}", "--destination", tmp_path / "file", home=tmp_path)
    ends(done, 2, "is not a directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_destination_with_files_of_somebody_else(destination: Path, tmp_path: Path) -> None:
    destination.mkdir()
    (destination / "ssh_key").write_text("mine")
    ends(run(f"--token={TOKEN}", "--destination", destination, home=tmp_path), 2, "ssh_key", "move it away")
    assert (destination / "ssh_key").read_text() == "mine"


def test_a_damaged_state_is_told_and_left_alone(destination: Path, tmp_path: Path) -> None:
    state = destination / ".mezite"
    state.mkdir(parents=True)
    for slot in ("state.0", "state.1"):
        (state / slot).write_bytes(b"of somebody else")
    done = run("--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--destination", destination, home=tmp_path)
    ends(done, 1, str(state / "state.0"), "join again with a new token")
    assert (state / "state.0").read_bytes() == b"of somebody else"


def test_unreadable_ca_file(destination: Path, tmp_path: Path) -> None:
    for words in (["--ca-file", tmp_path / "none"], ["--ca-file", __file__]):
        done = run("--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--destination", destination, *words,
                   home=tmp_path)
        ends(done, 2, str(words[1]))


def test_too_long_a_socket_path(tmp_path: Path) -> None:
    destination = tmp_path / ("x" * 100)
    done = run("--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--destination", destination, home=tmp_path)
    ends(done, 2, "at most 107 bytes")


def test_unreachable_one_shot(destination: Path, tmp_path: Path) -> None:
    """It is tried for a while, not for ever, then it is exit 1, and the keys wait for the next run."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        done = run(f"--auth-server=127.0.0.1:{port}", "--join-token=-", "--destination", destination,
                   "--one-shot", home=tmp_path, stdin=f"{TOKEN}\n")
    ends(done, 1, f"cannot reach the auth server at 127.0.0.1:{port}: connection refused",
         "is it running, and is the address right?", "(unreachable)")
    assert not (destination / "ssh_key").exists()


def test_help_and_version_come_without_the_heavy_imports() -> None:
    code = (
        "import sys; from mezite.cli.mezd import main\n"
        "try: main(['identity', 'start', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--join-token-file" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"twisted", "grpc", "cryptography", "yaml", "asyncio"}


def test_a_token_in_the_wrong_place_is_not_shown(destination: Path, tmp_path: Path) -> None:
    """A job's log keeps what is printed; the token may still be good."""
    done = run(TOKEN, "--destination", destination, home=tmp_path)
    assert done.returncode == 2
    assert TOKEN.split("-")[3] not in done.stderr
    assert "tok-bot-a1b2c3d4e5f6-…" in done.stderr


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--renewal-interval=999999d", "at most 366d"),
        ("--certificate-ttl=999999d", "at most 366d"),
        ("--certificate-ttl=1s", "at least 2s"),
    ],
)
def test_durations_that_no_server_grants(destination: Path, tmp_path: Path, flag: str, told: str) -> None:
    """Told at once: a daemon that asks for them would be refused, or not understood, for ever."""
    done = run(
        "--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--destination", destination, "--one-shot", flag,
        home=tmp_path,
    )
    ends(done, 2, flag.partition("=")[0], told)


def test_what_it_cannot_listen_on_is_worth_another_try(destination: Path, tmp_path: Path) -> None:
    """An address that comes later, or a process that ends: the unit does not restart after 2 and 3."""
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as deaf:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "run").mkdir(mode=0o700)
        deaf.bind(str(tmp_path / "run/control.sock"))
        deaf.listen()
        for flag, told in (
            (f"--diag-addr=127.0.0.1:{taken.getsockname()[1]}", "Address already in use"),
            ("--diag-addr=192.0.2.1:3082", "Cannot assign requested address"),
            (f"--control-socket={tmp_path}/run/control.sock", "already listens there"),
        ):
            done = run("--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--destination", destination, flag,
                       home=tmp_path)
            ends(done, 1, told, "(state)")


def test_status_finds_the_home_directory(tmp_path: Path) -> None:
    done = run("--destination=~/certs", home=tmp_path, command="status")
    ends(done, 1, f"there is no socket at {tmp_path}/certs/.mezite/control.sock")


NOBODYS = (
    "import os, pwd\n"
    "def gone(uid): raise KeyError(uid)\n"
    "os.geteuid, pwd.getpwuid = lambda: 54321, gone\n"
    "from mezite.cli.{} import main; main()"
)


@pytest.mark.parametrize(
    ("module", "words", "code", "part"),
    [
        ("mezd", ("identity", "status"), 1, "there is no socket at /.local/state/mezite/identity"),
        ("mezctl", ("bots", "ls"), 1, "/.local/share/mezite/admin.sock"),
        ("msh", ("ssh", "a"), 2, "no identity found"),
    ],
)
def test_an_account_without_a_home(module: str, words: tuple[str, ...], code: int, part: str) -> None:
    """As in a container that runs under a number: no HOME, and nothing in passwd."""
    done = subprocess.run(
        [sys.executable, "-c", NOBODYS.format(module), *words], env={"PATH": os.environ["PATH"]},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert part in done.stderr


def test_status_without_a_daemon_names_its_own_options(tmp_path: Path, destination: Path) -> None:
    """Those of `mezd`, not those of `mezctl`, and what tells more."""
    done = run(f"--destination={destination}", home=tmp_path, command="status")
    ends(done, 1, f"{destination}/.mezite/control.sock", "--destination", "--control-socket",
         "mezd identity doctor", "(unreachable)")
    assert "--socket" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have a host name of its own")
def test_a_host_name_that_is_no_text_is_shown_escaped() -> None:
    """A machine of another age, named in Latin-1; it could never join."""
    code = (
        "import socket; socket.sethostname(b'b\\xfcro')\n"
        "from mezite.config.daemon import from_keywords\n"
        "from mezite.identity.given import options_for\n"
        "class Remote: address = 'a:1'\n"
        "print(options_for(from_keywords({'destination': '/d'}), None, Remote, ()).host)"
    )
    done = subprocess.run(
        ["unshare", "--uts", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.stdout, done.stderr) == ("b\\udcfcro\n", "")
