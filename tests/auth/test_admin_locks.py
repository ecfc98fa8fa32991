"""Locks: what operators do with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mezite.auth import admin_locks
from mezite.auth.context import Operator
from mezite.core.model import Lock, LockKind, LockTarget
from mezite.errors import Conflict, InvalidInput, NotFound
from tests.harness import START, Auth, Machine

ANN = Operator(1000, "ann")


def add(auth: Auth, kind: str, value: str, **settings: Any) -> Lock:
    target = LockTarget.from_text(kind, value)
    return auth.write(lambda tx: admin_locks.add_lock(auth.context, tx, ANN, target, **settings))


def test_everything_that_exists_can_be_locked(auth: Auth, machine: Machine) -> None:
    for kind, value in [
        ("bot", "github-deploy"), ("instance", machine.instance_id), ("role", "ci-deployer"),
        ("login", "deploy"), ("node", "web-1"),
    ]:
        lock = add(auth, kind, value, message="drill", ttl=timedelta(hours=1))
        assert lock == auth.write(lambda tx, lock=lock: tx.lock(lock.id))
        assert (str(lock.target), lock.reason, lock.created_by) == (
            f"{kind}/{value}", "operator", "uid:1000(ann)"
        )
        assert lock.expires_at == START + timedelta(hours=1)
    assert len(auth.events("lock.created")) == 5


MISTYPED = [
    ("bot", "github-deply", NotFound, "there is no bot 'github-deply'"),
    ("instance", "0b8f", NotFound, "there is no instance '0b8f'"),
    ("role", "ci", NotFound, "there is no role 'ci'"),
    ("login", "de ploy", InvalidInput, "login: 'de ploy' is not a login name"),
    ("node", "a/b", InvalidInput, "node: 'a/b' is not a name"),
]


@pytest.mark.parametrize(("kind", "value", "error", "told"), MISTYPED)
def test_a_lock_that_would_protect_nobody_is_refused(
    auth: Auth, kind: str, value: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        add(auth, kind, value)
    assert auth.locks() == ()


LASTING = [
    (None, None, 1),
    (None, timedelta(hours=1), 1),
    (timedelta(hours=1), timedelta(minutes=30), 1),
    (timedelta(hours=1), timedelta(hours=2), 2),
    (timedelta(hours=1), None, 2),
]


@pytest.mark.parametrize(("first", "second", "count"), LASTING)
def test_a_lock_is_added_when_none_lasts_as_long(
    auth: Auth, first: timedelta | None, second: timedelta | None, count: int
) -> None:
    add(auth, "login", "deploy", ttl=first)
    add(auth, "login", "deploy", ttl=second)
    assert len(auth.locks()) == count


def test_ended_locks_are_listed_only_when_asked_for(auth: Auth) -> None:
    brief = add(auth, "login", "deploy", ttl=timedelta(minutes=1))
    lasting = add(auth, "login", "root")
    auth.advance(minutes=1)
    assert auth.write(lambda tx: admin_locks.list_locks(auth.context, tx, "", 10)).items == (lasting,)
    everything = auth.write(lambda tx: admin_locks.list_locks(auth.context, tx, "", 10, ended=True)).items
    assert set(everything) == {brief, lasting}


def test_a_lock_is_removed_by_its_id(auth: Auth) -> None:
    lock = add(auth, "login", "deploy")
    assert auth.write(lambda tx: admin_locks.remove_lock(auth.context, tx, ANN, lock.id)) == lock
    assert auth.locks() == ()
    (stored,) = auth.events("lock.deleted")
    assert stored.event.fields == {"target": "login/deploy", "lock_reason": "operator"}
    with pytest.raises(NotFound, match=f"there is no lock '{lock.id}'"):
        auth.write(lambda tx: admin_locks.remove_lock(auth.context, tx, ANN, lock.id))


def test_unlocking_takes_every_operators_lock(auth: Auth) -> None:
    add(auth, "login", "deploy", ttl=timedelta(hours=1))
    add(auth, "login", "deploy")
    target = LockTarget(LockKind.LOGIN, "deploy")
    gone = auth.write(lambda tx: admin_locks.unlock(auth.context, tx, ANN, target))
    assert len(gone) == 2
    with pytest.raises(Conflict, match="login deploy is not locked"):
        auth.write(lambda tx: admin_locks.unlock(auth.context, tx, ANN, target))
