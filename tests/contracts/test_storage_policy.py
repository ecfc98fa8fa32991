"""Bots, roles and locks may be held in memory; nobody can tell."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mezite.core.model import LockKind, LockTarget
from mezite.errors import Conflict, NotFound, StorageFailure
from mezite.storage import policy
from mezite.storage.interface import Storage, Transaction
from tests.contracts.conftest import OpenStorage
from tests.storage.making import NOW, held, make_bot, make_instance, make_lock, make_role, write
from tests.storage_faults import Faults

TARGETS = [
    LockTarget(LockKind.BOT, "ci"),
    LockTarget(LockKind.ROLE, "deploy"),
    LockTarget(LockKind.LOGIN, "root"),
    LockTarget(LockKind.INSTANCE, "inst-1"),
]
Seen = tuple[object, object, object]


def seen(tx: Transaction) -> Seen:
    """By the calls that may answer from memory."""
    return tx.bot_by_id("bot-ci"), dict(tx.roles(["deploy", "absent"])), tx.locks_on(TARGETS)


def stored(tx: Transaction) -> Seen:
    """By the calls that never do."""
    role = tx.role("deploy")
    locks = tuple(lock for lock in tx.all_locks() if lock.target in TARGETS)
    return tx.bot("ci"), {"deploy": role} if role else {}, locks


def changes(chance: random.Random) -> list[Callable[[Transaction], Any]]:
    """Each makes something or takes it away; an id that is taken makes it raise."""
    number = str(chance.randrange(3))
    target = chance.choice(TARGETS)
    return [
        lambda tx: tx.put_role(make_role("deploy", max_session_ttl=f"{number}h30m")),
        lambda tx: tx.delete_role("deploy"),
        lambda tx: tx.add_bot(make_bot()),
        lambda tx: tx.remove_bot("bot-ci", NOW),
        lambda tx: tx.add_lock(make_lock(f"lock-{number}", target.kind, target.value)),
        lambda tx: tx.delete_lock(f"lock-{number}"),
        lambda tx: tx.prune_locks(NOW, 100),
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [policy.MOST_INSTANCE_LOCKS, 0])
def test_what_is_seen_is_what_is_stored(
    storage: Storage, seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any change, within the transaction that makes it and after it, and
    after one that was undone."""
    monkeypatch.setattr(policy, "MOST_INSTANCE_LOCKS", most)
    chance = random.Random(seed)

    def act(tx: Transaction) -> None:
        for change in chance.sample(changes(chance), 2):
            assert seen(tx) == stored(tx)
            change(tx)
            assert seen(tx) == stored(tx)
        if chance.random() < 0.3:
            raise NotFound("undone")

    for _ in range(40):
        with held(storage):
            futures = [storage.write(act) for _ in range(chance.randrange(1, 4))]
            futures.append(storage.write(lambda tx: None))
        for future in futures:
            assert isinstance(future.exception(30), NotFound | Conflict | type(None))
        assert write(storage, lambda tx: (seen(tx) == stored(tx), True)) == (True, True)


def test_a_commit_that_failed_leaves_nothing_in_memory(open_storage: OpenStorage, faults: Faults) -> None:
    """Not the lock that was seen in it, nor the number of that change, which the next one gets."""
    storage = open_storage(connection_class=faults.connection_class)
    write(storage, lambda tx: (tx.put_role(make_role()), tx.add_bot(make_bot())))
    faults.fail("commit")
    lost = storage.write(lambda tx: (tx.add_lock(make_lock("a", LockKind.BOT, "ci")), seen(tx)))
    assert isinstance(lost.exception(30), StorageFailure)
    write(storage, lambda tx: tx.add_lock(make_lock("b", LockKind.ROLE, "deploy")))
    assert write(storage, seen) == write(storage, stored)


def test_locks_of_many_instances_are_not_held(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read, so that memory does not grow with the fleet, and none is missed."""
    monkeypatch.setattr(policy, "MOST_INSTANCE_LOCKS", 3)
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(make_instance())))
    assert write(storage, lambda tx: tx.locks_on(TARGETS)) == ()
    lock, on_bot = make_lock("l", LockKind.INSTANCE, "inst-1"), make_lock("m", LockKind.BOT, "ci")
    write(storage, lambda tx: (tx.add_lock(lock), tx.add_lock(on_bot)))
    for number in range(5):
        other = make_lock(f"other-{number}", LockKind.INSTANCE, f"inst-{number + 2}")
        write(storage, lambda tx, other=other: tx.add_lock(other))  # type: ignore[misc]  # bound now
        assert write(storage, lambda tx: tx.locks_on(TARGETS)) == (lock, on_bot)
