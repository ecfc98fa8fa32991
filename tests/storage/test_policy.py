"""What one process holds in memory, while another changes the same database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mezite.core.model import LockKind
from mezite.storage import sql
from mezite.storage.interface import Storage, Transaction
from mezite.storage.sqlite import SqliteStorage
from tests.contracts.test_storage_policy import seen, stored
from tests.storage.making import NOW, make_bot, make_lock, make_role, write
from tests.storage_faults import Faults


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Storage, Storage]]:
    """Two storages on one file, as two processes have them; the first holds everything."""
    first, second = (SqliteStorage(tmp_path / "mezite.db") for _ in range(2))
    write(first, lambda tx: (tx.put_role(make_role()), tx.add_bot(make_bot())))
    write(first, seen)
    yield first, second
    first.close()
    second.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda tx: tx.add_lock(make_lock("l", LockKind.BOT, "ci")),
        lambda tx: tx.add_lock(make_lock("l", LockKind.ROLE, "deploy")),
        lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "root")),
        lambda tx: tx.put_role(make_role("deploy", max_session_ttl="7h")),
        lambda tx: tx.delete_role("deploy"),
        lambda tx: tx.remove_bot("bot-ci", NOW),
    ],
    ids=["bot lock", "role lock", "login lock", "role", "no role", "no bot"],
)
def test_the_next_transaction_sees_what_another_process_changed(
    two: tuple[Storage, Storage], change: Callable[[Transaction], Any]
) -> None:
    """At once, without being told; and the same when it is taken back."""
    first, second = two
    before = write(first, seen)
    write(second, change)
    after = write(first, seen)
    assert after != before
    assert after == write(first, stored) == write(second, seen)


def test_each_sees_the_changes_of_both(two: tuple[Storage, Storage]) -> None:
    """Their numbers do not clash: they are counted in the database."""
    for number in range(6):
        changing = two[number % 2]
        write(changing, lambda tx, n=number: tx.add_lock(make_lock(f"l{n}", LockKind.LOGIN, "root")))
        assert write(two[0], seen) == write(two[1], seen) == write(two[0], stored)


def test_a_renewals_reads_are_answered_from_memory(tmp_path: Path) -> None:
    """All but the number of the last change."""
    faults = Faults()
    storage = SqliteStorage(tmp_path / "mezite.db", connection_class=faults.connection_class)
    write(storage, lambda tx: (tx.put_role(make_role()), tx.add_bot(make_bot())))
    write(storage, seen)
    faults.statements.clear()
    write(storage, seen)
    storage.close()
    selects = [text for text in faults.statements if text.startswith("select")]
    assert selects == [sql.POLICY_VERSION]
