"""A whole database of SQLite's moved into an empty one of PostgreSQL's."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql as names

from mezite.errors import Conflict, StorageFailure
from mezite.storage import postgres_schema
from mezite.storage.postgres_link import Server
from mezite.storage.sqlite_file import DatabaseFile, failure

ROWS_AT_ONCE = 2000
_REPLACED = ("counters",)
"""Tables that a new database has rows in, which the old ones take the place of."""
_OWN = ("schema_migrations",)
"""Each database's own account of how it came to be."""
_SUMS = 1 << 64
_CLUSTER = "select value from cluster_values where key = 'cluster_uuid'"


class _Tally:
    """How many rows, and a sum over them that their order does not change."""

    def __init__(self) -> None:
        self.rows = 0
        self.sum = 0

    def take(self, row: Sequence[Any]) -> None:
        digest = hashlib.blake2b(repr(tuple(row)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self.rows += 1
        self.sum = (self.sum + int.from_bytes(digest, "big")) % _SUMS


def move(path: Path, params: Mapping[str, str]) -> dict[str, int]:
    """Every table's number of rows, each row of which is in the database that *params* name.

    *path* is an existing file, and the caller keeps servers off it; servers of the
    target wait until this has ended.  All of it is one transaction: a failure leaves
    the target as empty as it was.  Raises :class:`Conflict` when it is not empty, and
    ``StorageFailure``.
    """
    file = DatabaseFile(path)
    server = Server(params)
    source = file.prepare()
    try:
        target = server.connect()
        try:
            return _copied(source, target, server.name)
        except psycopg.Error as error:
            told = " ".join(str(error).split())
            raise StorageFailure(f"{server.name}: {told}; nothing was moved") from None
        except sqlite3.Error as error:
            raise failure(file.name, error) from error
        finally:
            target.close()
    finally:
        source.close()


def _copied(source: sqlite3.Connection, target: psycopg.Connection[Any], name: str) -> dict[str, int]:
    try:
        postgres_schema.upgrade(target)
    except StorageFailure as error:
        raise StorageFailure(f"{name} {error}") from None
    tables = _in_order(source)
    moved: dict[str, int] = {}
    with target.transaction():
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            target.execute(f"set local {setting} = 0")
        for lock in (postgres_schema.UPGRADE_LOCK, postgres_schema.WRITE_LOCK):
            target.execute("select pg_advisory_xact_lock(%s)", (lock,))
        _require_empty(source, target, [table for table in tables if table not in _REPLACED], name)
        for table in tables:
            moved[table] = _move_table(source, target, table, name)
        target.execute(
            "select setval(pg_get_serial_sequence('events', 'id'), "
            "(select coalesce(max(id), 1) from events), (select count(*) > 0 from events))"
        )
    # Plans are made by what the tables hold; nobody has looked at that yet.
    target.execute("analyze")
    return moved


def _in_order(source: sqlite3.Connection) -> list[str]:
    """Every table, those that others refer to first."""
    found = [row[0] for row in source.execute(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name"
    )]
    pending = {
        table: {row[2] for row in source.execute(f'pragma foreign_key_list("{table}")')} - {table}
        for table in found if table not in _OWN
    }
    order: list[str] = []
    while pending:
        free = [table for table, others in pending.items() if not others & pending.keys()]
        if not free:
            raise StorageFailure(f"tables refer to each other in a circle: {', '.join(pending)}")
        order += free
        pending = {table: others for table, others in pending.items() if table not in free}
    return order


def _require_empty(
    source: sqlite3.Connection, target: psycopg.Connection[Any], tables: Sequence[str], name: str
) -> None:
    for table in tables:
        query = names.SQL("select 1 from {} limit 1").format(names.Identifier(table))
        if target.execute(query).fetchone() is None:
            continue
        cluster = target.execute(_CLUSTER).fetchone()
        if cluster is not None and cluster == source.execute(_CLUSTER).fetchone():
            raise Conflict(f"{name} holds this cluster already: a move has ended before. Put the SQLite file "
                           "away, and start the server on the new database")
        raise Conflict(f"{name} is not empty (table {table}); move into a database of its own")


def _move_table(
    source: sqlite3.Connection, target: psycopg.Connection[Any], table: str, name: str
) -> int:
    columns = [row[1] for row in source.execute(f'pragma table_info("{table}")')]
    listed = names.SQL(", ").join(map(names.Identifier, columns))
    where = names.Identifier(table)
    if table in _REPLACED:
        target.execute(names.SQL("delete from {}").format(where))
    sent, found = _Tally(), _Tally()
    with target.cursor() as cursor, cursor.copy(
        names.SQL("copy {} ({}) from stdin").format(where, listed)
    ) as copying:
        for row in _rows(source, table, columns):
            sent.take(row)
            copying.write_row(row)
    with target.cursor(name="moved") as reading:
        reading.itersize = ROWS_AT_ONCE
        reading.execute(names.SQL("select {} from {}").format(listed, where))
        for row in reading:
            found.take(row)
    if (sent.rows, sent.sum) != (found.rows, found.sum):
        raise StorageFailure(
            f"{name}: table {table} is not what was sent ({found.rows} of {sent.rows} rows, or some of them "
            "changed); nothing was moved, please report this"
        )
    return sent.rows


def _rows(source: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
    listed = ", ".join(f'"{column}"' for column in columns)
    cursor = source.execute(f'select {listed} from "{table}"')
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        yield from rows


