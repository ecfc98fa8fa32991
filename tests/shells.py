"""A person at a shell's prompt: a real shell in a terminal of its own (pty(7))."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

WITHIN_SECONDS = 12.0
_CODES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-B0-2]|[=>78])|\x07")


class Shell:
    """Types and reads; ends the shell when it is left."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self._process = subprocess.Popen(
            list(argv), env=dict(env), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._seen = b""

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._terminal)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def run(self, command: str) -> None:
        """The command has been carried out."""
        self.type(command + "\r")
        self.type("echo RE''ADY\r")
        self.see("READY\r\n")

    def see(self, text: str) -> str:
        """What was shown up to the first *text* that was not seen yet; waits for it."""
        deadline = time.monotonic() + WITHIN_SECONDS
        while text not in (shown := self._shown()):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
                raise AssertionError(f"{text!r} was not shown; but {shown!r}")
            self._seen += os.read(self._terminal, 65536)
        self._seen = b""
        return shown

    def _shown(self) -> str:
        return _CODES.sub("", self._seen.decode(errors="replace"))
