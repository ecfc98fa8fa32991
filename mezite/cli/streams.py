"""Standard input, output and error, whatever whoever started the program has made of them."""

from __future__ import annotations

import contextlib
import os
import sys
from io import TextIOWrapper
from typing import TextIO


def open_all() -> None:
    """All three are there, and whatever we write there can be written.

    One that was closed (``<&-``) is ``/dev/null``: else the next file that we open would get its
    number, and a command that we run would write into it.  What standard output's encoding
    does not know is escaped, as it is on standard error.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, TextIOWrapper) and (
        # The second is Python's own choice for the C locale, where most letters have no bytes to escape from.
        out.errors == "strict" or (out.errors == "surrogateescape" and not _is_utf8(out))
    ):
        out.reconfigure(errors="backslashreplace")


def _is_utf8(stream: TextIOWrapper) -> bool:
    return stream.encoding.lower().replace("-", "") == "utf8"


def give_up(stream: TextIO) -> None:
    """Nothing can be written to *stream*: what is kept for it is forgotten, and the exit code stands."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, stream.fileno())
        os.close(null)


def say(line: str) -> None:
    """*line* is on standard error, if that can be."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)
