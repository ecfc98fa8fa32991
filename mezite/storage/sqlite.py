"""The default database: one SQLite file, nothing to install or to run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mezite.storage.interface import Committed, Deliver
from mezite.storage.queued import QueuedStorage
from mezite.storage.sqlite_file import DatabaseFile

READERS = 2


class SqliteStorage(QueuedStorage):
    """A :class:`~mezite.storage.interface.Storage` in the file *path*, made 0600.

    A commit is on the disk before its futures resolve (WAL, synchronous=FULL).
    Several processes may use one file at once; each gives out serial numbers
    from blocks of its own, and hears only of the changes it made itself.

    When a future fails with ``StorageFailure``, nothing of its use case is there;
    but if the disk failed under the COMMIT itself and power is lost before the
    next one, SQLite may find it again: like a reply that got lost.

    Opening brings the schema up to date, with a backup beside the file first.
    Raises ``StorageFailure`` when the file cannot be used.  Open it after any
    fork: neither threads nor SQLite's locks survive one.
    """

    def __init__(
        self,
        path: Path,
        *,
        deliver: Deliver | None = None,
        committed: Committed | None = None,
        connection_class: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        super().__init__(
            DatabaseFile(path, connection_class), readers=READERS, deliver=deliver, committed=committed
        )
