"""The mark beside a database: never behind what was promised, never ahead of what was committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.core.highwater import HighWater
from mezite.storage.mark import SLOTS, MarkFile
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import make_event, write

CLUSTER = "5f3c1d52-0000-4000-8000-000000000001"
OTHER = "5f3c1d52-0000-4000-8000-000000000002"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mezite.mark"


@pytest.fixture
def mark(path: Path) -> Iterator[MarkFile]:
    made = MarkFile(path)
    made.read(CLUSTER)
    yield made
    made.close()


def read(path: Path, cluster: str = CLUSTER) -> HighWater | None:
    other = MarkFile(path, slot=5)
    try:
        return other.read(cluster)
    finally:
        other.close()


def test_what_was_noted_is_there_for_the_next_process_without_any_closing(path: Path, mark: MarkFile) -> None:
    """As after a kill -9: nothing of it waits in the process."""
    assert read(path) is None
    mark.note(7, 101)
    assert read(path) == HighWater(7, 101)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_only_rises(path: Path, mark: MarkFile) -> None:
    mark.note(9, 101)
    mark.note(3, 301)
    assert read(path) == mark.noted == HighWater(9, 301)
    again = MarkFile(path)
    assert again.read(CLUSTER) == HighWater(9, 301)
    again.note(1, 1)
    assert read(path) == HighWater(9, 301)
    again.close()


def test_the_highest_slot_counts(path: Path, mark: MarkFile) -> None:
    """Workers of one data directory write each its own."""
    worker = MarkFile(path, slot=SLOTS - 1)
    worker.read(CLUSTER)
    mark.note(5, 201)
    worker.note(6, 101)
    assert read(path) == HighWater(6, 201)
    worker.close()


def test_another_clusters_mark_says_nothing_of_this_one(path: Path, mark: MarkFile) -> None:
    mark.note(50, 50)
    assert read(path, OTHER) is None


@pytest.mark.parametrize("at", [0, 9, 25, 33, 41])
def test_a_torn_slot_counts_as_empty(path: Path, mark: MarkFile, at: int) -> None:
    mark.note(5, 5)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))
    assert read(path) is None


def test_a_disk_that_takes_nothing_ends_nobody(mark: MarkFile, tmp_path: Path) -> None:
    """It is behind then, which alarms nobody; and goes on when the disk does."""
    full = MarkFile(Path("/dev/full"))
    full.read(CLUSTER)
    full.note(5, 5)
    assert full.noted == HighWater(0, 0)
    full.close()
    full.note(6, 6)


def test_it_is_brought_to_the_disk_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, synced = [0.0], []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    mark = MarkFile(path, clock=lambda: now[0])
    mark.read(CLUSTER)
    for number in range(1, 62):
        now[0] += 1
        mark.note(number, 1)
    assert len(synced) == 2
    mark.close()


def test_a_commit_is_noted_before_its_future_resolves_and_a_failed_one_never(tmp_path: Path) -> None:
    noted: list[tuple[int, int]] = []
    storage = SqliteStorage(tmp_path / "mezite.db", committed=lambda *height: noted.append(height))
    seen: list[int] = []

    def add(tx: object) -> None:
        tx.add_event(make_event())  # type: ignore[attr-defined]

    future = storage.write(add)
    future.add_done_callback(lambda _: seen.append(len(noted)))
    future.result(10)
    assert noted == [(1, 1)]
    assert seen == [1]
    write(storage, lambda tx: tx.next_serial())
    assert noted[-1] == (1, 101)

    def fail(tx: object) -> None:
        add(tx)
        raise ValueError("undone")

    with pytest.raises(ValueError, match="undone"):
        storage.write(fail).result(10)
    assert noted[-1] == (1, 101)
    write(storage, lambda tx: tx.add_event(make_event(), above=500))
    assert noted[-1] == (501, 101)
    storage.close()
