"""A terminal of any width as standard output: a real one, which the kernel gives (pty(7))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios
import tty
from collections.abc import Iterator
from unittest import mock


class Shown:
    """What a terminal was given."""

    text = ""


@contextlib.contextmanager
def on_terminal(width: int | None, **environ: str) -> Iterator[Shown]:
    """Standard output is a terminal *width* columns wide, or with ``None`` a pipe; the
    environment says what *environ* says of colours, and nothing else does."""
    reader, writer = pty.openpty() if width is not None else os.pipe()
    shown = Shown()
    collected = bytearray()
    kept = {key: value for key, value in os.environ.items() if key not in ("TERM", "NO_COLOR")}
    try:
        if width is not None:
            tty.setraw(writer)
            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        os.set_blocking(reader, False)
        with os.fdopen(writer, "w", encoding="utf-8") as stream:
            with contextlib.redirect_stdout(stream), mock.patch.dict(os.environ, kept | environ, clear=True):
                yield shown
            stream.flush()
            with contextlib.suppress(BlockingIOError, OSError):
                while chunk := os.read(reader, 65536):
                    collected += chunk
    finally:
        os.close(reader)
        sys.stdout.flush()
    shown.text = collected.decode()
