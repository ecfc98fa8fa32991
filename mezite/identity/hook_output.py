"""What a hook's command writes, as events of the log: each line one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from types import TracebackType

from twisted.logger import Logger

LONGEST = 4096
"""A line that is longer is told in parts."""


class HookOutput:
    """A pipe of which *loop* reads; what is in it at the end is told, and then it is closed.

    Within ``with`` the :attr:`descriptor` is for the command's standard output and error.
    """

    _log = Logger()

    def __init__(self, loop: asyncio.AbstractEventLoop, output: str) -> None:
        self._loop = loop
        self._output = output
        self._rest = b""

    def __enter__(self) -> HookOutput:
        self._reading, self.descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading, False)
        self._loop.add_reader(self._reading, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        # No more than is there now: what the command has left running may write for ever.
        (left,) = struct.unpack("i", fcntl.ioctl(self._reading, termios.FIONREAD, bytes(4)))
        while left > 0 and (told := self._read(left)):
            left -= told
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        self._tell(self._rest)

    def _read(self, most: int = 65536) -> int:
        """So many bytes were there, and are told."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._reading, most)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        while len(self._rest) >= LONGEST:
            self._tell(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]
        return len(data)

    def _tell(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip()
        for start in range(0, len(text), LONGEST):
            self._log.info(
                "on_renew of output {output} says: {text}",
                event="hook.output", output=self._output, text=text[start : start + LONGEST],
            )
