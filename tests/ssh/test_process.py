"""Processes with a real reactor's readers left out: how they begin, and end at an awkward moment."""

from __future__ import annotations

import os
import pwd
import select
import signal
import subprocess
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.testing import MemoryReactorClock

from mezite.ssh.accounts import find_account
from mezite.ssh.command import Command, Invocation
from mezite.ssh.programs import SystemPrograms
from mezite.ssh.terminal import Size, TerminalRequest

ACCOUNT = find_account(pwd.getpwuid(os.geteuid()).pw_name)
TERMINAL = TerminalRequest(b"xterm", Size(80, 24, 0, 0), ())


class Session:
    """What a command needs of its session."""

    def __init__(self) -> None:
        self.out = b""
        self.ended: list[Any] = []

    def write(self, data: bytes) -> None:
        self.out += data

    def writeExtended(self, kind: int, data: bytes) -> None:
        self.out += data

    def taken(self, count: int) -> None:
        pass

    def exit(self, status: int) -> None:
        self.ended.append(status)

    def exit_signal(self, name: str, *, core_dumped: bool = False) -> None:
        self.ended.append(name)


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program has ended before Twisted looks for the first time: a busy machine."""
    look = process.registerReapProcessHandler

    def late(pid: int, handler: Any) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        look(pid, handler)

    monkeypatch.setattr(process, "registerReapProcessHandler", late)


@pytest.mark.usefixtures("early")
def test_a_terminal_whose_program_ends_at_once_is_not_waited_for() -> None:
    """Though somebody else holds it; all output is there, and nothing is signalled later."""
    reactor = MemoryReactorClock()
    session = Session()
    programs = SystemPrograms(reactor, None, 5)
    words = [b"sh", b"-c", b"trap '' HUP; (sleep 2) & echo done; exit 4"]
    what = Invocation(ACCOUNT, "/bin/sh", words, {b"PATH": b"/usr/bin:/bin"}, TERMINAL)
    command = Command(session, programs, what)  # type: ignore[arg-type]
    command.start()
    assert (session.out, session.ended) == (b"done\r\n", [4])
    command.hangup()
    assert reactor.getDelayedCalls() == []
    assert programs.all_ended().called


def with_survivor(programs: SystemPrograms, session: Session) -> tuple[Command, int]:
    """A command that has left a program outside of its session, which holds its pipes."""
    words = [b"sh", b"-c", b"setsid -f sh -c 'echo $$; exec sleep 60'"]
    what = Invocation(ACCOUNT, "/bin/sh", words, {b"PATH": b"/usr/bin:/bin"}, None)
    command = Command(session, programs, what)  # type: ignore[arg-type]
    command.start()
    running: Any = command._process
    while not session.out.endswith(b"\n"):
        select.select([running.pipes[1].fileno()], [], [], 60)
        running.pipes[1].doRead()
    return command, int(session.out)


def test_input_that_nobody_reads_holds_up_no_end() -> None:
    """A program that has left its session holds the pipe, which is full."""
    reactor = MemoryReactorClock()
    session = Session()
    programs = SystemPrograms(reactor, None, 5)
    command, survivor = with_survivor(programs, session)
    running: Any = command._process
    try:
        if running.pid is not None:  # or it had ended before anybody waited for it
            os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        command.receive(b"x" * 200_000)
        running.pipes[0].doWrite()
        command.hangup()
        reactor.advance(4.9)
        assert not programs.all_ended().called
        reactor.pump([0.1, 0])
        assert programs.all_ended().called
        assert session.ended == [0]
        assert reactor.getDelayedCalls() == []
    finally:
        os.kill(survivor, signal.SIGKILL)


@pytest.mark.usefixtures("early")
def test_a_number_that_is_another_processs_by_now_is_not_signalled() -> None:
    """Twisted may have reaped the leader while others hold its pipes: its group may be anybody's later."""
    reactor = MemoryReactorClock()
    programs = SystemPrograms(reactor, None, 5)
    command, survivor = with_survivor(programs, Session())
    running: Any = command._process
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            running.group = other.pid
            assert not command.signal("TERM")
            running.group = other.pid
            command.hangup()
            reactor.pump([0.1, 5, 0])
            assert programs.all_ended().called
            assert other.poll() is None
        finally:
            other.kill()
            os.kill(survivor, signal.SIGKILL)
