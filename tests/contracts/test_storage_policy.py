"""Bots, roles and locks may be held in memory; nobody can tell."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mezite.core.model import LockKind, LockTarget
from mezite.errors import Conflict, NotFound, StorageFailure
from mezite.storage.interface import Storage, Transaction
from mezite.storage.policy import MOST_INSTANCE_LOCKS
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


def lock_others(tx: Transaction, count: int) -> None:
    """Locks on instances that nobody asks for."""
    for number in range(count):
        tx.add_lock(make_lock(f"other-{number}", LockKind.INSTANCE, f"other-{number}"))


@pytest.mark.parametrize(
    ("seed", "others"), [*((seed, 0) for seed in range(4)), (4, MOST_INSTANCE_LOCKS + 1)]
)
def test_what_is_seen_is_what_is_stored(storage: Storage, seed: int, others: int) -> None:
    """After any change, within the transaction that makes it and after it, and
    after one that was undone."""
    chance = random.Random(seed)
    write(storage, lambda tx: lock_others(tx, others))

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


@pytest.mark.parametrize("others", [0, MOST_INSTANCE_LOCKS - 2, MOST_INSTANCE_LOCKS - 1, MOST_INSTANCE_LOCKS])
def test_no_lock_on_an_instance_is_missed(storage: Storage, others: int) -> None:
    """Held, or read each time where there are too many to be held: before the last
    lock there are as many as are held, one less or one more."""
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(make_instance())))
    assert write(storage, lambda tx: tx.locks_on(TARGETS)) == ()
    lock, on_bot = make_lock("l", LockKind.INSTANCE, "inst-1"), make_lock("m", LockKind.BOT, "ci")
    write(storage, lambda tx: (tx.add_lock(lock), tx.add_lock(on_bot), lock_others(tx, others)))
    assert write(storage, lambda tx: tx.locks_on(TARGETS)) == (lock, on_bot)
    write(storage, lambda tx: tx.add_lock(make_lock("z", LockKind.INSTANCE, "one-more")))
    assert write(storage, lambda tx: tx.locks_on(TARGETS)) == (lock, on_bot)
    write(storage, lambda tx: tx.delete_lock("l"))
    assert write(storage, lambda tx: tx.locks_on(TARGETS)) == (on_bot,)
