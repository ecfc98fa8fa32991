"""What every storage does with serials that begin anew, and with voided tokens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mezite.errors import StorageFailure
from mezite.storage.interface import Storage, Transaction
from tests.storage.making import HOUR, NOW, make_bot, make_token, read, write


def serial(storage: Storage) -> int:
    return write(storage, lambda tx: tx.next_serial())


def test_serials_rise_to_a_floor_and_go_on_from_it(storage: Storage) -> None:
    first = serial(storage)
    write(storage, lambda tx: tx.raise_serials(10_000))
    assert serial(storage) == 10_000
    rest = [serial(storage) for _ in range(250)]
    assert rest == list(range(10_001, 10_251))
    assert first < 10_000


def test_a_floor_below_changes_nothing(storage: Storage) -> None:
    write(storage, lambda tx: tx.raise_serials(10_000))
    last = serial(storage)
    write(storage, lambda tx: tx.raise_serials(500))
    assert serial(storage) == last + 1


def test_a_floor_that_was_rolled_back_makes_a_gap_at_most(storage: Storage) -> None:
    """Serials still rise and never repeat."""

    def fail(tx: Transaction) -> None:
        tx.raise_serials(10_000)
        tx.next_serial()
        raise ValueError("undone")

    seen = [serial(storage) for _ in range(3)]
    with pytest.raises(ValueError, match="undone"):
        write(storage, fail)
    seen += [serial(storage) for _ in range(300)]
    assert seen == sorted(set(seen))


def test_a_snapshot_raises_nothing(storage: Storage) -> None:
    with pytest.raises(StorageFailure):
        read(storage, lambda tx: tx.raise_serials(10))


def test_a_token_is_voided_once(storage: Storage) -> None:
    write(storage, lambda tx: tx.add_bot(make_bot()))
    write(storage, lambda tx: tx.add_token(make_token()))
    assert write(storage, lambda tx: tx.void_token("tok-1", NOW + HOUR))
    assert not write(storage, lambda tx: tx.void_token("tok-1", NOW + timedelta(days=1)))
    assert not write(storage, lambda tx: tx.void_token("tok-2", NOW))
    assert read(storage, lambda tx: tx.token("tok-1")).revoked_at == NOW + HOUR
