"""Session channels: exec, shell and subsystem through one door (RFC 4254 §6).

The certificate's ``force-command`` replaces whatever was asked for, by any of
the three.  A session does not end with its certificate (as with sshd), but with
a lock.  Memory is bounded in both directions: a program is paused while its
output cannot leave, and the peer gets new window only for input that was taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from twisted.conch.ssh.channel import SSHChannel
from twisted.logger import Logger

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.core.audit import plain

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

STDERR = 1
"""RFC 4254 §5.2, SSH_EXTENDED_DATA_STDERR."""
WINDOW = 256 * 1024
MAX_COMMAND = 128 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What a session is to run."""

    command: bytes | None
    """``None``: a shell."""
    original: bytes | None = None
    """What the peer asked for where the certificate forces another command;
    empty for a shell (OpenSSH sets SSH_ORIGINAL_COMMAND only for commands)."""
    wanted_pty: bool = False


class Program(Protocol):
    """What runs in a session.  It ends by ``session.exit`` or ``session.exit_signal``."""

    @property
    def takes_input(self) -> bool:
        """Whether it wants more input now; when that changes it calls ``session.taken(0)``."""

    def start(self) -> None: ...
    def receive(self, data: bytes) -> None: ...
    def receive_eof(self) -> None: ...
    def pause(self) -> None:
        """Make no more output for now."""

    def resume(self) -> None: ...
    def signal(self, name: str) -> None: ...
    def hangup(self) -> None:
        """The session is over: end, and leave nothing behind."""


class Programs(Protocol):
    """Makes the program for a session, or says why there is none."""

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program: ...


class NodeSession(SSHChannel):
    """One session channel."""

    name = b"session"
    avatar: Any
    conn: Any
    _log = Logger()

    def __init__(self, **arguments: Any) -> None:
        super().__init__(localWindow=WINDOW, **arguments)
        self._program: Program | None = None
        self._prepared: Program | None = None
        self._pty_refused = False
        self._early: list[bytes] = []
        self._early_eof = False
        self._untaken = 0
        self._out: deque[tuple[int, bytes]] = deque()
        self._last_words: tuple[bytes, bytes] | None = None
        self._paused = False
        self._is_finished = False

    # --- requests --------------------------------------------------------------------------

    def handle_request(self, kind: bytes, reader: Reader) -> bool:
        """Whether the request is granted; its program starts in :meth:`answered`."""
        if kind == b"exec":
            return self._prepare(reader.string(MAX_COMMAND), is_subsystem=False)
        if kind == b"shell":
            return self._prepare(None, is_subsystem=False)
        if kind == b"subsystem":
            return self._prepare(reader.string(1024), is_subsystem=True)
        if kind == b"signal":
            if self._program is not None:
                self._program.signal(reader.string(32).decode("ascii", "replace"))
                return True
            return False
        if kind == b"pty-req":
            # No terminals yet, whether the certificate permits them or not.
            self._pty_refused = True
        return False

    def _prepare(self, wanted: bytes | None, *, is_subsystem: bool) -> bool:
        if self._program is not None or self._prepared is not None:
            return False
        if wanted is not None and b"\0" in wanted:
            return False
        forced = self.avatar.admitted.identity.force_command
        if forced is not None:
            asked = Asked(forced.encode(), wanted or b"", self._pty_refused)
        elif is_subsystem:
            return False
        else:
            asked = Asked(wanted, None, self._pty_refused)
        self.avatar.commands += 1
        self._log.info(
            "{login} (key id {key_id}) runs {command}",
            login=plain(self.avatar.login, 64),
            key_id=plain(self.avatar.admitted.identity.key_id, 128),
            command=plain(asked.command or b"a shell", 300),
        )
        self._prepared = self.avatar.programs.make(self, self.avatar, asked)
        return True

    def answered(self) -> None:
        """The request's answer is on its way: the program may begin."""
        if self._prepared is None:
            return
        self._program, self._prepared = self._prepared, None
        self._program.start()
        early, self._early = self._early, []
        for data in early:
            self.dataReceived(data)
        if self._early_eof:
            self.eofReceived()

    # --- input -----------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._last_words is not None:
            self.taken(len(data))
        elif self._program is None:
            # At most a window of it: no more is granted until a program takes it.
            self._early.append(data)
        else:
            self._program.receive(data)
            self.taken(len(data))

    def taken(self, count: int) -> None:
        """*count* bytes of input are with the program; the peer may send as many
        again, once the program wants more."""
        self._untaken += count
        wants = self._last_words is not None or (self._program is not None and self._program.takes_input)
        if wants and self._untaken >= WINDOW // 4 and not self.localClosed:
            count, self._untaken = self._untaken, 0
            self.conn.adjustWindow(self, count)

    def eofReceived(self) -> None:
        if self._program is None:
            self._early_eof = True
        else:
            self._program.receive_eof()

    # --- output ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._send(0, data)

    def writeExtended(self, dataType: int, data: bytes) -> None:
        self._send(dataType, data)

    def _send(self, kind: int, data: bytes) -> None:
        if data and not self.localClosed and self._last_words is None:
            self._out.append((kind, data))
            self.flow_changed()

    @property
    def blocked(self) -> bool:
        """Whether output waits for the peer."""
        return bool(self._out) or self.conn.transport.output_blocked

    def addWindowBytes(self, data: int) -> None:
        self.remoteWindowLeft += data
        self.flow_changed()

    def flow_changed(self) -> None:
        """Sends what may be sent; then pauses or resumes the program."""
        while self._out and self.remoteWindowLeft and not self.conn.transport.output_blocked:
            kind, data = self._out.popleft()
            size = min(len(data), self.remoteWindowLeft, self.remoteMaxPacket)
            if size < len(data):
                self._out.appendleft((kind, data[size:]))
            self.remoteWindowLeft -= size
            if kind:
                self.conn.sendExtendedData(self, kind, data[:size])
            else:
                self.conn.sendData(self, data[:size])
        if self._last_words is not None:
            if not self._out:
                self._finish()
            return
        if self._program is not None and self.blocked != self._paused:
            self._paused = not self._paused
            if self._paused:
                self._program.pause()
            else:
                self._program.resume()
        self.taken(0)

    # --- end -------------------------------------------------------------------------------

    def exit(self, status: int) -> None:
        """The program has ended; said after the last of its output (RFC 4254 §6.10)."""
        self._end(b"exit-status", wire.u32(status))

    def exit_signal(self, name: str, *, core_dumped: bool = False) -> None:
        """The program was ended by the signal *name* (``KILL``)."""
        payload = wire.text(name) + bytes([core_dumped]) + wire.string(b"") + wire.string(b"")
        self._end(b"exit-signal", payload)

    def _end(self, kind: bytes, payload: bytes) -> None:
        if self._last_words is None:
            self._last_words = (kind, payload)
            if not self.localClosed:
                self.flow_changed()

    def _finish(self) -> None:
        # Sending may fill the socket, which comes back here.
        if self.localClosed or self._is_finished or self._last_words is None:
            return
        self._is_finished = True
        self.conn.sendEOF(self)
        self.conn.sendRequest(self, *self._last_words)
        self.conn.sendClose(self)

    def closeReceived(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        """Closes at once; output that waits is dropped."""
        self._out.clear()
        self._hang_up()
        self.conn.sendClose(self)

    def closed(self) -> None:
        self._out.clear()
        self._hang_up()

    def _hang_up(self) -> None:
        program, self._program, self._prepared = self._program, None, None
        if program is not None:
            program.hangup()
