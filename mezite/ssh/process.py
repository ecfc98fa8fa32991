"""Processes of the operating system, started as an account and never left behind.

Each leads a session and a process group of its own.  It is reaped only when
nothing more is to be signalled: until then its number cannot name another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

from twisted.internet import fdesc, process
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from mezite.ssh.accounts import Account
from mezite.ssh.processes import is_there, kill_session, others_live, signal_group
from mezite.ssh.terminal import Device, Size, set_size

PRIVATE_NAMES: dict[Any, tuple[str, ...]] = {
    process.Process: ("_fork", "reapProcess", "processEnded", "childConnectionLost"),
    process.PTYProcess: ("_fork", "reapProcess", "processEnded", "connectionLost", "doRead"),
}
SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM",
                 "USR1", "USR2")
}
"""Signal names of RFC 4254 §6.10."""
_SIGNAL_NAMES = {int(number): name for name, number in SIGNALS.items()}
MAX_LAST_OUTPUT = 256 * 1024
"""What is read of a terminal whose program has ended: more than the kernel holds."""
_TAKE_TERMINAL = b': <>"$0" && exec "$@"'
"""Run by /bin/sh in a session of its own: the first terminal that its leader opens
becomes the controlling one (tty_ioctl(4)); then the program takes the shell's place."""


def spawn(
    account: Account, arguments: list[bytes], executable: bytes, environment: dict[bytes, bytes],
    directory: bytes, fds: tuple[int, int, int],
) -> int:
    """The id of a new process that runs as *account*.  Raises ``OSError`` or ``SubprocessError``.

    By ``subprocess``, whose child runs no Python between fork and exec: the
    server has threads (gRPC, the database), with which Twisted's own fork
    could hang.
    """
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        other = {"user": account.uid, "group": account.gid, "extra_groups": account.groups}
    child = subprocess.Popen(
        arguments,
        executable=executable,
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        cwd=directory,
        env=environment,
        close_fds=True,
        start_new_session=True,
        umask=0o022,
        **other,
    )
    # The reactor reaps it; subprocess must not.
    child.returncode = 0
    return child.pid


class _Leader:
    """What both kinds of process share."""

    _account: Account
    group = 0
    is_hung_up = False
    is_over = False
    """Whether the time is over that what was hung up may take to end."""
    _killed = 0.0
    _was_reaped = False
    """Its number has been free since, but for a group and a session that still have it."""
    is_waiting = False
    """Whether others of the session lived when they were last looked for, which costs a look at each
    process of the machine: whoever waits sets it back."""
    pid: Any
    reapProcess: Any

    def _has_group(self) -> bool:
        if self._was_reaped and self.group and is_there(self.group):
            # No process gets a number that a group still has: so this group has none left.
            self.group = 0
        return bool(self.group)

    def signal_own(self, number: int) -> None:
        """By the node's rights: to the whole group."""
        if self._has_group():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)

    def signal_as_account(self, number: int) -> bool:
        """By the account's rights; whether anything was there to be signalled."""
        if self._has_group():
            signal_group(self.group, number, self._account.uid)
        return bool(self.group)

    def kill_all(self) -> None:
        """The whole session; its leader's end is that of all from now on."""
        self.is_over = True
        if self._has_group():
            self._killed = kill_session(self.group)

    def _has_ended(self) -> bool:
        if self.pid is None:
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _must_wait(self) -> bool:
        """Whether the others of a session that was hung up may still take their time."""
        if not self.is_hung_up or self.is_over:
            return False
        self.is_waiting = self.is_waiting or others_live(self.group)
        return self.is_waiting

    def _end_group(self) -> None:
        """Before the leader is reaped: what is left of its group hears of it; of a
        session that was hung up nothing is left, or nothing stays."""
        if self.is_over:
            kill_session(self.group, self._killed)
        elif not self.is_hung_up:
            self.signal_own(signal.SIGHUP)
        self.group = 0


class PipedProcess(_Leader, process.Process):
    """A process with pipes; it has ended when they are closed, too."""

    def __init__(self, account: Account, *arguments: Any) -> None:
        self._account = account
        process.Process.__init__(self, *arguments)

    def _fork(
        self, path: Any, uid: Any, gid: Any, executable: Any, args: Any, environment: Any, **kwargs: Any
    ) -> None:
        fds: dict[int, int] = kwargs["fdmap"]
        self.pid = self.group = spawn(
            self._account, args, executable, environment, path, (fds[0], fds[1], fds[2])
        )

    def reapProcess(self) -> None:
        if self.pipes or not self._has_ended() or self._must_wait():
            return
        self._end_group()
        super().reapProcess()

    def processEnded(self, status: int) -> None:
        """Also called without :meth:`reapProcess`, as the terminal's; then its pipes may be
        held open for as long as somebody likes."""
        self._was_reaped = bool(self.group)
        super().processEnded(status)

    def kill_all(self) -> None:
        """Input that nobody has read is dropped: who has left the session may hold
        the pipe, and would be waited for."""
        super().kill_all()
        writer = self.pipes.get(0)
        if writer is not None:
            writer.connectionLost(Failure(ConnectionDone()))

    def close_output(self) -> None:
        """Closes our end: the program gets SIGPIPE if it writes on."""
        self.closeStdout()


class TerminalProcess(_Leader, process.PTYProcess):
    """A process with a terminal; it has ended when its leader has, as with sshd."""

    fd: int
    proto: Any

    def __init__(
        self, account: Account, device: Device, reactor: Any, executable: bytes, arguments: list[bytes],
        environment: dict[bytes, bytes], directory: bytes, proto: Any,
    ) -> None:
        self._account = account
        self._device = device
        pair = (device.ours, device.theirs, device.path)
        process.PTYProcess.__init__(
            self, reactor, executable, arguments, environment, directory, proto, usePTY=pair
        )

    def _fork(
        self, path: Any, uid: Any, gid: Any, executable: Any, args: Any, environment: Any, **kwargs: Any
    ) -> None:
        theirs = self._device.theirs
        words = [b"sh", b"-c", _TAKE_TERMINAL, os.fsencode(self._device.path), executable, *args[1:]]
        self.pid = self.group = spawn(
            self._account, words, b"/bin/sh", environment, path, (theirs, theirs, theirs)
        )

    def resize(self, size: Size) -> None:
        if self.connected:
            set_size(self.fd, size)

    def reapProcess(self) -> None:
        if not self._has_ended():
            return
        self._close()
        if self._must_wait():
            return
        self._end_group()
        super().reapProcess()

    def processEnded(self, status: int) -> None:
        """Also called without :meth:`reapProcess`, for a program that ended while it was being started."""
        self._close()
        if self.group:
            self._end_group()
        super().processEnded(status)

    def _close(self) -> None:
        if self.connected:
            self._read_last_output()
            # Closing hangs up whoever still holds the terminal.
            self.stopReading()
            self.stopWriting()
            self.connectionLost(Failure(ConnectionDone()))

    def _read_last_output(self) -> None:
        if self.is_hung_up:
            return
        count = 0

        def take(data: bytes) -> None:
            nonlocal count
            count += len(data)
            self.proto.childDataReceived(1, data)

        while count < MAX_LAST_OUTPUT:
            before = count
            if fdesc.readFromFD(self.fd, take) is not None or count == before:
                return

    def close_output(self) -> None:
        """A terminal is one thing for both directions: its output is read and dropped."""


def ending(value: Any) -> tuple[int | None, str, bool]:
    """Exit status, or else the signal's name and whether memory was dumped."""
    number = getattr(value, "signal", None)
    if number is None:
        return getattr(value, "exitCode", None) or 0, "", False
    name = _SIGNAL_NAMES.get(number) or f"{_name(number)}@mezite.com"
    return None, name, os.WCOREDUMP(value.status) if value.status is not None else False


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"SIG{number}"

