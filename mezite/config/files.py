"""Small files that a configuration names: read whole, never more than they may hold."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

PIPE_WAIT_S = 60.0
"""So long a pipe may be silent, as one of the shell's ``<(…)`` whose program asks a person."""


def read_small(path: Path, most: int, pipe_wait_s: float = PIPE_WAIT_S) -> bytes:
    """What is in the file *path*, or comes out of that pipe.

    Raises ``OSError``, also where it is more than *most* bytes, and where a pipe
    is silent for *pipe_wait_s*: without a writer it would be for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    found = b""
    with open(descriptor, "rb", buffering=0) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        os.set_blocking(descriptor, not is_pipe)
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while len(found) <= most:
            if is_pipe and not waiting.poll(pipe_wait_s * 1000):
                why = f"nothing came out of that pipe in {pipe_wait_s:g} s"
                raise OSError(errno.ETIMEDOUT, why, str(path))
            some = file.read(most + 1 - len(found))
            if some == b"":
                return found
            found += some or b""
    raise OSError(errno.EFBIG, f"it holds more than {most} bytes", str(path))
