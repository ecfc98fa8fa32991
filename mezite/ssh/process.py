"""Real commands for ``exec: system``: ``/bin/sh -c`` as the login's account.

Every command gets a session and process group of its own.  When its channel
ends, for whatever reason, the group is hung up; where the command had not
ended by itself, what is left of the group is killed.  A command that must
outlive its session starts with ``setsid``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet import process
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.ssh.accounts import Account, NoAccount, account_for
from mezite.ssh.builtin import Answer
from mezite.ssh.session import STDERR, Asked, NodeSession, Program

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

SHELL = "/bin/sh"
PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CANNOT_RUN = 126
PRIVATE_NAMES: dict[Any, tuple[str, ...]] = {process.Process: ("_fork", "reapProcess", "processEnded")}
SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM",
                 "USR1", "USR2")
}
"""Signal names of RFC 4254 §6.10."""
_SIGNAL_NAMES = {int(number): name for name, number in SIGNALS.items()}


class GroupProcess(process.Process):
    """A process that leads a group, and is reaped only when its pipes are closed.

    Until it is reaped its number cannot name another group, so that a signal
    to the group never hits a stranger.

    Started by ``subprocess``, whose child runs no Python between fork and exec:
    the server has threads (gRPC, the database), with which Twisted's own fork
    could hang.
    """

    def __init__(self, account: Account, *arguments: Any) -> None:
        self._account = account
        self.group = 0
        self.is_hung_up = False
        super().__init__(*arguments)

    def _fork(
        self, path: Any, uid: Any, gid: Any, executable: Any, args: Any, environment: Any, **kwargs: Any
    ) -> None:
        fds: dict[int, int] = kwargs["fdmap"]
        other: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = self._account
            other = {"user": account.uid, "group": account.gid, "extra_groups": account.groups}
        child = subprocess.Popen(
            args,
            executable=executable,
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            cwd=path,
            env=environment,
            close_fds=True,
            start_new_session=True,
            umask=0o022,
            **other,
        )
        self.pid = self.group = child.pid
        # The reactor reaps it; subprocess must not.
        child.returncode = 0

    def signal_group(self, number: int) -> None:
        if self.group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)

    def reapProcess(self) -> None:
        if self.pipes or self.pid is None:
            return
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
        except ChildProcessError:
            pass
        self.signal_group(signal.SIGKILL if self.is_hung_up else signal.SIGHUP)
        self.group = 0
        super().reapProcess()


class Command(ProcessProtocol):
    """One command in one session."""

    _log = Logger()
    transport: Any

    def __init__(
        self,
        session: NodeSession,
        programs: SystemPrograms,
        account: Account,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
    ) -> None:
        self._session = session
        self._programs = programs
        self._account = account
        self._arguments = arguments
        self._environment = environment
        self._process: GroupProcess | None = None
        self._input_full = False
        self._input_closed = False
        self._kill_timer: Any = None

    def start(self) -> None:
        for directory in (self._account.home, "/"):
            try:
                self._process = GroupProcess(
                    self._account, self._programs.reactor, SHELL, self._arguments, self._environment,
                    directory, self,
                )
                break
            except (OSError, subprocess.SubprocessError) as error:
                why: Exception = error
        else:
            self._log.warn("cannot run commands as {account}: {why}", account=self._account.name, why=why)
            self._session.writeExtended(STDERR, b"this node cannot run commands now\n")
            self._session.exit(CANNOT_RUN)

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
            self._process.signal_group(signal.SIGHUP)
        self._process = None
        self._input_closed = True
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        self._programs.ended(self)
        value: Any = reason.value
        number = getattr(value, "signal", None)
        if number is None:
            self._session.exit(getattr(value, "exitCode", None) or 0)
        else:
            name = _SIGNAL_NAMES.get(number, f"{signal.Signals(number).name[3:]}@mezite.com")
            dumped = os.WCOREDUMP(value.status) if value.status is not None else False
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
        if self._process is not None and not self._input_closed:
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

    def signal(self, name: str) -> None:
        if self._process is not None and name in SIGNALS:
            self._process.signal_group(SIGNALS[name])

    def hangup(self) -> None:
        """Hangs up the group; kills it when the command has not ended in time."""
        running = self._process
        if running is None or running.is_hung_up:
            return
        running.is_hung_up = True
        running.signal_group(signal.SIGHUP)
        running.signal_group(signal.SIGCONT)
        self._kill_timer = self._programs.reactor.callLater(
            self._programs.hangup_grace_seconds, self._kill
        )
        if not self._input_closed:
            running.unregisterProducer()
        running.loseConnection()

    def _kill(self) -> None:
        self._kill_timer = None
        if self._process is not None:
            self._process.signal_group(signal.SIGKILL)


class _InputFlow:
    """Hears from the pipe to the command whether it is full."""

    def __init__(self, command: Command) -> None:
        self._command = command

    def pauseProducing(self) -> None:
        self._command.input_flow(full=True)

    def resumeProducing(self) -> None:
        self._command.input_flow(full=False)

    def stopProducing(self) -> None:
        self._command.input_flow(full=False)


class SystemPrograms:
    """Programs for ``exec: system``; knows those that run, so that a stop can wait for them."""

    def __init__(
        self,
        reactor: Any,
        run_as: str | None,
        hangup_grace_seconds: float,
        find: Callable[[str, str | None], Account] = account_for,
    ) -> None:
        self.reactor = reactor
        self.hangup_grace_seconds = hangup_grace_seconds
        self._run_as = run_as
        self._find = find
        self._running: set[Command] = set()
        self._waiting: list[Deferred[None]] = []

    def account_problem(self, login: str) -> str | None:
        """Why *login* cannot run anything here, or ``None``."""
        try:
            self._find(login, self._run_as)
        except NoAccount as error:
            return str(error)
        return None

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program:
        if asked.command is None and asked.wanted_pty:
            return Answer(session, b"", b"No terminals here; give a command: ssh HOST COMMAND\n", 1)
        try:
            account = self._find(user.login, self._run_as)
        except NoAccount:
            return Answer(session, b"", b"this login has no account any more\n", CANNOT_RUN)
        arguments = [b"sh"] if asked.command is None else [b"sh", b"-c", asked.command]
        return Command(session, self, account, arguments, self._environment(session, user, account, asked))

    def _environment(
        self, session: NodeSession, user: NodeUser, account: Account, asked: Asked
    ) -> dict[bytes, bytes]:
        """A small environment, nothing of the server's own."""
        peer, host = session.getPeer().address, session.getHost().address
        texts = {
            "PATH": ROOT_PATH if account.uid == 0 else PATH,
            "HOME": account.home,
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": SHELL,
            "SSH_CLIENT": f"{_part(peer, 'host')} {_part(peer, 'port')} {_part(host, 'port')}",
            "SSH_CONNECTION": " ".join(
                (_part(peer, "host"), _part(peer, "port"), _part(host, "host"), _part(host, "port"))
            ),
            "MEZITE_LOGIN": user.login,
            "MEZITE_BOT": user.admitted.identity.bot,
            "MEZITE_INSTANCE": user.admitted.identity.instance,
        }
        environment = {name.encode(): os.fsencode(value) for name, value in texts.items() if value}
        if asked.original:
            environment[b"SSH_ORIGINAL_COMMAND"] = asked.original
        return environment

    def started(self, command: Command) -> None:
        self._running.add(command)

    def ended(self, command: Command) -> None:
        self._running.discard(command)
        if not self._running:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)

    def all_ended(self) -> Deferred[None]:
        """Fires when no command runs any more."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done


def _part(address: Any, name: str) -> str:
    return str(getattr(address, name, "") or "0")
