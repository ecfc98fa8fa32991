"""The few commands of a node that runs no real ones: to test identities with."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mezite.core.audit import plain
from mezite.ssh.policy import Admitted
from mezite.ssh.session import Asked, NodeSession, Program, Refusal, Saying
from mezite.ssh.terminal import Size

if TYPE_CHECKING:
    from mezite.ssh.avatar import NodeUser

NAMES = ("whoami", "certificate", "echo", "true", "false")
_KNOWN = "this node runs these commands only: " + ", ".join(NAMES)
MAX_LINE = 16 * 1024
"""Bytes of a command: to take one apart takes time, of which the whole server has one."""
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

    def signal(self, name: str) -> bool:
        if name not in ("HUP", "INT", "TERM", "KILL"):
            return False
        self._session.exit_signal(name)
        return True

    def resize(self, size: Size) -> bool:
        return False

    def close_output(self) -> None:
        self._session.exit_signal("PIPE")

    def hangup(self) -> None: ...


class BuiltinPrograms:
    """Programs for ``exec: builtin``."""

    has_terminals = False

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program | Refusal:
        if asked.is_subsystem:
            return Refusal("no_subsystem", "this node has no subsystems")
        if asked.command is None:
            return Saying(session, f"No shell here; {_KNOWN}\n".encode(), status=0)
        if len(asked.command) > MAX_LINE:
            return Saying(session, f"no command here is longer than {MAX_LINE} bytes\n".encode(), status=2)
        try:
            words = shlex.split(asked.command.decode("utf-8", "surrogateescape"))
        except ValueError:
            words = []
        if not words:
            return Saying(session, f"not a command; {_KNOWN}\n".encode(), status=NOT_FOUND)
        if words == ["echo"]:
            return Echo(session)
        out, error, status = answer(words, user, asked)
        return Saying(session, error, out=out, status=status)
