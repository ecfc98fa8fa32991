"""What waiters are told that were written together, whatever becomes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from mezite.errors import NotFound, StorageFailure
from mezite.storage.interface import Storage, Transaction
from tests.contracts.conftest import OpenStorage
from tests.storage.making import read
from tests.storage_faults import Faults


class Counted:
    """A waiter that counts what it is told."""

    is_reading = False

    def __init__(self, use_case: Callable[[Transaction], Any], is_wanted: bool = True) -> None:
        self.use_case = use_case
        self.starts = 0
        self.outcomes: list[tuple[Any, BaseException | None]] = []
        self._is_wanted = is_wanted
        self._settled = threading.Event()

    def start(self) -> bool:
        self.starts += 1
        return self._is_wanted

    def settle(self, result: Any, error: BaseException | None) -> None:
        self.outcomes.append((result, error))
        self._settled.set()

    @property
    def outcome(self) -> tuple[Any, BaseException | None]:
        """Waits for it."""
        assert self._settled.wait(30)
        return self.outcomes[0]


def setting(key: str) -> Callable[[Transaction], str]:
    def use_case(tx: Transaction) -> str:
        tx.set_value(key, b"")
        return key

    return use_case


def raising(error: BaseException) -> Callable[[Transaction], None]:
    def use_case(tx: Transaction) -> None:
        tx.set_value("raised", b"")
        raise error

    return use_case


def stored(storage: Storage, *keys: str) -> list[str]:
    return read(storage, lambda tx: [key for key in keys if tx.value(key) is not None])


def settled_once(storage: Storage, *waiters: Counted) -> None:
    """Each was told once; whatever is on its way when the storage closes is told by then."""
    for waiter in waiters:
        assert waiter.outcome
    storage.close()
    assert [(waiter.starts, len(waiter.outcomes)) for waiter in waiters] == [(1, 1)] * len(waiters)


def test_each_is_started_once_and_told_once(storage: Storage) -> None:
    """Also where one of them raises, and those before it are run again."""
    error = NotFound("none such")
    waiters = [Counted(setting("a")), Counted(raising(error)), Counted(setting("b"))]
    storage.write_together(waiters)
    assert [waiter.outcome for waiter in waiters] == [("a", None), (None, error), ("b", None)]
    assert stored(storage, "a", "b", "raised") == ["a", "b"]
    settled_once(storage, *waiters)


def test_who_is_not_wanted_any_more_is_not_run_nor_told(storage: Storage) -> None:
    waiters = [Counted(setting("a")), Counted(setting("b"), is_wanted=False), Counted(setting("c"))]
    storage.write_together(waiters)
    assert (waiters[0].outcome, waiters[2].outcome) == (("a", None), ("c", None))
    assert stored(storage, "a", "b", "c") == ["a", "c"]
    storage.close()
    assert (waiters[1].starts, waiters[1].outcomes) == (1, [])


@pytest.mark.parametrize("statement", ["begin", "commit"])
def test_a_failure_is_told_once_to_all(open_storage: OpenStorage, faults: Faults, statement: str) -> None:
    """One line each, nothing done, and those that come afterwards are served."""
    storage = open_storage(connection_class=faults.connection_class)
    stored(storage, "a")
    faults.fail(statement)
    waiters = [Counted(setting("a"))]
    storage.write_together(waiters)
    _, error = waiters[0].outcome
    assert isinstance(error, StorageFailure)
    assert "\n" not in str(error)
    assert not faults.pending
    after = Counted(setting("b"))
    storage.write_together([after])
    assert after.outcome == ("b", None)
    assert stored(storage, "a", "b") == ["b"]
    settled_once(storage, *waiters, after)


def test_what_comes_before_the_close_is_told_and_what_comes_after_is_refused(storage: Storage) -> None:
    before, after = [Counted(setting(str(number))) for number in range(100)], Counted(setting("late"))
    storage.write_together(before)
    settled_once(storage, *before)
    assert [waiter.outcome for waiter in before] == [(str(number), None) for number in range(100)]
    with pytest.raises(StorageFailure, match="is closed"):
        storage.write_together([after])
    assert (after.starts, after.outcomes) == (0, [])


def test_nothing_is_written_by_nobody(storage: Storage) -> None:
    storage.write_together([])
    assert stored(storage, "a") == []


def test_outcomes_are_delivered(open_storage: OpenStorage) -> None:
    """In no other thread than *deliver* takes them to, however they were run."""
    delivered: list[Callable[[], None]] = []
    arrived = threading.Semaphore(0)

    def deliver(calls: Any) -> None:
        delivered.extend(calls)
        arrived.release()

    storage = open_storage(deliver=deliver)
    waiter = Counted(setting("a"))
    storage.write_together([waiter])
    assert arrived.acquire(timeout=30)
    assert waiter.outcomes == []
    for call in delivered:
        call()
    assert waiter.outcomes == [("a", None)]
