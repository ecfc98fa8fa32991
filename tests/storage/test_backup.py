"""A copy of a database that is written to meanwhile: whole, private, and never over another file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.errors import Conflict, StorageFailure
from mezite.storage.backup import back_up
from mezite.storage.interface import Transaction
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import make_event, read, write


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
    assert not os.path.lexists("/proc/.mezite-copy.part")


def test_what_cannot_be_understood_is_no_backup(
    storage: SqliteStorage, source: Path, tmp_path: Path
) -> None:
    def refuse(tx: Transaction) -> None:
        raise StorageFailure("no cluster")

    with pytest.raises(StorageFailure, match="no cluster"):
        back_up(source, tmp_path / "copy", refuse)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
