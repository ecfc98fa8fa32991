"""A database that lasts as long as its storage: for tests and trials."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from mezite.errors import StorageFailure
from mezite.storage import schema
from mezite.storage.interface import Committed, Deliver
from mezite.storage.queued import QueuedStorage
from mezite.storage.sqlite_file import FileIdentity, failure, set_up


class MemorySource:
    """One connection to a database in memory; there is no second one."""

    name = ":memory:"
    kept = True
    lock_timeout = timedelta(0)

    def __init__(self, connection_class: type[sqlite3.Connection] = sqlite3.Connection) -> None:
        self._class = connection_class

    def prepare(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            ":memory:",
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=self._class,
        )
        try:
            set_up(connection, reading=False)
            schema.upgrade(connection, None)
        except sqlite3.Error as error:
            connection.close()
            raise failure(self.name, error) from error
        return connection

    def connect(self, *, reading: bool) -> sqlite3.Connection:
        raise StorageFailure("a database in memory is gone with its connection; open a new one")

    def files(self) -> tuple[FileIdentity, ...]:
        return ()


class MemoryStorage(QueuedStorage):
    """A :class:`~mezite.storage.interface.Storage` in memory.

    Its one thread runs reads too, in order with the writes; besides, it is the
    same code as the storage in a file.
    """

    def __init__(
        self,
        *,
        deliver: Deliver | None = None,
        committed: Committed | None = None,
        connection_class: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        super().__init__(MemorySource(connection_class), readers=0, deliver=deliver, committed=committed)
