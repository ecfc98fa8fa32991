"""Sessions of processes: found whole, and signalled with no more rights than there are."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mezite.ssh import processes
from mezite.ssh.processes import kill_session, signal_group

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """A session with a process in a group of its own in the background, which ignores SIGHUP."""
    program = "import os, signal, time; os.setpgid(0, 0); signal.signal(1, signal.SIG_IGN); " \
        "print(os.getpid(), flush=True); time.sleep(60)"
    command = '"$0" -c "$1" & exec sleep 60'
    leader = subprocess.Popen(
        ["sh", "-c", command, sys.executable, program], start_new_session=True, stdout=subprocess.PIPE
    )
    yield leader
    with leader:
        leader.kill()


def test_the_whole_session_is_killed(session: subprocess.Popen[bytes]) -> None:
    assert session.stdout is not None
    background = int(session.stdout.readline())
    assert os.getpgid(background) != session.pid
    held = os.pidfd_open(background)
    kill_session(session.pid)
    assert session.wait(30) == -signal.SIGKILL
    assert select.select([held], [], [], 30)[0] == [held]
    os.close(held)


def test_other_sessions_are_left_alone(session: subprocess.Popen[bytes]) -> None:
    assert session.stdout is not None
    session.stdout.readline()
    kill_session(2**22 + 1)
    assert session.poll() is None


def test_many_signals_share_a_look_at_all_processes(
    session: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would read a file of every process: a client that sends them without end stops all else."""
    taken: list[float] = []
    slow = processes._look

    def look() -> processes._Look:
        found = slow()
        taken.append(found.began)
        return processes._Look(found.began, found.ended + 10, found.sessions, found.zombies)

    monkeypatch.setattr(processes, "_look", look)
    monkeypatch.setattr(processes, "_looks", processes.Looks())
    for _ in range(20):
        signal_group(session.pid, signal.SIGTERM, os.geteuid() + 1)
    assert len(taken) == 1
    # One that must see what has happened since is a new one.
    kill_session(2**22 + 1, time.monotonic())
    assert len(taken) == 2


@as_root
def test_signals_reach_only_what_the_account_may_signal(session: subprocess.Popen[bytes]) -> None:
    """Not a program that runs with more rights, as by sudo."""
    assert session.stdout is not None
    session.stdout.readline()
    signal_group(session.pid, signal.SIGTERM, 65534)
    assert session.poll() is None
    signal_group(session.pid, signal.SIGTERM, 0)
    assert session.wait(30) == -signal.SIGTERM
    with subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[],
                          start_new_session=True) as other:
        signal_group(other.pid, signal.SIGTERM, 65534)
        assert other.wait(30) == -signal.SIGTERM
