"""A whole copy of the database, made while the server runs."""

from __future__ import annotations

import contextlib
import errno
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
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def back_up(source: Path, target: Path, look: Callable[[Transaction], T]) -> T:
    """*target* is a copy of the database *source* as it stands now, 0600, one file
    alone, on the disk; and what *look* finds in it.

    Others read and write meanwhile.  :class:`Conflict` when *target* is there
    already, or would be taken for the database's log; :class:`StorageFailure` when
    it cannot be written.  Then nothing of it is left.
    """
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already; name another file")
    if not os.path.isdir(target.parent):  # noqa: PTH112  # a Path's raises where one may not look
        raise StorageFailure(f"{target} cannot be written: there is no directory {target.parent}")
    # Of this call alone: two that have one target write to two files, and the first is linked.
    partial = target.with_name(f".mezite-{os.urandom(8).hex()}.part")
    try:
        if target.name.startswith(f"{source.name}-") and target.parent.samefile(source.parent):
            # SQLite takes what stands there for a part of the database: a copy would stop it.
            raise Conflict(f"{target} is a name of the database's own log; name another file")
        copy_whole(source, partial)
        found = _look(partial, look)
        # Unlike a rename, this never replaces what has come there meanwhile.
        os.link(partial, target, follow_symlinks=False)
        sync(target.parent)
    except FileExistsError:
        raise Conflict(f"{target} exists already; name another file") from None
    except OSError as error:
        remedy = "make room" if error.errno in _NO_ROOM else "give write access there, or name another place"
        raise StorageFailure(f"{target} cannot be written: {error.strerror}; {remedy}") from error
    except sqlite3.Error as error:
        remedy = "; make room" if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL else ""
        raise StorageFailure(f"{target} cannot be written: {error}{remedy}") from error
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
