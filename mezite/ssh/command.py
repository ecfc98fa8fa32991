"""One command in one session of ``exec: system``: its streams, its signals, its end.

When its channel ends, for whatever reason, the command is hung up; where it
has not ended by itself, what is left of its session is killed.  A command that
must outlive its session starts with ``setsid``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.ssh.accounts import Account
from mezite.ssh.process import SIGNALS, PipedProcess, TerminalProcess, ending
from mezite.ssh.session import STDERR, NodeSession
from mezite.ssh.terminal import Size, TerminalRequest, open_terminal

if TYPE_CHECKING:
    from mezite.ssh.programs import SystemPrograms

CANNOT_RUN = 126
FIRST_LOOK = 0.1
"""Seconds after a hangup; later looks come after twice the time each."""


class Invocation(Struct, frozen=True):
    """What is executed, as whom, with what around it."""

    account: Account
    executable: str
    arguments: list[bytes]
    """From ``argv[0]`` on."""
    environment: dict[bytes, bytes]
    terminal: TerminalRequest | None


class Command(ProcessProtocol):
    """A running command, between its process and its session."""

    _log = Logger()
    transport: Any

    def __init__(self, session: NodeSession, programs: SystemPrograms, what: Invocation) -> None:
        self._session = session
        self._programs = programs
        self._what = what
        self._process: PipedProcess | TerminalProcess | None = None
        self._has_ended = False
        self._input_full = False
        self._input_closed = False
        self._kill_timer: Any = None
        self._kill_at = 0.0

    def start(self) -> None:
        for directory in (self._what.account.home, "/"):
            try:
                spawned = self._spawn(directory)
                if not self._has_ended:
                    self._process = spawned
                return
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                why: Exception = error
        self._log.warn(
            "cannot run commands as {account}: {why}",
            event="node.cannot_run", account=self._what.account.name, why=why,
        )
        self._session.writeExtended(STDERR, b"this node cannot run commands now\n")
        self._session.exit(CANNOT_RUN)

    def _spawn(self, directory: str) -> PipedProcess | TerminalProcess:
        what = self._what
        executable = os.fsencode(what.executable)
        if what.terminal is None:
            return PipedProcess(
                what.account, self._programs.reactor, executable, what.arguments, what.environment,
                os.fsencode(directory), self,
            )
        device = open_terminal(what.terminal, what.account)
        environment = {**what.environment, b"SSH_TTY": os.fsencode(device.path)}
        if what.terminal.name:
            environment[b"TERM"] = what.terminal.name
        try:
            return TerminalProcess(
                what.account, device, self._programs.reactor, executable, what.arguments, environment,
                os.fsencode(directory), self,
            )
        except BaseException:
            device.close()
            raise

    @property
    def owner(self) -> str:
        """Whose share of the node's files it uses."""
        owner: str = self._session.avatar.admitted.owner
        return owner

    # --- from the process ------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._programs.started(self)
        self.transport.registerProducer(_InputFlow(self), True)

    def outReceived(self, data: bytes) -> None:
        self._session.write(data)

    def errReceived(self, data: bytes) -> None:
        self._session.writeExtended(STDERR, data)

    def inConnectionLost(self) -> None:
        """It reads no more: what still comes is taken and dropped."""
        self._input_closed = True
        self.input_flow(full=False)

    def processEnded(self, reason: Failure) -> None:
        if self._process is not None:
            # Does nothing unless it was so quick that it was reaped before its pipes were read.
            self._process.signal_own(signal.SIGHUP)
        self._process = None
        self._has_ended = self._input_closed = True
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        self._programs.ended(self)
        status, name, dumped = ending(reason.value)
        if status is not None:
            self._session.exit(status)
        else:
            self._session.exit_signal(name, core_dumped=dumped)

    # --- from the session ------------------------------------------------------------------

    @property
    def takes_input(self) -> bool:
        return not self._input_full

    def input_flow(self, *, full: bool) -> None:
        self._input_full = full
        if not full:
            self._session.taken(0)

    def receive(self, data: bytes) -> None:
        if self._process is not None and not self._input_closed:
            self._process.write(data)

    def receive_eof(self) -> None:
        """With a terminal nothing happens, as with sshd: only a typed ^D is its end."""
        if isinstance(self._process, PipedProcess) and not self._input_closed:
            self._input_closed = True
            # A registered producer would keep the pipe from closing.
            self._process.unregisterProducer()
            self._process.closeStdin()

    def pause(self) -> None:
        if self._process is not None:
            self._process.pauseProducing()

    def resume(self) -> None:
        if self._process is not None:
            self._process.resumeProducing()

    def signal(self, name: str) -> bool:
        if self._process is None or name not in SIGNALS:
            return False
        return self._process.signal_as_account(SIGNALS[name])

    def resize(self, size: Size) -> bool:
        if not isinstance(self._process, TerminalProcess):
            return False
        self._process.resize(size)
        return True

    def close_output(self) -> None:
        if self._process is not None:
            self._process.close_output()

    def hangup(self) -> None:
        """Hangs up the command; kills its session when it has not ended in time."""
        running = self._process
        if running is None or running.is_hung_up:
            return
        running.is_hung_up = True
        running.signal_own(signal.SIGHUP)
        running.signal_own(signal.SIGCONT)
        self._kill_at = self._programs.reactor.seconds() + self._programs.hangup_grace_seconds
        self._look_again(FIRST_LOOK)
        if not self._input_closed:
            running.unregisterProducer()
        running.loseConnection()

    def _look_again(self, wait: float) -> None:
        wait = min(wait, max(0, self._kill_at - self._programs.reactor.seconds()))
        self._kill_timer = self._programs.reactor.callLater(wait, self._look, wait)

    def _look(self, waited: float) -> None:
        """Nothing tells when the last one of a session has ended whose leader is gone."""
        self._kill_timer = None
        running = self._process
        if running is None:
            return
        if self._programs.reactor.seconds() >= self._kill_at:
            running.kill_all()
            # After all that are killed at this time: one look at what is left serves for all.
            self._kill_timer = self._programs.reactor.callLater(0, self._reap)
            return
        self._look_again(2 * waited)
        running.is_waiting = False
        running.reapProcess()

    def _reap(self) -> None:
        self._kill_timer = None
        if self._process is not None:
            self._process.reapProcess()


class _InputFlow:
    """Hears from the way into the command whether it is full."""

    def __init__(self, command: Command) -> None:
        self._command = command

    def pauseProducing(self) -> None:
        self._command.input_flow(full=True)

    def resumeProducing(self) -> None:
        self._command.input_flow(full=False)

    def stopProducing(self) -> None:
        self._command.input_flow(full=False)
