"""Text, JSON or YAML, from the same answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

from mezite.cli import streams, terminal
from mezite.cli.failures import safe
from mezite.cli.terminal import BAD, GOOD, HEADING, SOON, Marked, held, paint, wrapped

Record = Mapping[str, Any]
Cell = Callable[[Record], object]
_Text = tuple[str, str | None]
"""Safe for a terminal, and its mark."""
_Row = Sequence[_Text]

_GAP = 2
_FOLD = "    "
"""Before the part of a record that does not fit beside the rest."""
_LEAST = 24
"""Columns that the last cell wants before it is wrapped beside the others."""
_DEEPEST = 4
"""Lines, about, that it is wrapped into there."""


class When(NamedTuple):
    """A time, as answers tell it, or none; a table may say how far off it is instead."""

    text: object


def utc(unix: int) -> str | None:
    """Seconds since the epoch as answers tell times; ``None`` for what no calendar holds."""
    try:
        return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return None


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


def write_prose(text: str, indent: str = "", mark: str | None = None, hanging: str = "") -> None:
    """One line, or on a terminal as many as it takes, each under the first one's beginning,
    or *hanging* further in."""
    width = terminal.columns()
    lines = wrapped(safe(text), width and width - len(indent) - len(hanging))
    for number, line in enumerate(lines):
        print(indent + (hanging if number else "") + paint(line, mark))


def hint(text: str) -> None:
    """For the person, beside the output that a program may read."""
    streams.say(safe(text))


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


def _cell(value: object) -> _Text:
    if isinstance(value, Marked):
        return safe(shown(value.value)), value.mark
    return safe(shown(value.text if isinstance(value, When) else value)), None


def table(
    columns: Mapping[str, Cell],
    records: Iterable[Record],
    indent: str = "",
    narrow: Callable[[Record], None] | None = None,
) -> None:
    """Aligned columns under their names; the last one is as wide as it is.

    On a terminal that is too narrow for a record on a line, times are told by
    how far off they are.  Where that does not help, each record is written by
    *narrow*, or goes on in one line below, indented, and so does the heading,
    or stands as a block of facts.  Nothing is cut off.
    """
    found = list(records)
    cells = [[cell(record) for cell in columns.values()] for record in found]
    heading: _Row = [(name, HEADING) for name in columns]
    rows = [heading, *([_cell(value) for value in values] for values in cells)]
    screen = terminal.columns()
    room = screen and screen - len(indent)
    lines = _folded(rows, room)
    if len(lines) > 1 and any(isinstance(value, When) for values in cells for value in values):
        now = datetime.now(UTC)
        shorter = [heading, *([_cell(_about(value, now)) for value in values] for values in cells)]
        fewer = _folded(shorter, room)
        if len(fewer) == 1:
            rows, lines = shorter, fewer
    if len(lines) > 1 and narrow is not None:
        for record in found:
            narrow(record)
    elif len(lines) > 2:
        _write_blocks(rows, indent)
    else:
        widths = _widths(rows)
        for row in rows:
            for number, places in enumerate(lines):
                part = slice(places.start, places.stop)
                _write_cells(row[part], widths[part], indent + (_FOLD if number else ""), screen)


def _about(value: object, now: datetime) -> object:
    """A time as how far off it is; anything else as it is."""
    if not isinstance(value, When) or not isinstance(value.text, str):
        return value
    try:
        seconds = (datetime.fromisoformat(value.text) - now).total_seconds()
    except ValueError:
        return value
    unit, size = next(((unit, size) for unit, size in _UNITS if abs(seconds) >= size), ("s", 1))
    amount = f"{int(abs(seconds) // size)}{unit}"
    return f"in {amount}" if seconds > 0 else f"{amount} ago"


_UNITS = (("d", 86400), ("h", 3600), ("m", 60))


def _widths(rows: Sequence[_Row]) -> list[int]:
    return [max(len(cell[0]) for cell in column) for column in zip(*rows, strict=True)]


def _folded(rows: Sequence[_Row], room: int | None) -> list[range]:
    """Which columns stand in a line together, where a line has *room*."""
    widths = _widths(rows)
    if room is None:
        return [range(len(widths))]
    word = max(len(word) for row in rows for word in [*held(row[-1][0]).split(" "), ""])
    # The last cell may be wrapped beside the others: in few lines, and between its words.
    least = min(widths[-1], max(_LEAST, word, widths[-1] // _DEEPEST + 1), room - len(_FOLD))
    lines: list[range] = []
    start, used = 0, 0
    for place, width in enumerate([*widths[:-1], least]):
        if place > start and used + width > room:
            lines.append(range(start, place))
            start, used = place, len(_FOLD)
        used += width + _GAP
    return [*lines, range(start, len(widths))]


def _write_blocks(rows: Sequence[_Row], indent: str) -> None:
    """Each record as facts, its columns' names before them."""
    heading, *records = rows
    names: list[_Text] = [(f"{name}:", mark) for name, mark in heading]
    width = max(len(name) for name, _ in names)
    screen = terminal.columns()
    for number, record in enumerate(records):
        if number:
            print()
        for name, cell in zip(names, record, strict=True):
            _write_cells([name, cell], [width, len(cell[0])], indent, screen)


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
    widths, screen = _widths(rows), terminal.columns()
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
        write_remedy(remedy, indent)


def write_remedy(text: str, indent: str = "    ") -> None:
    """What to do; a command in it is not broken, since it is there to be copied."""
    width = terminal.columns()
    first, *rest = wrapped(safe(text), width and width - len(indent) - 3)
    print(f"{indent}-> {first}")
    for line in rest:
        print(f"{indent}   {line}")
