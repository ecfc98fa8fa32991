"""``exec: system`` seen by the system's own ``ssh``: terminals, ends, and what is refused."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezite.ssh.copying import SFTP_SERVERS
from tests.ssh.test_openssh import IS_ROOT, Node, started, wait_for

TERMINAL = ("RequestTTY=force",)
NOBODYS = [("roles@mezite.com", "deployer"), ("bot@mezite.com", "ci")]


def with_grace(factory: pytest.TempPathFactory, seconds: float) -> Iterator[Node]:
    who = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    yield from started(
        factory, exec="system", run_as="nobody" if IS_ROOT else who, hangup_grace_seconds=seconds
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from with_grace(tmp_path_factory, 1)


@pytest.fixture
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One that leaves programs all the time they need for what they do when they are hung up."""
    yield from with_grace(tmp_path_factory, 60)


def run(node: Node, *words: str, options: tuple[str, ...] = (), stdin: bytes = b"", **certificate: Any
        ) -> subprocess.CompletedProcess[bytes]:
    return node.run(node.identity("session", **certificate), *words, options=options, stdin=stdin)


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A directory that every account can write to."""
    with tempfile.TemporaryDirectory(prefix="mz") as made:
        Path(made).chmod(0o777)
        yield Path(made)


def test_all_output_of_a_terminal_arrives(node: Node) -> None:
    """Also what the kernel still holds when the program is gone."""
    done = run(node, "seq 1 20000; exit 5", options=TERMINAL)
    assert done.returncode == 5
    assert done.stdout.split() == [str(number).encode() for number in range(1, 20001)]


def test_a_terminal_ends_with_its_program(node: Node, anybodys: Path) -> None:
    """Whoever else holds it, as with sshd; and is not killed for it."""
    awaited, mark = anybodys / "client_is_gone", anybodys / "survivor"
    waits = f"for _ in $(seq 1200); do [ -e {awaited} ] && break; sleep 0.1; done; sleep 3; touch {mark}"
    done = run(node, f"trap '' HUP; ({waits}) & echo done", options=TERMINAL)
    assert (done.stdout, done.returncode) == (b"done\r\n", 0)
    awaited.touch()
    wait_for(mark.exists)


def test_a_lost_client_hangs_up_the_terminal(patient: Node, anybodys: Path) -> None:
    mark = anybodys / "hung_up"
    command = f"trap 'touch {mark}; exit' HUP; echo ready; while :; do sleep 0.1; done"
    client = subprocess.Popen(
        patient.command(patient.identity("session"), command, options=TERMINAL),
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\r\n"
        client.kill()
    wait_for(mark.exists)


@pytest.mark.parametrize("options", [(), TERMINAL], ids=["pipes", "terminal"])
def test_who_is_hung_up_has_time_to_end_though_its_shell_is_gone(
    patient: Node, anybodys: Path, options: tuple[str, ...]
) -> None:
    """The shell dies of its SIGHUP at once; what it has started may still put its things in order."""
    mark = anybodys / "in_order"
    # bash tells its standard error, which nobody reads any more, what has become of its sleep.
    trap = f"trap 'sleep 1; touch {mark}; exit' HUP"
    inner = f"exec 2>/dev/null; {trap}; echo ready; while :; do sleep 0.1; done"
    client = subprocess.Popen(
        patient.command(patient.identity("session"), f'bash -c "{inner}"; true', options=options),
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline().strip() == b"ready"
        client.kill()
    wait_for(mark.exists)


def test_without_permission_there_is_no_terminal(node: Node) -> None:
    done = run(node, "true", options=TERMINAL, extensions=tuple(NOBODYS))
    assert b"PTY allocation request failed" in done.stderr
    assert run(node, "tty; exit 3", extensions=tuple(NOBODYS)).returncode == 3


def test_a_terminals_program_is_told_of_its_death(node: Node) -> None:
    assert run(node, "kill -KILL $$", options=TERMINAL).returncode == 255
    wait_for(lambda: node.events()[-1].get("exit_signal") == "KILL")


def test_forced_commands_may_have_a_terminal(node: Node) -> None:
    forced = {"critical_options": (("force-command", "tty; echo $SSH_ORIGINAL_COMMAND"),)}
    done = run(node, "whatever", options=TERMINAL, **forced)
    tty, original = done.stdout.split()
    assert (tty[:9], original) == (b"/dev/pts/", b"whatever")


def test_forced_sftp_is_the_subsystem(node: Node) -> None:
    """`internal-sftp` as sshd_config writes it; here without the role option it needs."""
    if not any(Path(place).exists() for place in SFTP_SERVERS):
        pytest.skip("needs OpenSSH's sftp-server (Debian: openssh-sftp-server)")
    forced = {"critical_options": (("force-command", "internal-sftp -R"),)}
    done = run(node, "echo no", **forced)
    assert done.returncode == 1
    assert b"no role of this identity allows file copies here (sftp)" in done.stderr
    assert node.last_refusal() == "file_copy"


def test_unknown_subsystems_are_refused(node: Node) -> None:
    done = run(node, "netconf", options=("SessionType=subsystem",))
    assert done.returncode == 255
    assert node.last_refusal() == "no_subsystem"


def test_variables_of_the_client_never_replace_the_nodes_own(node: Node) -> None:
    options = ("SetEnv=LC_ALL=C LANG=x PATH=/tmp HOME=/tmp LC_x=1 SSH_CLIENT=me LD_PRELOAD=/x",)
    shown = run(node, "env", options=options).stdout.decode().splitlines()
    found = dict(line.split("=", 1) for line in shown if "=" in line)
    assert (found["LC_ALL"], found["LANG"]) == ("C", "x")
    assert found["SSH_CLIENT"].startswith("127.0.0.1 ")
    assert found["PATH"] != "/tmp"
    assert not {"LC_x", "LD_PRELOAD"} & set(found)


def test_sessions_are_ended_with_their_certificate_where_it_is_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for other in started(tmp_path_factory, end_sessions_at_expiry=True):
        for seconds in (4, 12, 40):
            soon = int(time.time()) + seconds
            client = subprocess.Popen(
                other.command(other.identity("session", valid_before=soon), "echo"),
                stdin=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            with client:
                assert client.wait(60) == 255
            assert time.time() >= soon
            # On a busy machine the login may have come too late.
            if any(event["type"] == "session.start" for event in other.events()):
                break
        (end,) = wait_for(lambda: [one for one in other.events() if one["type"] == "session.end"])  # noqa: B023
        assert end["reason"] == "expired"
