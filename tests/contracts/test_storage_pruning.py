"""What every storage prunes, and what it leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mezite.core.model import LockKind
from mezite.storage.interface import Storage, Transaction
from tests.storage.making import (
    HOUR,
    NOW,
    make_admission,
    make_bot,
    make_event,
    make_instance,
    make_lock,
    make_token,
    read,
    write,
)


def test_stale_instances_are_found_and_pruned_with_all_that_is_theirs(storage: Storage) -> None:
    """Admission and locks go with the instance; one that is not stale is left, whoever names it."""
    write(storage, lambda tx: tx.add_bot(make_bot()))
    for name, more in (
        ("idle", {"renewed_at": NOW - HOUR}),
        ("removed", {"removed_at": NOW - HOUR}),
        ("lately-removed", {"renewed_at": NOW - HOUR, "removed_at": NOW}),
        ("living", {}),
    ):
        instance = make_instance(name, **more)
        admission = make_admission(key=f"key-{name}", instance_id=name)
        lock = make_lock(f"lock-{name}", LockKind.INSTANCE, name)
        write(storage, lambda tx, made=instance: tx.add_instance(made))
        write(storage, lambda tx, made=admission: tx.add_admission(made))
        write(storage, lambda tx, made=lock: tx.add_lock(made))
    past = {"removed_before": NOW, "renewed_before": NOW}
    assert read(storage, lambda tx: set(tx.stale_instances(**past, limit=10))) == {"idle", "removed"}
    assert read(storage, lambda tx: len(tx.stale_instances(**past, limit=1))) == 1
    topics: list[frozenset[str]] = []
    storage.subscribe(topics.append)
    names = ("idle", "removed", "lately-removed", "living", "nobody")
    pruned = write(storage, lambda tx: [name for name in names if tx.prune_instance(name, **past)])
    assert pruned == ["idle", "removed"]
    assert {"instances", "locks"} <= topics[0]
    for name in ("idle", "removed"):
        assert read(storage, lambda tx, name=name: tx.instance(name)) is None
        assert read(storage, lambda tx, name=name: tx.admission("tok-1", f"key-{name}")) is None
    left = {lock.id for lock in read(storage, lambda tx: tx.all_locks())}
    assert left == {"lock-lately-removed", "lock-living"}
    assert read(storage, lambda tx: tx.admission("tok-1", "key-living")) is not None


def test_a_removed_bot_is_pruned_when_nothing_refers_to_it(storage: Storage) -> None:
    """Its name may be another bot's by then, which is left."""
    for name in ("busy", "empty", "living"):
        write(storage, lambda tx, name=name: tx.add_bot(make_bot(name, id=f"bot-{name}")))
    write(storage, lambda tx: tx.add_instance(make_instance("one", bot_id="bot-busy")))
    for name in ("busy", "empty"):
        write(storage, lambda tx, name=name: tx.remove_bot(f"bot-{name}", NOW))
    write(storage, lambda tx: tx.add_bot(make_bot("empty", id="bot-again")))
    later = NOW + HOUR
    assert read(storage, lambda tx: tx.stale_bots(removed_before=NOW, limit=10)) == ()
    assert read(storage, lambda tx: tx.stale_bots(removed_before=later, limit=10)) == ("bot-empty",)
    names = ("bot-busy", "bot-living", "bot-empty", "bot-nobody")
    assert write(
        storage, lambda tx: [name for name in names if tx.prune_bot(name, removed_before=later)]
    ) == ["bot-empty"]
    bot = read(storage, lambda tx: tx.bot("empty"))
    assert (bot.id, bot.roles) == ("bot-again", make_bot().roles)


def test_tokens_locks_and_events_are_pruned_by_their_time(storage: Storage) -> None:
    write(storage, lambda tx: tx.add_bot(make_bot()))

    def fill(tx: Transaction) -> None:
        for number in range(3):
            tx.add_token(make_token(f"tok-{number}"))
            tx.add_event(make_event(at=NOW + number * HOUR))
        tx.add_lock(make_lock("ended", LockKind.LOGIN, "root", expires_at=NOW))
        tx.add_lock(make_lock("endless", LockKind.LOGIN, "root"))

    write(storage, fill)
    later = NOW + timedelta(days=1)
    assert write(storage, lambda tx: tx.prune_tokens(NOW + HOUR, 10)) == 0
    assert write(storage, lambda tx: tx.prune_tokens(later, 2)) == 2
    assert write(storage, lambda tx: tx.prune_tokens(later, 2)) == 1
    assert write(storage, lambda tx: tx.prune_locks(NOW, 10)) == 0
    assert write(storage, lambda tx: tx.prune_locks(later, 10)) == 1
    assert [lock.id for lock in read(storage, lambda tx: tx.all_locks())] == ["endless"]
    assert write(storage, lambda tx: tx.prune_events(NOW, 10)) == 0
    assert write(storage, lambda tx: tx.prune_events(NOW + HOUR, 10)) == 1
    assert write(storage, lambda tx: tx.prune_events(later, 10)) == 1
    assert [one.event.at for one in read(storage, lambda tx: tx.list_events())] == [NOW + 2 * HOUR]


@pytest.mark.parametrize("method", ["prune_tokens", "prune_locks", "prune_events"])
def test_nothing_is_pruned_from_nothing(storage: Storage, method: str) -> None:
    assert write(storage, lambda tx: getattr(tx, method)(NOW, 10)) == 0
