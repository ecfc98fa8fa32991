"""A copy of a database that is written to meanwhile: whole, private, and never over another file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.errors import Conflict, StorageFailure
from mezite.storage.backup import back_up
from mezite.storage.interface import Transaction
from mezite.storage.schema import copy_whole
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import make_event, read, write

LOGS = ("", "-wal", "-shm")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "mezite.db"


@pytest.fixture
def storage(source: Path) -> Iterator[SqliteStorage]:
    made = SqliteStorage(source)
    yield made
    made.close()


def newest(tx: Transaction) -> int:
    return tx.newest_event()


def test_a_copy_made_under_writes_is_one_moment_of_the_database(
    storage: SqliteStorage, source: Path, tmp_path: Path
) -> None:
    """Each use case is in it whole or not at all; the copy opens by itself, with no log beside it."""
    stop = threading.Event()

    def add(tx: Transaction) -> None:
        tx.add_event(make_event())
        tx.set_value("events", b"%d" % tx.newest_event())

    def keep_writing() -> None:
        while not stop.is_set():
            storage.write(add).result(10)

    write(storage, add)
    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for number in range(5):
            target = tmp_path / f"copy-{number}"
            seen = back_up(source, target, lambda tx: (newest(tx), int(tx.value("events") or 0)))
            assert seen[0] == seen[1] > 0
            assert target.stat().st_mode & 0o777 == 0o600
    finally:
        stop.set()
        writer.join(10)
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == [
        f"copy-{number}" for number in range(5)
    ]
    copy = SqliteStorage(tmp_path / "copy-4")
    assert read(copy, newest) >= 5
    copy.close()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling"])
def test_nothing_is_written_over(storage: SqliteStorage, source: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "there"
    if kind == "file":
        target.write_text("mine")
    elif kind == "directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="exists already"):
        back_up(source, target, newest)
    assert kind != "file" or target.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_of_two_to_one_target_the_first_is_whole(
    storage: SqliteStorage, source: Path, tmp_path: Path
) -> None:
    """Neither writes into the other's file, and the second finds the name taken."""
    write(storage, lambda tx: tx.add_event(make_event()))
    target = tmp_path / "copy"

    def meanwhile(tx: Transaction) -> int:
        assert back_up(source, target, newest) == 1
        return newest(tx)

    with pytest.raises(Conflict, match="exists already"):
        back_up(source, target, meanwhile)
    assert {path.name for path in tmp_path.iterdir()} - {f"{source.name}{one}" for one in LOGS} == {"copy"}
    copy = SqliteStorage(target)
    assert read(copy, newest) == 1
    copy.close()


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_no_backup_takes_the_place_of_the_databases_log(tmp_path: Path, suffix: str) -> None:
    """What stands there SQLite takes for a transaction that was cut off: everybody would wait for it."""
    source = tmp_path / "mezite.db"
    SqliteStorage(source).close()
    (tmp_path / "way").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path / "way"):
        with pytest.raises(Conflict, match="the database's own log"):
            back_up(source, place / f"mezite.db{suffix}", newest)
    again = SqliteStorage(source)
    assert read(again, newest) == 0
    again.close()


def test_a_database_that_is_kept_locked_is_not_waited_for_without_end(tmp_path: Path) -> None:
    source = tmp_path / "mezite.db"
    SqliteStorage(source).close()
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError, match=r"keeps .*mezite\.db locked"):
            copy_whole(source, tmp_path / "copy", wait_s=0)


def test_a_name_of_full_length_is_good(storage: SqliteStorage, source: Path, tmp_path: Path) -> None:
    back_up(source, tmp_path / ("n" * 255), newest)
    with pytest.raises(StorageFailure, match="name another place"):
        back_up(source, tmp_path / ("n" * 256), newest)


def test_a_place_that_cannot_be_written_is_named(
    storage: SqliteStorage, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(StorageFailure, match="there is no directory"):
        back_up(source, tmp_path / "missing" / "copy", newest)


def test_a_full_disk_leaves_nothing_behind(source: Path, storage: SqliteStorage) -> None:
    """A file system that takes nothing; the message says what to do."""
    write(storage, lambda tx: tx.add_event(make_event()))
    target = Path("/proc/mezite-copy")
    with pytest.raises(StorageFailure, match="cannot be written"):
        back_up(source, target, newest)
    assert not os.path.lexists("/proc/mezite-copy")


def test_what_cannot_be_understood_is_no_backup(
    storage: SqliteStorage, source: Path, tmp_path: Path
) -> None:
    def refuse(tx: Transaction) -> None:
        raise StorageFailure("no cluster")

    with pytest.raises(StorageFailure, match="no cluster"):
        back_up(source, tmp_path / "copy", refuse)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
