"""Text, JSON or YAML, from the same answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from mezite.cli import terminal
from mezite.cli.failures import safe
from mezite.cli.terminal import BAD, GOOD, HEADING, SOON, Marked, paint, wrapped

Record = Mapping[str, Any]
Cell = Callable[[Record], object]
_Row = Sequence[tuple[str, str | None]]
"""Texts, safe for a terminal, and their marks."""

_GAP = 2
_FOLD = "    "
"""Before the part of a record that does not fit beside the rest."""
_LEAST = 24
"""Columns that the last cell wants before it is wrapped beside the others."""


def write(answer: object, format: str) -> None:
    """*answer* in a format for programs, ``json`` or ``yaml``: the same object in both."""
    if format == "yaml":
        write_yaml(answer)
    else:
        write_json(answer)


def write_json(answer: object) -> None:
    """ASCII only, so that it is right in every locale and tells a terminal nothing."""
    print(json.dumps(answer, indent=2))


def write_yaml(answer: object, *, is_one_of_many: bool = False) -> None:
    """ASCII only, too; *is_one_of_many*: a document of a stream."""
    import yaml  # takes as long to import as all the rest

    text = yaml.safe_dump(
        answer, sort_keys=False, default_flow_style=False, width=2**20, explicit_start=is_one_of_many
    )
    sys.stdout.write(text)


def write_line(text: str = "", mark: str | None = None) -> None:
    print(paint(safe(text), mark))


def write_prose(text: str, indent: str = "", mark: str | None = None) -> None:
    """One line, or on a terminal as many as it takes, each under the first one's beginning."""
    width = terminal.columns()
    for line in wrapped(safe(text), width and width - len(indent)):
        print(indent + paint(line, mark))


def hint(text: str) -> None:
    """For the person, beside the output that a program may read."""
    print(safe(text), file=sys.stderr)


def shown(value: object) -> str:
    """A value as a table shows it; ``-`` where there is none."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def _cell(value: object) -> tuple[str, str | None]:
    if isinstance(value, Marked):
        return safe(shown(value.value)), value.mark
    return safe(shown(value)), None


def table(columns: Mapping[str, Cell], records: Iterable[Record], indent: str = "") -> None:
    """Aligned columns under their names; the last one is as wide as it is.

    On a terminal that is too narrow a record goes on in a line below, indented,
    and so does the heading: nothing is cut off.
    """
    rows: list[_Row] = [[(name, HEADING) for name in columns]]
    rows += [[_cell(cell(record)) for cell in columns.values()] for record in records]
    widths = [max(len(cell[0]) for cell in column) for column in zip(*rows, strict=True)]
    screen = terminal.columns()
    lines = [range(len(widths))] if screen is None else _folded(widths, screen - len(indent))
    for row in rows:
        for number, places in enumerate(lines):
            before = indent + (_FOLD if number else "")
            part = slice(places.start, places.stop)
            _write_cells(row[part], widths[part], before, screen)


def _folded(widths: Sequence[int], room: int) -> list[range]:
    """Which columns stand in a line together."""
    lines: list[range] = []
    start, used = 0, 0
    for place, width in enumerate(widths):
        is_last = place == len(widths) - 1
        wanted = min(width, _LEAST) if is_last else width
        if place > start and used + wanted > room:
            lines.append(range(start, place))
            start, used = place, len(_FOLD)
        used += width + _GAP
    return [*lines, range(start, len(widths))]


def _write_cells(cells: _Row, widths: Sequence[int], indent: str, screen: int | None) -> None:
    """One line, or where the last cell needs more room than *screen* has, several."""
    texts, at = [], len(indent)
    for (text, _), width in zip(cells, widths, strict=True):
        texts.append(wrapped(text, screen and screen - at))
        at += width + _GAP
    for parts in zip_longest(*texts, fillvalue=""):
        line, pending = indent, ""
        for part, (_, mark), width in zip(parts, cells, widths, strict=True):
            if part:
                line += pending + paint(part, mark)
                pending = ""
            pending += " " * (width - len(part) + _GAP)
        print(line)


def details(facts: Mapping[str, object], indent: str = "") -> None:
    """One fact a line, values aligned."""
    rows: list[_Row] = [[(f"{name}:", None), _cell(value)] for name, value in facts.items()]
    widths = [max(len(cell[0]) for cell in column) for column in zip(*rows, strict=True)]
    screen = terminal.columns()
    for row in rows:
        _write_cells(row, widths, indent, screen)


_LEVELS = {"PROBLEM": BAD, "note": SOON, "ok": GOOD}


def write_finding(level: str, about: str, text: str, remedy: str = "") -> None:
    """Something that was looked at, how it is, and below that what to do."""
    indent = f"{'':8} {' ' * len(about)}  "
    screen = terminal.columns()
    room = screen and screen - len(indent)
    first, *rest = wrapped(safe(text), room)
    print(f"{paint(f'{level:8}', _LEVELS.get(level))} {safe(about)}  {first}")
    for line in rest:
        print(indent + line)
    if remedy:
        # On one line, however long: it is there to be copied.
        print(f"{indent}-> {safe(remedy)}")
