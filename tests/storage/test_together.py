"""What runs in the thread that submits it, and what comes between."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from mezite.errors import StorageFailure
from mezite.storage.interface import Transaction
from mezite.storage.jobs import Job
from mezite.storage.queued import MAX_HERE
from mezite.storage.sqlite import SqliteStorage
from tests.storage.making import done, read

Calls = Sequence[Callable[[], None]]


class Loop:
    """Runs in the test's thread what a storage delivers, as the reactor does in its own."""

    def __init__(self) -> None:
        self._delivered: SimpleQueue[Calls] = SimpleQueue()

    def deliver(self, calls: Calls) -> None:
        self._delivered.put(calls)

    def turn(self) -> None:
        for call in self._delivered.get(timeout=30):
            call()

    def turn_until(self, futures: Sequence[Future[Any]]) -> None:
        while not all(future.done() for future in futures):
            self.turn()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def storage(tmp_path: Path, loop: Loop) -> Any:
    opened = SqliteStorage(tmp_path / "mezite.db", deliver=loop.deliver)
    yield opened
    opened.close()


class Ran:
    """Use cases that note in whose thread they ran, in which order."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage
        self.here: list[bool] = []
        self.order: list[str] = []
        self._thread = threading.current_thread()

    def submit(self, *names: str) -> list[Future[Any]]:
        jobs = [Job(lambda tx, name=name: self._run(tx, name), is_reading=False) for name in names]
        self._storage.write_together(jobs)
        return [job.future for job in jobs]

    def _run(self, tx: Transaction, name: str) -> str:
        tx.set_value(name, name.encode())
        self.here.append(threading.current_thread() is self._thread)
        self.order.append(name)
        return name


def stored(storage: SqliteStorage, loop: Loop, names: Sequence[str]) -> list[str]:
    found = storage.read(lambda tx: [name for name in names if tx.value(name) is not None])
    loop.turn_until([found])
    return done(found)


def test_use_cases_run_at_once_and_resolve_after_the_commit(storage: SqliteStorage, loop: Loop) -> None:
    ran = Ran(storage)
    futures = ran.submit("a", "b")
    assert (ran.order, ran.here) == (["a", "b"], [True, True])
    assert not any(future.done() for future in futures)
    loop.turn_until(futures)
    assert [done(future) for future in futures] == ["a", "b"]
    assert stored(storage, loop, "ab") == ["a", "b"]


def test_who_comes_during_another_batch_runs_after_it_in_the_same_thread(
    storage: SqliteStorage, loop: Loop
) -> None:
    """A turn of the loop later, when the outcomes of that batch have been made use of."""
    ran, entered, leave = Ran(storage), threading.Event(), threading.Event()
    storage.write(lambda tx: (entered.set(), leave.wait(30)))
    assert entered.wait(30)
    futures = ran.submit("a") + ran.submit("b")
    leave.set()
    loop.turn()
    assert ran.order == []
    loop.turn_until(futures)
    assert (ran.order, ran.here) == (["a", "b"], [True, True])


def test_a_plain_write_shares_the_commit_of_a_batch_that_has_begun(
    storage: SqliteStorage, loop: Loop
) -> None:
    """And of a flood of such writes none keeps out who waits for the submitter's thread."""
    ran = Ran(storage)
    futures = ran.submit("a")
    plain = [storage.write(lambda tx, key=key: tx.set_value(key, b"")) for key in ("x", "y")]
    futures += ran.submit("b")
    loop.turn_until([*futures, *plain])
    assert ran.order == ["a", "b"]
    assert stored(storage, loop, ["a", "b", "x", "y"]) == ["a", "b", "x", "y"]


def test_many_at_once_run_a_part_at_a_time(storage: SqliteStorage, loop: Loop) -> None:
    ran, names = Ran(storage), [f"k{number}" for number in range(2 * MAX_HERE + 10)]
    futures = ran.submit(*names)
    assert len(ran.order) == MAX_HERE
    loop.turn_until(futures)
    assert ran.order == names
    assert stored(storage, loop, names) == names


def test_another_process_is_waited_for_elsewhere(tmp_path: Path, storage: SqliteStorage, loop: Loop) -> None:
    """The submitter's thread goes on meanwhile."""
    other = sqlite3.connect(tmp_path / "mezite.db", isolation_level=None)
    other.execute("begin immediate")
    ran = Ran(storage)
    futures = ran.submit("a", "b")
    assert ran.order == []
    other.execute("commit")
    loop.turn_until(futures)
    assert (ran.order, ran.here) == (["a", "b"], [False, False])
    other.close()


def test_closing_ends_what_has_begun_and_what_waits(tmp_path: Path) -> None:
    """Whether the loop still runs or not."""
    loop = Loop()
    storage = SqliteStorage(tmp_path / "mezite.db", deliver=loop.deliver)
    ran, names = Ran(storage), [f"k{number}" for number in range(MAX_HERE + 10)]
    futures = ran.submit(*names)
    storage.close()
    loop.turn_until(futures)
    assert [done(future) for future in futures] == names
    with pytest.raises(StorageFailure, match="is closed"):
        ran.submit("late")
    opened = SqliteStorage(tmp_path / "mezite.db")
    assert read(opened, lambda tx: [name for name in names if tx.value(name) is not None]) == names
    opened.close()


def test_threads_that_submit_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """Each use case runs once, whoever runs it."""
    storage = SqliteStorage(tmp_path / "mezite.db")
    futures: list[Future[Any]] = []
    lock = threading.Lock()

    def add(tx: Transaction) -> int:
        count = int(tx.value("count") or b"0") + 1
        tx.set_value("count", b"%d" % count)
        return count

    def submit() -> None:
        for _ in range(100):
            jobs = [Job(add, is_reading=False) for _ in range(3)]
            storage.write_together(jobs)
            plain = storage.write(add)
            with lock:
                futures.extend([*(job.future for job in jobs), plain])

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    storage.close()
    assert sorted(done(future) for future in futures) == list(range(1, 1601))
