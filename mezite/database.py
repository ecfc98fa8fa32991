"""The database that the configuration names, opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from mezite.config.database import POSTGRES, DatabaseConfig
from mezite.core.highwater import HighWater
from mezite.errors import Conflict, UsageError
from mezite.storage.backup import back_up
from mezite.storage.interface import Deliver, Storage, Transaction
from mezite.storage.mark import MarkFile
from mezite.storage.sqlite import SqliteStorage

T = TypeVar("T")
FILE, MARK = "mezite.db", "mezite.mark"


class Database(Struct, frozen=True):
    storage: Storage
    where: str
    """For a person."""
    mark: MarkFile
    """How far the database has come, as this data directory's servers know."""
    file: Path | None = None
    """Where the mark lies beside it, so that none without the other is right."""

    def back_up(self, target: Path, look: Callable[[Transaction], T]) -> T:
        """A copy of the file, and what *look* finds in it; see :func:`mezite.storage.backup.back_up`."""
        if self.file is None:
            raise Conflict("only a database in a file is backed up by mezctl; this one with pg_dump")
        return back_up(self.file, target, look)

    def height(self, cluster_uuid: str) -> HighWater | None:
        return self.mark.read(cluster_uuid)

    def noted(self) -> HighWater | None:
        return self.mark.noted

    def close(self) -> None:
        self.storage.close()
        self.mark.close()


def open_database(
    config: DatabaseConfig, data_dir: Path, deliver: Deliver | None = None, process: int = 0
) -> Database:
    """*process* is this one's number among those that share *data_dir*.

    Raises :class:`~mezite.errors.StorageFailure` when it cannot be used.
    """
    mark = MarkFile(data_dir / MARK, process)
    try:
        if config.driver == POSTGRES:
            opened, where = _postgres(config, deliver, mark)
            return Database(opened, where, mark)
        file = data_dir / FILE
        return Database(SqliteStorage(file, deliver=deliver, committed=mark.note), str(data_dir), mark, file)
    except BaseException:
        mark.close()
        raise


def _postgres(config: DatabaseConfig, deliver: Deliver | None, mark: MarkFile) -> tuple[Storage, str]:
    try:
        # Where SQLite is used it need not even be installed.
        from mezite.storage.postgres import PostgresStorage
    except ImportError as error:
        raise UsageError(
            f"database.driver postgres needs psycopg ({error}): pip install 'mezite[postgres]'"
        ) from None
    storage = PostgresStorage(config.params, deliver=deliver, committed=mark.note)
    return storage, storage.name
