"""Tables as text, for people and for docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Row, Table

_HEAD = ("", "figure", "(min–max)", "against", "(min–max)", "ratio", "(min–max)", "limit", "")


def write_table(table: Table) -> None:
    print(f"\n{table.title}; {table.unit}\n")
    lines = [_HEAD, *map(_cells, table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    for line in lines:
        first, *others = (cell.ljust(width) if not column else cell.rjust(width)
                          for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        print("  ".join([first, *others]).rstrip())
    against = {row.against for row in table.rows if row.against}
    for one in sorted(against):
        print(f"  against: {one}")
    for note in table.notes:
        print(f"  {note}")


def _cells(row: Row) -> tuple[str, ...]:
    ratios = row.ratios
    return (
        row.what,
        _number(median(row.figures)),
        _spread(row.figures),
        _number(median(row.base)) if row.base else "",
        _spread(row.base),
        f"{median(ratios):.2f}" if ratios else "",
        f"({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "",
        str(row.limit or ""),
        row.verdict,
    )


def _spread(values: Sequence[float]) -> str:
    return f"({_number(min(values))}–{_number(max(values))})" if len(values) > 1 else ""


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_missed(tables: Iterable[Table]) -> None:
    limited = [row for table in tables for row in table.rows if row.limit is not None]
    missed = [row for row in limited if row.verdict in ("over", "under")]
    print(f"\n{'Limits that do not hold:' if missed else f'All {len(limited)} limits looked at hold.'}")
    for row in missed:
        print(f"  {row.what}: {_number(median(row.ratios or row.figures))}, {row.verdict} {row.limit}")


def machine() -> dict[str, Any]:
    """On what this was measured."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    packages = ("Twisted", "grpcio", "cryptography", "mezite")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name.lower(): version(name) for name in packages},
    }
