"""What the terminal takes: its width, and colours where they mean something.

Neither is looked for when standard output is a pipe or a file: a program that
reads it gets every record on one line, without any code.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TextIO

import click

BAD, SOON, GOOD, HEADING = "bad", "soon", "good", "heading"
"""What a mark says: refused, locked, over; about to be; as it should be."""

_STYLES: Mapping[str, dict[str, Any]] = {
    BAD: {"fg": "red"},
    SOON: {"fg": "yellow"},
    GOOD: {"fg": "green"},
    HEADING: {"bold": True},
}


class Marked(NamedTuple):
    """A value and what it means; ``None``: nothing in particular."""

    value: object
    mark: str | None


def columns() -> int | None:
    """The width of the terminal that standard output is; ``None``: it is none, or does not say."""
    try:
        return (os.get_terminal_size(sys.stdout.fileno()).columns or None) if sys.stdout.isatty() else None
    except (OSError, ValueError):
        return None


def is_coloured(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether *stream* is a terminal with colours, for a person who wants them (no-color.org)."""
    return (
        not environ.get("NO_COLOR")
        and environ.get("TERM", "dumb") != "dumb"
        and stream.isatty()
    )


def paint(text: str, mark: str | None, stream: TextIO | None = None) -> str:
    """*text* as its mark looks on *stream*, by default standard output."""
    if mark is None or not text or not is_coloured(stream or sys.stdout):
        return text
    return click.style(text, **_STYLES[mark])


HELD = "\xa0"
"""A space at which no line is broken: `textwrap` breaks at those of ASCII only."""
_COMMAND = re.compile(
    r"(?:(?<=: )|(?<=`)|^)(?:mezctl|mezd|msh|twistd|chmod|journalctl) [^`;,()]*[^`;,() ]"
)


def held(text: str) -> str:
    """*text* in which each command is one word: it is there to be copied.

    A command stands after a colon, between backquotes, or at the beginning.
    """
    return _COMMAND.sub(lambda found: found[0].replace(" ", HELD), text)


def wrapped(text: str, room: int | None) -> list[str]:
    """*text*, safe for a terminal, in lines of at most *room* columns, broken between words only,
    and not within a command: what is copied stays whole, however long."""
    if room is None or len(text) <= room:
        return [text]
    from textwrap import wrap

    lines = wrap(held(text), max(room, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace(HELD, " ") for line in lines] or [""]
