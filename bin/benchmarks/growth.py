"""What renewals add to a SQLite database, and what is written for them."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import Row, Table
from benchmarks.storage import CONCURRENT, FEW, Database

_AUDIT = ("events", "events_by_type", "events_by_resource")


def measure(quick: bool) -> list[Table]:
    rounds, seconds = (1, 0.4) if quick else (5, 2.0)
    with tempfile.TemporaryDirectory(prefix="mezite-bench.") as name:
        path = Path(name) / "growth.db"
        database = Database(path, FEW, sqlite3.Connection)
        try:
            # Not counted: the first renewal of a row fills columns that its join left empty.
            database.rate(database.renewal, seconds)
            found = [_round(database, path, seconds) for _ in range(rounds)]
        finally:
            database.close()
    renewals = sum(database.generations) - FEW
    return [Table(
        f"SQLite, what a renewal adds, {CONCURRENT} at any time; {FEW:,} instances", "bytes",
        [Row(what, [one[what] for one in found]) for what in found[0]],
        [f"{renewals:,} renewals; the file's size is that after a checkpoint",
         "written: to the log, and from there to the file, as commits and checkpoints share pages"],
    )]


def _round(database: Database, path: Path, seconds: float) -> dict[str, float]:
    before, parts, written = _size(path), _parts(path), _written()
    count = sum(database.generations)
    database.rate(database.renewal, seconds)
    count = sum(database.generations) - count
    written = _written() - written
    size, now = _size(path), _parts(path)
    per_renewal = {"the file grows by": (size - before) / count}
    if parts:
        audit = sum(now[name] - parts[name] for name in _AUDIT)
        per_renewal["of it the audit log and its indexes"] = audit / count
        per_renewal["of it the row of the instance"] = (now["instances"] - parts["instances"]) / count
    return {**per_renewal, "written to the disk": written / count}


def _size(path: Path) -> int:
    """Of the file, everything in it."""
    with sqlite3.connect(path) as connection:
        busy, _, _ = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
    connection.close()
    if busy:
        raise RuntimeError("the database could not be checkpointed")
    return path.stat().st_size


def _parts(path: Path) -> Mapping[str, int]:
    """Table or index → bytes of its pages; empty where this SQLite has no dbstat."""
    connection = sqlite3.connect(path)
    try:
        return Counter(dict(connection.execute("select name, sum(pgsize) from dbstat group by name")))
    except sqlite3.OperationalError:
        return {}
    finally:
        connection.close()


def _written() -> int:
    """Bytes that this process has had written to files so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise RuntimeError("the kernel does not tell what a process writes")
