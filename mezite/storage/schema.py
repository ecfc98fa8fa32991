"""The schema's version, and the way from an older one to this program's.

Migrations are the packaged files ``schema/NNNN_name.sql``, numbered from 1
without a gap.  A table, not SQLite's ``user_version``, says which have been
applied: PostgreSQL has no such number, and the rows also tell an operator by
which steps the database came to be what it is.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from msgspec import Struct

from mezite.errors import StorageFailure
from mezite.storage import sql

APPLICATION_ID = 0x4D657A74
"""``Mezt``, in the header of every SQLite file of ours (see file(1))."""
COPY_WAIT_S = 20.0
"""So long a copy waits for a database that is locked: less than ``mezctl`` waits for an answer."""


class Migration(Struct, frozen=True):
    version: int
    name: str
    script: str

    def statements(self) -> Iterator[str]:
        """The script's statements, one at a time: sqlite3's own executescript
        commits what is open, and would take the transaction away from here."""
        pending = ""
        for line in self.script.splitlines(keepends=True):
            pending += line
            if sqlite3.complete_statement(pending):
                yield pending
                pending = ""
        if any(line.strip() and not line.lstrip().startswith("--") for line in pending.splitlines()):
            raise ValueError(f"{self.name} ends inside a statement")


@cache
def packaged() -> tuple[Migration, ...]:
    """Every migration of this program, in order."""
    folder = resources.files("mezite.storage") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    found = tuple(
        Migration(int(name[:4]), name.removesuffix(".sql"), (folder / name).read_text("utf-8"))
        for name in names
    )
    if not found or [one.version for one in found] != list(range(1, len(found) + 1)):
        raise StorageFailure("this installation lacks schema files of mezite.storage; install it again")
    return found


def version(connection: sqlite3.Connection) -> int:
    """The version that *connection*'s database has; 0 for one without tables.

    Raises ``StorageFailure`` when the tables are another program's.
    """
    tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    if not tables:
        return 0
    (owner,) = connection.execute("pragma application_id").fetchone()
    if owner != APPLICATION_ID or "schema_migrations" not in tables:
        raise StorageFailure("is a database of another program; give Mezite a file of its own")
    return int(connection.execute(sql.SCHEMA_VERSION).fetchone()[0])


def upgrade(
    connection: sqlite3.Connection, path: Path | None, migrations: Sequence[Migration] | None = None
) -> int:
    """The database has the newest schema; returns the version that it had.

    Each migration is one transaction, begun by taking the write lock and
    reading the version again, so that any number of processes may do this at
    once.  Before the first change of a database that has data, a copy of it
    lies beside *path* (``None``: in memory, no copy).  *connection* is in
    autocommit mode, with no transaction open.

    Raises ``StorageFailure`` when the database is another program's or newer
    than this one (its text wants the file's name in front), and
    ``sqlite3.Error`` when a statement fails; that migration is then undone.
    """
    steps = packaged() if migrations is None else migrations
    before: int | None = None
    while True:
        current = version(connection)
        if current > len(steps):
            raise StorageFailure(
                f"has schema {current}, and this program knows schema {len(steps)} at most; run the newer "
                "program that wrote it, or restore the backup made before the upgrade"
            )
        if before is None:
            before = current
        if current == len(steps):
            return before
        # Outside of a transaction, or it has no effect; a migration may rebuild a table.
        connection.execute("pragma foreign_keys = off")
        try:
            connection.execute("begin immediate")
            if version(connection) == current:
                if current and path is not None and before == current:
                    _back_up(path, current)
                _apply(connection, steps[current])
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        finally:
            connection.execute("pragma foreign_keys = on")


def _apply(connection: sqlite3.Connection, step: Migration) -> None:
    for statement in step.statements():
        connection.execute(statement)
    if step.version == 1:
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
    broken = connection.execute("pragma foreign_key_check").fetchone()
    if broken is not None:
        raise StorageFailure(f"cannot be upgraded: {step.name} leaves table {broken[0]} with rows that "
                             "refer to nothing; nothing was changed, please report this")
    connection.execute(sql.NOTE_MIGRATION, (step.version, step.name))


def backup_path(path: Path, schema_version: int) -> Path:
    return path.with_name(f"{path.name}.schema-{schema_version}.backup")


def _back_up(path: Path, schema_version: int) -> None:
    """A whole copy of *path* is on disk, readable by its owner only.

    The caller holds the write lock on another connection: nothing is committed
    meanwhile, and this one reads what was.
    """
    final = backup_path(path, schema_version)
    partial = final.with_name(final.name + ".part")
    try:
        copy_whole(path, partial)
        partial.rename(final)
        sync(final.parent)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StorageFailure(
            f"must be upgraded, and the backup {final} that comes first fails: {error}; nothing was "
            "changed; make room or give write access there"
        ) from error


def copy_whole(path: Path, copy: Path, wait_s: float = COPY_WAIT_S) -> None:
    """*copy*, made anew and 0600, holds what is committed in the database *path* now, and is
    on the disk.  Raises ``OSError`` and ``sqlite3.Error``, the latter also where somebody
    keeps the database locked for *wait_s* seconds."""
    deadline = time.monotonic() + wait_s

    def step(status: int, remaining: int, total: int) -> None:
        # Python's backup would try again for ever.
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise sqlite3.OperationalError(f"another program keeps {path} locked")

    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    source = sqlite3.connect(path, timeout=0)
    target = sqlite3.connect(copy, isolation_level=None)
    try:
        # In one step, on one snapshot: in several, each commit meanwhile would begin it anew.
        source.backup(target, progress=step)
        # One file alone, with no log beside it.
        target.execute("pragma journal_mode = delete")
    finally:
        target.close()
        source.close()
    sync(copy)


def sync(path: Path) -> None:
    """The file or directory *path* is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
