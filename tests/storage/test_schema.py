"""Migrations: in order, each whole or not at all, after a backup."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.errors import StorageFailure
from mezite.storage import schema, sql
from mezite.storage.schema import Migration, backup_path, packaged, upgrade, version
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import make_bot, read, write

BASE = packaged()
NEXT = len(BASE) + 1
ADDS = Migration(
    NEXT,
    f"{NEXT:04}_adds",
    "-- A comment; with a semicolon.\ncreate table extra (\n  note text not null -- why;\n);\n"
    "insert into extra values ('one; two');\nalter table bots add column extra text;\n-- The end.\n",
)
ADDS_MORE = Migration(NEXT + 1, f"{NEXT + 1:04}_more", "insert into extra values ('three');")
BREAKS = Migration(
    NEXT + 1, f"{NEXT + 1:04}_breaks", "insert into extra values ('x');\ninsert into absent values (1);"
)
ORPHANS = Migration(NEXT, f"{NEXT:04}_orphans", "insert into bot_roles values ('nobody', 0, 'x');")


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of this program's version, with a bot in it."""
    path = tmp_path / "mezite.db"
    storage = SqliteStorage(path)
    write(storage, lambda tx: tx.add_bot(make_bot()))
    storage.close()
    return path


@pytest.fixture
def connection(database: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(database)
    yield connection
    connection.close()


def test_every_migration_is_noted(connection: sqlite3.Connection) -> None:
    """The table tells by which steps the database came to be."""
    found = connection.execute("select version, name from schema_migrations order by version").fetchall()
    assert found == [(one.version, one.name) for one in BASE]
    assert version(connection) == len(BASE)


def test_a_new_database_needs_no_backup(database: Path) -> None:
    assert [entry.name for entry in database.parent.iterdir()] == ["mezite.db"]


def test_an_older_database_is_upgraded_after_a_backup(database: Path, connection: sqlite3.Connection) -> None:
    """The copy has the old version and the data, is whole, and its owner's alone."""
    assert upgrade(connection, database, [*BASE, ADDS, ADDS_MORE]) == len(BASE)
    assert version(connection) == NEXT + 1
    assert connection.execute("select note from extra").fetchall() == [("one; two",), ("three",)]
    backup = backup_path(database, len(BASE))
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    copy = connect(backup)
    assert version(copy) == len(BASE)
    assert copy.execute("select name from bots").fetchall() == [("ci",)]
    assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
    copy.close()
    assert [entry.name for entry in database.parent.iterdir() if "backup" in entry.name] == [backup.name]


def test_a_backup_can_be_restored(database: Path, connection: sqlite3.Connection) -> None:
    """Moved into the file's place, the copy serves the older program."""
    upgrade(connection, database, [*BASE, ADDS])
    connection.close()
    backup_path(database, len(BASE)).rename(database)
    storage = SqliteStorage(database)
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()
    storage.close()


def test_nothing_to_do_is_done_without_a_backup(database: Path, connection: sqlite3.Connection) -> None:
    assert upgrade(connection, database, BASE) == len(BASE)
    assert not backup_path(database, len(BASE)).exists()


def test_a_migration_that_fails_is_undone_whole(database: Path, connection: sqlite3.Connection) -> None:
    """Those before it stay; once mended, it goes on from there."""
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        upgrade(connection, database, [*BASE, ADDS, BREAKS])
    assert not connection.in_transaction
    assert version(connection) == NEXT
    assert connection.execute("select note from extra").fetchall() == [("one; two",)]
    assert connection.execute("pragma foreign_keys").fetchone() == (1,)
    upgrade(connection, database, [*BASE, ADDS, ADDS_MORE])
    assert version(connection) == NEXT + 1


def test_a_migration_that_leaves_orphans_is_undone(database: Path, connection: sqlite3.Connection) -> None:
    """References are off while tables are rebuilt, and checked before the commit."""
    with pytest.raises(StorageFailure, match="refer to nothing"):
        upgrade(connection, database, [*BASE, ORPHANS])
    assert version(connection) == len(BASE)


def test_no_backup_no_upgrade(database: Path, connection: sqlite3.Connection) -> None:
    """Where the copy cannot be made, nothing is changed, and the error says so."""
    backup_path(database, len(BASE)).mkdir()
    with pytest.raises(StorageFailure, match="nothing was changed"):
        upgrade(connection, database, [*BASE, ADDS])
    assert version(connection) == len(BASE)
    assert not connection.in_transaction
    assert not any(entry.name.endswith(".part") for entry in database.parent.iterdir())


def test_a_database_from_the_future_is_refused(database: Path, connection: sqlite3.Connection) -> None:
    upgrade(connection, database, [*BASE, ADDS])
    with pytest.raises(StorageFailure, match="newer"):
        upgrade(connection, database, BASE)


def test_many_upgrade_at_once_and_each_step_is_made_once(database: Path) -> None:
    """Every one of them finds the newest schema in the end."""
    start = threading.Barrier(8)
    found: list[int] = []

    def run() -> None:
        connection = connect(database)
        start.wait(30)
        upgrade(connection, database, [*BASE, ADDS, ADDS_MORE])
        found.append(connection.execute("select count(*) from extra").fetchone()[0])
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [2] * 8


def test_a_script_is_split_where_its_statements_end() -> None:
    """Semicolons in texts, comments and triggers end nothing."""
    script = (
        "-- One; two.\ncreate table a (b text default ';');\n\n"
        "create trigger t after insert on a begin\n  delete from a;\n  delete from a;\nend;\n-- End.\n"
    )
    statements = list(Migration(1, "x", script).statements())
    assert len(statements) == 2
    assert statements[1].strip().endswith("end;")
    with pytest.raises(ValueError, match="ends inside a statement"):
        list(Migration(1, "x", "select 1;\nselect 2").statements())


# --- statements -----------------------------------------------------------------------------

STATEMENTS = {
    name: text
    for name, text in vars(sql).items()
    if name.isupper() and isinstance(text, str) and not name.startswith("_")
} | {"roles": sql.roles(3), "locks_on": sql.locks_on(7)}
WHOLE_TABLES = {"AUTHORITIES", "ALL_LOCKS", "COUNTS", "STALE_INSTANCES", "PRUNE_EVENTS"}
"""Statements that want every row, or walk some from one end; what looks for stale
instances reads a snapshot, where nobody waits for it."""


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_statement_finds_its_rows_by_an_index(connection: sqlite3.Connection, name: str) -> None:
    """No statement reads a whole table, but those that are meant to."""
    text = STATEMENTS[name]
    plan = connection.execute(f"explain query plan {text}", (None,) * text.count("?")).fetchall()
    scans = [row[3] for row in plan if row[3].startswith("SCAN") and row[3] != "SCAN b"]
    if name not in WHOLE_TABLES:
        assert scans == []


@pytest.mark.parametrize(
    "name", [name for name in STATEMENTS if name.startswith("LIST_") and name != "LIST_BOTS"]
)
def test_no_page_sorts(connection: sqlite3.Connection, name: str) -> None:
    """A page comes off the index in order, however long the list."""
    text = STATEMENTS[name]
    plan = connection.execute(f"explain query plan {text}", (None,) * text.count("?")).fetchall()
    assert not any("TEMP B-TREE" in row[3] for row in plan)


def test_a_step_changes_no_index(connection: sqlite3.Connection) -> None:
    """The hot path writes one row and no index entry beside it."""
    indexed = {
        row[2]
        for (index,) in connection.execute(
            "select name from sqlite_master where type = 'index' and tbl_name = 'instances'"
        ).fetchall()
        for row in connection.execute(f"pragma index_xinfo('{index}')")
        if row[5]
    }
    assert indexed == {"id", "bot_id", "removed_at_us"}


def test_files_of_ours_carry_their_mark(connection: sqlite3.Connection) -> None:
    assert connection.execute("pragma application_id").fetchone() == (schema.APPLICATION_ID,)
