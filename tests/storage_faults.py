"""Failures of the disk and of SQLite, injected where statements are run.

    faults = Faults()
    storage = MemoryStorage(connection_class=faults.connection_class)
    faults.fail("commit", sqlite3.SQLITE_FULL)

The next statement that starts with ``commit`` then fails as SQLite itself
would, once; ``times`` makes it fail more often, and ``heal`` ends it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

_TEXTS = {
    sqlite3.SQLITE_FULL: "database or disk is full",
    sqlite3.SQLITE_IOERR: "disk I/O error",
    sqlite3.SQLITE_READONLY: "attempt to write a readonly database",
    sqlite3.SQLITE_CORRUPT: "database disk image is malformed",
    sqlite3.SQLITE_BUSY: "database is locked",
    sqlite3.SQLITE_CANTOPEN: "unable to open database file",
}


@dataclass
class _Fault:
    start: str
    code: int
    times: int
    rolls_back: bool


class Faults:
    """What goes wrong in the connections of :attr:`connection_class`."""

    def __init__(self) -> None:
        self._planned: list[_Fault] = []
        self.statements: list[str] = []
        """Every statement that was run, failed ones too."""
        faults = self

        class FaultyConnection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                faults.meet(statement, super())
                return super().execute(statement, *values)

        self.connection_class: type[sqlite3.Connection] = FaultyConnection

    def fail(
        self, start: str, code: int = sqlite3.SQLITE_FULL, *, times: int = 1, rolls_back: bool = False
    ) -> None:
        """The next *times* statements starting with *start* fail with *code*;
        *rolls_back*: SQLite ends the transaction by itself, as it may on a full disk."""
        self._planned.append(_Fault(start, code, times, rolls_back))

    @property
    def pending(self) -> bool:
        """Whether a planned failure has not happened yet."""
        return any(fault.times for fault in self._planned)

    def heal(self) -> None:
        self._planned.clear()

    def meet(self, statement: str, connection: Any) -> None:
        self.statements.append(statement)
        for fault in self._planned:
            if fault.times and statement.lstrip().startswith(fault.start):
                fault.times -= 1
                if fault.rolls_back and connection.in_transaction:
                    connection.execute("rollback")
                corrupt = fault.code == sqlite3.SQLITE_CORRUPT
                kind = sqlite3.DatabaseError if corrupt else sqlite3.OperationalError
                error = kind(_TEXTS[fault.code])
                error.sqlite_errorcode = fault.code
                raise error
