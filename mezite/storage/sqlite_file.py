"""A SQLite file: found fit and opened, or refused in one line that says why."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from mezite.errors import StorageFailure
from mezite.storage import schema

LOCK_TIMEOUT = timedelta(seconds=5)
"""How long another process's lock is waited for."""
SMALLEST_FILE_BYTES = 512
"""No SQLite file with anything in it is smaller; SQLite takes such a one for
empty, and would write over it (sqlite.org/fileformat.html, 1.2)."""
QUICK_CHECK_BYTES = 64 * 1024 * 1024
"""Files up to this size are read through at every opening: about a second on a
slow disk.  In a larger one damage shows when the page it lies in is read."""


class FileIdentity(Struct, frozen=True):
    """What tells a file from any other that comes to its path; zeros where there is none."""

    path: str
    device: int = 0
    inode: int = 0

    @classmethod
    def at(cls, path: str) -> FileIdentity:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path takes longer, and each commit looks
        except OSError:
            return cls(path)
        return cls(path, status.st_dev, status.st_ino)


class Source(Protocol):
    """Where the connections of a storage come from."""

    name: str
    """How messages call the database."""
    kept: bool
    """Whether a connection is the data itself, so that it is never closed and
    opened again after a failure."""
    lock_timeout: timedelta
    """How long another process's lock is waited for."""

    def prepare(self) -> sqlite3.Connection:
        """The database exists, is sound and has the newest schema; a
        connection that writes.  Raises ``StorageFailure``."""
        ...

    def connect(self, *, reading: bool) -> sqlite3.Connection:
        """A further connection; raises ``StorageFailure``."""
        ...

    def files(self) -> tuple[FileIdentity, ...]:
        """Those at the paths that connections use, now; always as many."""
        ...


def set_up(connection: sqlite3.Connection, *, reading: bool) -> None:
    """The settings that hold for one connection are made, none of which reads the file."""
    connection.execute("pragma foreign_keys = on")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma trusted_schema = off")
    connection.execute("pragma temp_store = memory")
    if reading:
        connection.execute("pragma query_only = on")


class DatabaseFile:
    """The database in the file *path*, in WAL mode.

    *connection_class* stands in for sqlite3's own in tests that inject failures.
    """

    kept = False

    def __init__(
        self,
        path: Path,
        connection_class: type[sqlite3.Connection] = sqlite3.Connection,
        lock_timeout: timedelta = LOCK_TIMEOUT,
    ) -> None:
        # twistd changes its directory when it goes into the background.
        self.path = path.absolute()
        self.name = str(path)
        self._class = connection_class
        self.lock_timeout = lock_timeout
        self._files = tuple(f"{self.path}{ending}" for ending in ("", "-wal", "-shm"))
        self._prepared: FileIdentity | None = None

    def prepare(self) -> sqlite3.Connection:
        self._check_access()
        connection = self.connect(reading=False)
        try:
            self._check_content(connection)
            # Another program's database is refused before the mode of its file is changed.
            schema.version(connection)
            self._use_log(connection)
            schema.upgrade(connection, self.path)
            self._prepared = FileIdentity.at(self._files[0])
        except StorageFailure as error:
            connection.close()
            raise StorageFailure(f"{self.name} {error}") from error.__cause__
        except sqlite3.Error as error:
            connection.close()
            raise failure(self.name, error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self, *, reading: bool) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path.as_uri() + "?mode=rw",
                uri=True,
                timeout=self.lock_timeout.total_seconds(),
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
                factory=self._class,
            )
        except sqlite3.Error as error:
            raise failure(self.name, error) from error
        if self._prepared is not None and self._prepared != FileIdentity.at(self._files[0]):
            # Whatever it holds, nobody has looked whether it is this server's, or an older copy.
            connection.close()
            raise displaced(self._files[0])
        try:
            set_up(connection, reading=reading)
        except sqlite3.Error as error:
            connection.close()
            raise failure(self.name, error) from error
        return connection

    def files(self) -> tuple[FileIdentity, ...]:
        return tuple(map(FileIdentity.at, self._files))

    def _check_access(self) -> None:
        """The file exists, made 0600 if need be, and it and its directory can be written."""
        folder = self.path.parent
        if not folder.is_dir():
            wrong = "is not a directory" if folder.exists() else "does not exist"
            raise StorageFailure(f"{self.name} cannot be opened: {folder} {wrong}; create it, or set "
                                 "data_dir to a directory that exists")
        if self.path.is_dir():
            raise StorageFailure(f"{self.name} is a directory; name a file")
        # The log and its index are made beside the file.
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise StorageFailure(f"{self.name} cannot be used: this account cannot write in {folder}, where "
                                 "SQLite keeps its log; give it write access there")
        try:
            # Not opened when it exists: to close it would drop the locks that another
            # connection of this process has on it (sqlite.org/howtocorrupt.html, 2.2).
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StorageFailure(f"{self.name} cannot be created: {error.strerror}; make room or give write "
                                 f"access in {folder}") from error
        if not os.access(self.path, os.R_OK | os.W_OK, effective_ids=True):
            raise StorageFailure(f"{self.name} cannot be used: this account cannot read and write it; make "
                                 "the account its owner, or run as the owner")

    def _check_content(self, connection: sqlite3.Connection) -> None:
        size = self.path.stat().st_size
        journal = self.path.with_name(self.path.name + "-journal")
        if 0 < size < SMALLEST_FILE_BYTES and not journal.exists():
            raise StorageFailure(f"is not a SQLite database; move it away, or {_RESTORE}")
        if size > QUICK_CHECK_BYTES:
            return
        (found,) = connection.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise StorageFailure(f"is damaged ({' '.join(found.split())}); {_RESTORE}")

    def _use_log(self, connection: sqlite3.Connection) -> None:
        """The file is in WAL mode, which it then stays in."""
        deadline = time.monotonic() + self.lock_timeout.total_seconds()
        while True:
            try:
                (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
            except sqlite3.OperationalError as error:
                # Another process is opening the same new file; here SQLite itself does not wait.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise StorageFailure(f"lies on a file system without shared memory (mode {mode}), such as "
                                     "a network share; move it to a local disk")
            return


_RESTORE = "stop the server, keep a copy of the file, and restore a backup"
_WAYS_OUT = {
    sqlite3.SQLITE_FULL: "the disk is full; make room there, and it goes on by itself",
    sqlite3.SQLITE_READONLY: "it cannot be written; give this account write access to the file and its "
    "directory, and check that the disk is not mounted read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error; check it (dmesg, free space, quota), and restore a "
    "backup if the file is damaged",
    sqlite3.SQLITE_CORRUPT: f"the file is damaged; {_RESTORE}",
    sqlite3.SQLITE_NOTADB: f"the file is not a SQLite database; move it away, or {_RESTORE}",
    sqlite3.SQLITE_CANTOPEN: "the file, or the log beside it, cannot be opened; check that it exists and "
    "that this account has access",
    sqlite3.SQLITE_BUSY: "another process keeps it locked; stop that one",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked; stop that one",
    sqlite3.SQLITE_PERM: "this account has no access; make it the file's owner",
    sqlite3.SQLITE_AUTH: "this account has no access; make it the file's owner",
}


def displaced(path: str) -> StorageFailure:
    """*path* leads to another file than it did when the server started, or to none."""
    return StorageFailure(
        f"{path} was removed or replaced while the server runs, which commits nothing any more; put the file "
        "back that was there, or restart the server, after a restore where the database itself is lost"
    )


def failure(name: str, error: BaseException) -> StorageFailure:
    """One line for *error*: the file, what is wrong, the way out."""
    code = getattr(error, "sqlite_errorcode", None)
    way_out = _WAYS_OUT.get(code & 0xFF) if isinstance(code, int) else None
    told = " ".join(str(error).split())
    if way_out is None:
        return StorageFailure(f"{name}: the database fails: {told}")
    return StorageFailure(f"{name}: {way_out} ({told})")
