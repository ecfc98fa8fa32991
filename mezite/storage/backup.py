"""A whole copy of the database, made while the server runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mezite.errors import Conflict, StorageFailure
from mezite.storage.interface import Transaction
from mezite.storage.rows import Row
from mezite.storage.schema import copy_whole, sync
from mezite.storage.transaction import SqlTransaction

T = TypeVar("T")


def back_up(source: Path, target: Path, look: Callable[[Transaction], T]) -> T:
    """*target* is a copy of the database *source* as it stands now, 0600, one file
    alone, on the disk; and what *look* finds in it.

    Others read and write meanwhile.  :class:`Conflict` when *target* is there
    already, :class:`StorageFailure` when it cannot be written; then nothing of it
    is left.
    """
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} exists already; name another file")
    if not target.parent.is_dir():
        raise StorageFailure(f"{target} cannot be written: there is no directory {target.parent}")
    partial = target.with_name(f".{target.name}.part")
    try:
        copy_whole(source, partial)
        found = _look(partial, look)
        # Unlike a rename, this never replaces what has come there meanwhile.
        os.link(partial, target, follow_symlinks=False)
        sync(target.parent)
    except FileExistsError:
        raise Conflict(f"{target} exists already; name another file") from None
    except OSError as error:
        raise StorageFailure(f"{target} cannot be written: {error.strerror}; make room or give write access "
                             "there") from error
    except sqlite3.Error as error:
        raise StorageFailure(f"{target} cannot be written: {error}; make room there") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return found


def _look(path: Path, look: Callable[[Transaction], T]) -> T:
    """The copy is sound, and this is what is in it."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        (sound,) = connection.execute("pragma quick_check(1)").fetchone()
        if sound != "ok":
            raise StorageFailure(f"the copy is damaged ({sound}): the database may be, too; check the disk")
        return look(SqlTransaction(_Reading(connection), None))
    finally:
        connection.close()


class _Reading:
    """The statements of a connection that only reads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def change(self, statement: str, values: Row = (), /) -> int:
        raise StorageFailure("a backup is only read")
