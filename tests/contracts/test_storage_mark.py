"""How far a database has come: told after each commit, and before anybody hears of it."""

from __future__ import annotations

import pytest

from mezite.storage.interface import Transaction
from tests.contracts.conftest import OpenStorage
from tests.storage.making import make_event, write


def add(tx: Transaction) -> int:
    tx.add_event(make_event())
    return tx.newest_event()


def test_a_commit_is_told_before_its_future_resolves_and_what_was_undone_never(
    open_storage: OpenStorage,
) -> None:
    told: list[int] = []
    storage = open_storage(committed=lambda newest, serials: told.append(newest))
    seen: list[int] = []
    for concurrent in (True, False):
        future = storage.write(add, concurrent=concurrent)
        future.add_done_callback(lambda done: seen.append(told[-1] - done.result()))
        future.result(10)

    def fail(tx: Transaction) -> None:
        add(tx)
        raise ValueError("undone")

    before = told[-1]
    # One batch, where the storage has batches.
    first, failing, last = (storage.write(one, concurrent=True) for one in (add, fail, add))
    with pytest.raises(ValueError, match="undone"):
        failing.result(10)
    assert seen == [0, 0]
    # Two writers may tell in another order than they commit: the highest counts.
    assert before < min(first.result(10), last.result(10))
    assert max(first.result(10), last.result(10)) == max(told)
    assert max(told) == write(storage, lambda tx: tx.newest_event())


def test_an_event_is_numbered_above_what_is_asked_and_so_are_those_after_it(
    open_storage: OpenStorage,
) -> None:
    storage = open_storage()
    write(storage, add)
    write(storage, lambda tx: tx.add_event(make_event(), above=5000))
    assert write(storage, lambda tx: tx.newest_event()) == 5001
    assert write(storage, add) > 5001
    write(storage, lambda tx: tx.add_event(make_event(), above=7))
    assert write(storage, add) > 5003
