"""Session channels: exec, shell and subsystem through one door (RFC 4254 §6).

The certificate's ``force-command`` replaces whatever was asked for, by any of
the three.  What ran, and how it ended, goes to the audit log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, field
from twisted.logger import Logger

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.core.audit import EventType, plain
from mezite.ssh.channel import FlowChannel
from mezite.ssh.terminal import Size, TerminalRequest

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

STDERR = 1
"""RFC 4254 §5.2, SSH_EXTENDED_DATA_STDERR."""
MAX_COMMAND = 128 * 1024
MAX_VARIABLES = 32
MAX_VARIABLE = 1024
PERMIT_PTY = "permit-pty"
_VARIABLES = re.compile(rb"LANG|LC_[A-Z]{1,32}")
"""What a client may set, as Debian's sshd: the language, nothing that a program trusts."""

EXEC, SHELL, SUBSYSTEM = "exec", "shell", "subsystem"


class Asked(Struct, frozen=True):
    """What a session is to run."""

    kind: str
    """What was asked for, before a forced command took its place."""
    command: bytes | None
    """Or the subsystem's name; ``None``: a shell."""
    is_forced: bool = False
    original: bytes | None = None
    """What the peer asked for where the certificate forces another command;
    empty for a shell (OpenSSH sets SSH_ORIGINAL_COMMAND only for commands)."""
    terminal: TerminalRequest | None = None
    variables: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def is_subsystem(self) -> bool:
        return self.kind == SUBSYSTEM and not self.is_forced


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
    def signal(self, name: str) -> bool:
        """Whether the signal *name* (``TERM``) was passed on."""

    def resize(self, size: Size) -> bool:
        """Whether there is a terminal, which has this size now."""

    def close_output(self) -> None:
        """Nobody reads its output any more: as a pipe whose reader is gone."""

    def hangup(self) -> None:
        """The session is over: end, and leave nothing behind."""


class Refusal(Struct, frozen=True):
    """Why there is no program: a stable code, and a line for the user."""

    code: str
    message: str


class Programs(Protocol):
    """Makes the program for a session."""

    has_terminals: bool

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program | Refusal: ...


class NodeSession(FlowChannel):
    """One session channel."""

    name = b"session"
    _log = Logger()

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._program: Program | None = None
        self._prepared: Program | None = None
        self._asked: Asked | None = None
        self._terminal: TerminalRequest | None = None
        self._resized: Size | None = None
        self._variables: dict[bytes, bytes] = {}
        self._early: list[bytes] = []
        self._early_eof = False
        self._output_unwanted = False
        self._last_words: tuple[bytes, bytes] | None = None
        self._is_finished = False
        self._started: datetime | None = None

    # --- requests --------------------------------------------------------------------------

    def handle_request(self, kind: bytes, reader: Reader) -> bool:
        """Whether the request is granted; its program starts in :meth:`answered`."""
        if kind == b"exec":
            return self._prepare(EXEC, reader.string(MAX_COMMAND))
        if kind == b"shell":
            return self._prepare(SHELL, None)
        if kind == b"subsystem":
            return self._prepare(SUBSYSTEM, reader.string(1024))
        if kind == b"env":
            return self._set_variable(reader.string(MAX_VARIABLE), reader.string(MAX_COMMAND))
        if kind == b"pty-req":
            return self._take_terminal(TerminalRequest.from_reader(reader))
        if kind == b"window-change":
            self._resized = Size.from_reader(reader)
            return self._program is not None and self._program.resize(self._resized)
        if kind == b"signal":
            name = reader.string(32).decode("ascii", "replace")
            return self._program is not None and self._may_signal() and self._program.signal(name)
        if kind == b"eow@openssh.com":
            # OpenSSH's PROTOCOL §2.1: the client's own output is gone (`ssh node yes | head`).
            self._output_unwanted = True
            if self._program is not None:
                self._program.close_output()
            return True
        return False

    def _may_signal(self) -> bool:
        """As sshd: nobody interrupts what the certificate forces, or a subsystem."""
        return self._asked is not None and not self._asked.is_forced and not self._asked.is_subsystem

    def _set_variable(self, name: bytes, value: bytes) -> bool:
        if self._program is not None or not _VARIABLES.fullmatch(name):
            return False
        if len(value) > MAX_VARIABLE or b"\0" in value or len(self._variables) >= MAX_VARIABLES:
            return False
        self._variables[name] = value
        return True

    def _take_terminal(self, wanted: TerminalRequest) -> bool:
        permitted = PERMIT_PTY in self.avatar.admitted.identity.permissions
        if self._program is not None or self._terminal is not None:
            return False
        if not permitted or not self.avatar.programs.has_terminals:
            return False
        self._terminal = wanted
        return True

    def _prepare(self, kind: str, wanted: bytes | None) -> bool:
        if self._prepared is not None or self._program is not None:
            return False
        if self._is_finished or self._last_words is not None or (wanted is not None and b"\0" in wanted):
            return False
        forced = self.avatar.admitted.identity.force_command
        command, original = (wanted, None) if forced is None else (forced.encode(), wanted or b"")
        self._asked = asked = Asked(
            kind, command, forced is not None, original, self._terminal, dict(self._variables)
        )
        made = self.avatar.programs.make(self, self.avatar, asked)
        if isinstance(made, Refusal):
            self._asked = None
            self.avatar.refused(made.code, made.message, self._what(asked))
            if kind == SUBSYSTEM:
                return False
            # ssh would say "exec request failed" only: so it runs, and says why not.
            made = Saying(self, f"{made.message}\n".encode())
        self._prepared = made
        return True

    def answered(self) -> None:
        """The request's answer is on its way: the program may begin."""
        if self._prepared is None:
            return
        self._program, self._prepared = self._prepared, None
        if self._asked is not None:
            self._started = self.avatar.record(EventType.SESSION_START, {**self._what(self._asked)})
            self._log.info(
                "{login} (key id {key_id}) runs {command}", event="node.command",
                login=plain(self.avatar.login, 64),
                key_id=plain(self.avatar.admitted.identity.key_id, 128),
                command=plain(self._asked.command or b"a shell", 300),
            )
        self._program.start()
        if self._resized is not None and self._program is not None:
            self._program.resize(self._resized)
        early, self._early = self._early, []
        for data in early:
            self._receive(data)
        if self._early_eof:
            self.eofReceived()
        if self._output_unwanted and self._program is not None:
            self._program.close_output()

    # --- audit -----------------------------------------------------------------------------

    def _what(self, asked: Asked) -> dict[str, str | int]:
        """What is asked for, as the audit log names it: escaped and capped."""
        found: dict[str, str | int] = {"session": self.avatar.session_name(self.id), "kind": asked.kind}
        if asked.command is not None:
            found["command"] = plain(asked.command)
        if asked.is_forced:
            found["forced"] = "yes"
            found["original_command"] = plain(asked.original or b"")
        if asked.terminal is not None:
            found["terminal"] = plain(asked.terminal.name, 64)
        return found

    def _record_end(self, fields: Mapping[str, str | int]) -> None:
        """Tells the session's end, once."""
        started, self._started = self._started, None
        if started is None or self._asked is None:
            return
        counts = {"bytes_in": self.received, "bytes_out": self.sent}
        told = {**self._what(self._asked), **fields, **counts}
        self.avatar.record(EventType.SESSION_END, told, since=started)

    # --- input -----------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if self._last_words is not None:
            self.taken(len(data))
        elif self._program is None:
            # At most a window of it: no more is granted until a program takes it.
            if data:
                self._early.append(data)
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._program is not None:
            self._program.receive(data)
        self.taken(len(data))

    def wants_input(self) -> bool:
        return self._last_words is not None or (self._program is not None and self._program.takes_input)

    def eofReceived(self) -> None:
        if self._program is None:
            self._early_eof = True
        else:
            self._program.receive_eof()

    # --- output ----------------------------------------------------------------------------

    def _send(self, kind: int, data: bytes) -> None:
        if self._last_words is None and not self._output_unwanted:
            super()._send(kind, data)

    def pause_output(self, paused: bool) -> None:
        if self._program is not None and self._last_words is None:
            if paused:
                self._program.pause()
            else:
                self._program.resume()

    def drained(self) -> bool:
        if self._last_words is None:
            return False
        self._finish()
        return True

    # --- end -------------------------------------------------------------------------------

    def exit(self, status: int) -> None:
        """The program has ended; said after the last of its output (RFC 4254 §6.10)."""
        self._record_end({"exit_status": status})
        self._end(b"exit-status", wire.u32(status))

    def exit_signal(self, name: str, *, core_dumped: bool = False) -> None:
        """The program was ended by the signal *name* (``KILL``)."""
        self._record_end({"exit_signal": name})
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
        self._record_end({})
        if program is not None:
            program.hangup()


class Saying:
    """In place of a program: one line of text, and the status of a failure."""

    takes_input = True

    def __init__(self, session: NodeSession, error: bytes, *, out: bytes = b"", status: int = 1) -> None:
        self._session = session
        self._out, self._error, self._status = out, error, status

    def start(self) -> None:
        self._session.write(self._out)
        self._session.writeExtended(STDERR, self._error)
        self._session.exit(self._status)

    def receive(self, data: bytes) -> None: ...
    def receive_eof(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def signal(self, name: str) -> bool:
        return False

    def resize(self, size: Size) -> bool:
        return False

    def close_output(self) -> None: ...
    def hangup(self) -> None: ...
