"""The database that the configuration names, opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mezite.config.database import POSTGRES, DatabaseConfig
from mezite.core.highwater import HighWater
from mezite.errors import Conflict, UsageError
from mezite.storage.backup import back_up
from mezite.storage.interface import Deliver, Storage, Transaction
from mezite.storage.mark import MarkFile
from mezite.storage.sqlite import SqliteStorage

T = TypeVar("T")
FILE = "mezite.db"


@dataclass(frozen=True, slots=True)
class Database:
    storage: Storage
    where: str
    """For a person."""
    mark: MarkFile | None
    """How far a database in a file has come; several servers have no such common place."""
    file: Path | None = None

    def back_up(self, target: Path, look: Callable[[Transaction], T]) -> T:
        """A copy of the file, and what *look* finds in it; see :func:`mezite.storage.backup.back_up`."""
        if self.file is None:
            raise Conflict("only a database in a file is backed up by mezctl; this one with pg_dump")
        return back_up(self.file, target, look)

    def height(self, cluster_uuid: str) -> HighWater | None:
        return None if self.mark is None else self.mark.read(cluster_uuid)

    def noted(self) -> HighWater | None:
        return None if self.mark is None else self.mark.noted

    def close(self) -> None:
        self.storage.close()
        if self.mark is not None:
            self.mark.close()


def open_database(
    config: DatabaseConfig, data_dir: Path, deliver: Deliver | None = None, process: int = 0
) -> Database:
    """*process* is this one's number among those that share *data_dir*.

    Raises :class:`~mezite.errors.StorageFailure` when it cannot be used.
    """
    if config.driver == POSTGRES:
        try:
            # Where SQLite is used it need not even be installed.
            from mezite.storage.postgres import PostgresStorage
        except ImportError as error:
            raise UsageError(
                f"database.driver postgres needs psycopg ({error}): pip install 'mezite[postgres]'"
            ) from None
        storage = PostgresStorage(config.params, deliver=deliver)
        return Database(storage, storage.name, None)
    mark = MarkFile(data_dir / "mezite.mark", process)
    try:
        opened = SqliteStorage(data_dir / FILE, deliver=deliver, committed=mark.note)
    except BaseException:
        mark.close()
        raise
    return Database(opened, str(data_dir), mark, data_dir / FILE)
