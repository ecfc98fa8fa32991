"""The like of :mod:`tests.storage_faults` for PostgreSQL: statements fail as the server would
let them fail, with the transaction aborted, or with the connection gone."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg

_KINDS: dict[int, type[psycopg.Error]] = {
    sqlite3.SQLITE_FULL: psycopg.errors.DiskFull,
    sqlite3.SQLITE_IOERR: psycopg.errors.IoError,
    sqlite3.SQLITE_READONLY: psycopg.errors.OutOfMemory,
    sqlite3.SQLITE_CORRUPT: psycopg.errors.DataCorrupted,
}
"""Of the same sense, as far as there is one."""


class PostgresFaults:
    """What goes wrong in the connections of :attr:`connection_class`."""

    def __init__(self) -> None:
        self._planned: list[list[Any]] = []
        faults = self

        class FaultyConnection(psycopg.Connection[Any]):
            def execute(self, query: Any, *values: Any, **options: Any) -> Any:
                faults.meet(str(query), self)
                return super().execute(query, *values, **options)

        self.connection_class: type[psycopg.Connection[Any]] = FaultyConnection

    def fail(
        self, start: str, code: int = sqlite3.SQLITE_FULL, *, times: int = 1, rolls_back: bool = False,
        kind: type[psycopg.Error] | None = None,
    ) -> None:
        """The next *times* statements starting with *start* fail; *rolls_back*: the
        server has ended the transaction meanwhile."""
        self._planned.append([start, kind or _KINDS[code], times, rolls_back])

    @property
    def pending(self) -> bool:
        return any(fault[2] for fault in self._planned)

    def heal(self) -> None:
        self._planned.clear()

    def meet(self, statement: str, connection: psycopg.Connection[Any]) -> None:
        for fault in self._planned:
            start, kind, times, rolls_back = fault
            if times and statement.lstrip().startswith(start):
                fault[2] -= 1
                if rolls_back:
                    connection.pgconn.exec_(b"rollback")
                else:
                    connection.pgconn.exec_(b"select no_such_function()")
                raise kind(f"injected {kind.__name__}")
