"""The few commands of a node that runs no real ones: to test identities with."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mezite.core.audit import plain
from mezite.ssh.policy import Admitted
from mezite.ssh.session import STDERR, Asked, NodeSession, Program

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

NAMES = ("whoami", "certificate", "echo", "true", "false")
_KNOWN = "this node runs these commands only: " + ", ".join(NAMES)
NOT_FOUND = 127
"""What shells say of an unknown command (POSIX, 2.8.2)."""


def describe(admitted: Admitted, address: str | None, asked: Asked) -> dict[str, Any]:
    """What was validated of the certificate, as ``certificate`` prints it."""
    identity = admitted.identity
    return {
        "login": admitted.login,
        "bot": identity.bot,
        "instance": identity.instance,
        "generation": identity.generation,
        "roles": list(identity.roles),
        "principals": list(identity.principals),
        "key_id": identity.key_id,
        "serial": identity.serial,
        "valid_after": _time(identity.valid_after),
        "valid_before": _time(identity.valid_before),
        "ca_fingerprint": identity.ca_fingerprint,
        "subject_fingerprint": identity.subject_fingerprint,
        "lineage_key": identity.lineage_key,
        "permissions": sorted(identity.permissions),
        "force_command": identity.force_command,
        "original_command": None if asked.original is None else plain(asked.original, 4096),
        "source_address": list(identity.source_address),
        "client_address": address,
    }


def _time(seconds: int) -> str:
    """ISO 8601 in UTC; ``forever`` for what lies past the calendar."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "forever"


def answer(words: list[str], user: NodeUser, asked: Asked) -> tuple[bytes, bytes, int]:
    """Standard output, standard error and status of a command that needs no input."""
    name, arguments = words[0], words[1:]
    if name == "echo":
        return (" ".join(arguments) + "\n").encode("utf-8", "surrogateescape"), b"", 0
    if arguments or name not in NAMES:
        why = f"{plain(name, 64)} takes no arguments" if name in NAMES else f"unknown command; {_KNOWN}"
        return b"", f"{why}\n".encode(), NOT_FOUND if name not in NAMES else 2
    if name == "whoami":
        return f"{plain(user.login)}\n".encode(), b"", 0
    if name == "certificate":
        text = json.dumps(describe(user.admitted, user.address, asked))
        return text.encode() + b"\n", b"", 0
    return b"", b"", 0 if name == "true" else 1


class Answer:
    """A command that is done as soon as it begins; its input goes nowhere."""

    takes_input = True

    def __init__(self, session: NodeSession, out: bytes, error: bytes, status: int) -> None:
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
    def signal(self, name: str) -> None: ...
    def hangup(self) -> None: ...


class Echo:
    """Sends its input back until it ends."""

    def __init__(self, session: NodeSession) -> None:
        self._session = session

    @property
    def takes_input(self) -> bool:
        return not self._session.blocked

    def start(self) -> None: ...

    def receive(self, data: bytes) -> None:
        self._session.write(data)

    def receive_eof(self) -> None:
        self._session.exit(0)

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def signal(self, name: str) -> None:
        if name in ("HUP", "INT", "TERM", "KILL"):
            self._session.exit_signal(name)

    def hangup(self) -> None: ...


class BuiltinPrograms:
    """Programs for ``exec: builtin``."""

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program:
        if asked.command is None:
            return Answer(session, b"", f"No shell here; {_KNOWN}\n".encode(), 0)
        try:
            words = shlex.split(asked.command.decode("utf-8", "surrogateescape"))
        except ValueError:
            words = []
        if not words:
            return Answer(session, b"", f"not a command; {_KNOWN}\n".encode(), NOT_FOUND)
        if words == ["echo"]:
            return Echo(session)
        return Answer(session, *answer(words, user, asked))
