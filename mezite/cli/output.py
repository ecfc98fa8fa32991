"""Text or JSON, from the same answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mezite.cli.failures import safe

Record = Mapping[str, Any]
Cell = Callable[[Record], object]


def write_json(answer: object) -> None:
    """ASCII only, so that it is right in every locale and tells a terminal nothing."""
    print(json.dumps(answer, indent=2))


def write_line(text: str = "") -> None:
    print(safe(text))


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


def table(columns: Mapping[str, Cell], records: Iterable[Record], indent: str = "") -> None:
    """Aligned columns under their names; the last one is as wide as it is."""
    rows = [[safe(shown(cell(record))) for cell in columns.values()] for record in records]
    write_rows([list(columns), *rows], indent)


def write_rows(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(indent + "  ".join(cells).rstrip())


def details(facts: Mapping[str, object], indent: str = "") -> None:
    """One fact a line, values aligned."""
    write_rows([[f"{name}:", safe(shown(value))] for name, value in facts.items()], indent)
