"""Which commands are the far end of a file copy: sftp, scp and rsync.

A rule for what clients ask for, not a wall: whoever may run commands can move
files by others (``cat``, ``tar``).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server",
                "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server")
"""Where Debian, Fedora, Arch and the BSDs keep OpenSSH's."""
INTERNAL = "internal-sftp"
"""What a ``force-command`` says to mean the sftp subsystem (sshd_config)."""

MAX_JUDGED = 16 * 1024
"""Bytes of a command that are looked at: more than the far end of a copy is called with,
and reading them takes time."""


def split(command: bytes) -> list[str]:
    """The words of *command*, as far as a shell's quoting can be followed."""
    text = command.decode("utf-8", "surrogateescape")
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def copy_program(command: bytes) -> str | None:
    """``scp``, ``rsync`` or ``sftp`` where *command* is the far end of one, also behind
    ``sudo``, ``env`` and the like; else ``None``."""
    words = split(command[:MAX_JUDGED])
    last = {word: index for index, word in enumerate(words)}
    for index, word in enumerate(words):
        name = word.rpartition("/")[2]
        if name in ("sftp-server", INTERNAL):
            return "sftp"
        if name == "rsync" and last.get("--server", 0) > index:
            return "rsync"
        if name == "scp" and _is_far_end(words, index + 1):
            return "scp"
    return None


def _is_far_end(words: Sequence[str], at: int) -> bool:
    """Whether scp's options, which begin *at* there, say "to" or "from": what the client's scp adds."""
    for index in range(at, len(words)):
        word = words[index]
        if not word.startswith("-") or word == "--":
            return False
        if "t" in word or "f" in word:
            return True
    return False
