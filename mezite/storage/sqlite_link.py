"""One connection to SQLite, as the statements of transactions see it."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

from mezite.errors import StorageFailure
from mezite.storage.policy import PolicyCache
from mezite.storage.rows import Row
from mezite.storage.sqlite_file import FileIdentity, Source, displaced, failure
from mezite.storage.statements import Serials

LOCK_POLL_S = 0.001
"""How often a lock that another process holds is asked for."""

_log = logging.getLogger(__name__)


class Link:
    """Opened when needed, given up after a failure; one thread at a time uses it."""

    def __init__(self, source: Source, connection: sqlite3.Connection | None = None) -> None:
        self._source = source
        self._reading = connection is None
        self._connection = connection
        if connection is not None:
            self._wait_here(connection)
        self._failed: StorageFailure | None = None
        self._files: tuple[FileIdentity, ...] | None = source.files() if connection is not None else None
        """Those that the connection writes to; ``None``: not looked up since it was made anew."""
        self._is_displaced = False
        self.writes = not self._reading
        self.serials = Serials()
        self.policy = PolicyCache()

    @staticmethod
    def _wait_here(connection: sqlite3.Connection) -> None:
        """Another process's lock is waited for by :meth:`begin`: SQLite itself
        waits in steps of up to 100 ms, which starves one of two busy processes
        for most of a second."""
        connection.execute("pragma busy_timeout = 0")

    def begin(self, *, wait: bool = True) -> bool:
        """A transaction is open; without *wait*, not while another process holds the lock."""
        if self._connection is None:
            self._connection = self._source.connect(reading=self._reading)
            if not self._reading:
                self._wait_here(self._connection)
        self._failed = None
        self.policy.begin()
        if self._reading:
            self.change("begin")
            return True
        deadline = time.monotonic() + self._source.lock_timeout.total_seconds()
        while True:
            try:
                self._connection.execute("begin immediate")
                if self._files is None:
                    self._files = self._source.files()
                return True
            except Exception as error:
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if busy and not wait:
                    return False
                if not busy or time.monotonic() > deadline:
                    raise self._told(error) from error
            time.sleep(LOCK_POLL_S)

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).fetchall()
        except Exception as error:
            raise self._told(error) from error

    def change(self, statement: str, values: Row = (), /) -> int:
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).rowcount
        except Exception as error:
            raise self._told(error) from error

    def commit(self) -> None:
        """Raises ``StorageFailure`` when nothing is committed, and also where it would be
        to a file that is at its path no more: nobody would ever find it again."""
        if self.writes and self._files is not None:
            found = self._source.files()
            self._is_displaced = found != self._files
            if self._is_displaced:
                gone = next(ours.path for ours, theirs in zip(self._files, found, strict=True)
                            if ours != theirs)
                self._failed = displaced(gone)
                raise self._failed
        self.change("commit")

    def _told(self, error: Exception) -> StorageFailure:
        """*error* as a ``StorageFailure``; unless only the statement's values
        are at fault, no use case of the batch goes on."""
        if isinstance(
            error,
            sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError | sqlite3.InterfaceError,
        ) or not isinstance(error, sqlite3.Error | MemoryError):
            return StorageFailure(f"{self._source.name}: the database refuses a value: {error}")
        if self._failed is None:
            self._failed = failure(self._source.name, error)
        return self._failed

    def undo(self, *, wait: bool) -> None:
        """The open transaction is empty again."""
        self.policy.forget()
        self.change("rollback")
        if not self.begin(wait=wait):
            raise StorageFailure(f"{self._source.name}: another process came in between; ask again")

    def check(self) -> None:
        """The transaction is whole; raises ``StorageFailure`` when a statement has
        failed for good (though its use case may have caught that), or when SQLite
        has rolled everything back by itself, as it may do on a full disk."""
        assert self._connection is not None
        if self._failed is not None:
            raise self._failed
        if not self._connection.in_transaction:
            raise StorageFailure(f"{self._source.name}: the database ended a transaction by itself")

    def give_up(self) -> None:
        """Nothing of the open transaction remains."""
        self.policy.forget()
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("rollback")
        except sqlite3.Error as error:
            _log.warning("%s: rollback failed: %s", self._source.name, error,
                         extra={"event": "database.rollback_failed"})
        # What was committed to a file without a name is gone with its last connection.
        if not self._source.kept and not self._is_displaced:
            self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._files, self._is_displaced = None, False
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.warning("%s: close failed: %s", self._source.name, error,
                             extra={"event": "database.close_failed"})
