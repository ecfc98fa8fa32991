"""Figures, what they are compared with, and how a process's cost is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK")
AT_MOST, AT_LEAST = "≤", "≥"


@dataclass(frozen=True, slots=True)
class Limit:
    """What design.md asks for: of the ratio, or of the figure where nothing is compared."""

    sense: str
    value: float

    def holds(self, found: float) -> bool:
        return found <= self.value if self.sense == AT_MOST else found >= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:,g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing: a figure for each round, and those of what it is compared with.

    The ratio is taken within each round, because a machine is slow or fast for
    both; its median is what the limit is for.
    """

    what: str
    figures: Sequence[float]
    against: str = ""
    base: Sequence[float] = ()
    limit: Limit | None = None

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.figures, self.base, strict=True)] if self.base else []

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if self.limit.holds(median(self.ratios or self.figures)):
            return "ok"
        return "over" if self.limit.sense == AT_MOST else "under"

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "median": median(self.figures),
            "rounds": list(self.figures),
            "against": self.against or None,
            "against_median": median(self.base) if self.base else None,
            "against_rounds": list(self.base),
            "ratio": median(self.ratios) if self.ratios else None,
            "ratios": self.ratios,
            "limit": str(self.limit) if self.limit else None,
            "verdict": self.verdict or None,
        }


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    unit: str
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """CPU time that process *pid* has used so far, in all its threads; *with_children*:
    and its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_children else 13])) / _TICK


def resident_mb(pid: int) -> float:
    """Resident memory of process *pid*, in MB of 10**6 bytes."""
    return _memory_mb(pid, "VmRSS:")


def peak_mb(pid: int) -> float:
    """The most that it ever was."""
    return _memory_mb(pid, "VmHWM:")


def _memory_mb(pid: int, what: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no resident memory: it has ended")


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
