"""A SQLite database moved to PostgreSQL: everything, checked, or nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mezite.core.model import LockKind
from mezite.errors import Conflict, StorageFailure
from mezite.storage.interface import Storage, Transaction
from mezite.storage.sqlite import SqliteStorage
from tests.harness import START, Auth, Machine
from tests.storage.making import make_bot, make_event, make_lock, read, write

pytest.importorskip("psycopg", reason="needs psycopg (pip install 'mezite[postgres]')")

from mezite.storage.moving import move
from mezite.storage.postgres import PostgresStorage

pytestmark = pytest.mark.postgres


@pytest.fixture
def params(postgres_server: Any) -> Any:
    with postgres_server.new_database() as config:
        yield {**postgres_server.local_params, "dbname": config["name"]}


def everything(storage: Storage) -> Any:
    def look(tx: Transaction) -> Any:
        return (
            dict(tx.counts()), tx.authorities(), tx.value("cluster_uuid"), tx.list_roles().items,
            tx.list_bots().items, tx.list_tokens().items, tx.list_instances().items, tx.all_locks(),
            tx.list_events(limit=1000), tx.admissions("tok-1"),
        )

    return read(storage, look)


def test_all_of_it_is_there_and_the_fleet_goes_on(tmp_path: Path, params: dict[str, str]) -> None:
    """Records, numbers and serials; a machine renews, and a token that was used stays so."""
    path = tmp_path / "mezite.db"
    auth = Auth(SqliteStorage(path))
    machine = Machine(auth)
    token = auth.add_token(auth.add_bot(ttl=timedelta(minutes=30), source_address=("192.0.2.0/24",)))
    machine.join(token)
    machine.renew()
    auth.lock(LockKind.LOGIN, "läuft", expires_at=START + timedelta(days=1))
    write(auth.storage, lambda tx: tx.add_event(make_event(message="wärum\n", fields={"odd": "\ud800'\"\\"})))
    before = everything(auth.storage)
    serials = [one.event.fields["serial"] for one in auth.events("user.cert.issued")]
    auth.close()

    moved = move(path, params)
    assert moved["instances"] == moved["bots"] == moved["admissions"] == 1
    assert moved["events"] == before[0]["events"]
    storage = PostgresStorage(params)
    try:
        assert everything(storage) == before
        auth.storage = storage
        assert machine.renew().generation == 3
        assert not write(storage, lambda tx: tx.use_token(token.id, START))
        newest = [one.event.fields["serial"] for one in auth.events("user.cert.issued")]
        assert max(serials) < newest[0]
        ids = [one.id for one in read(storage, lambda tx: tx.list_events(limit=1000))]
        assert ids == sorted(set(ids), reverse=True)
    finally:
        storage.close()


def test_a_target_with_anything_in_it_is_refused(tmp_path: Path, params: dict[str, str]) -> None:
    path = tmp_path / "mezite.db"
    source = SqliteStorage(path)
    write(source, lambda tx: tx.add_bot(make_bot()))
    source.close()
    target = PostgresStorage(params)
    write(target, lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "root")))
    with pytest.raises(Conflict, match="is not empty"):
        move(path, params)
    assert read(target, lambda tx: tx.list_bots().items) == ()
    target.close()


def test_a_move_that_had_ended_is_told_from_a_foreign_target(tmp_path: Path, params: dict[str, str]) -> None:
    """The program was killed after the commit, before it put the file away."""
    path = tmp_path / "mezite.db"
    auth = Auth(SqliteStorage(path))
    auth.close()
    move(path, params)
    with pytest.raises(Conflict, match="holds this cluster already"):
        move(path, params)
    assert path.exists()


def test_what_does_not_fit_moves_nothing(tmp_path: Path, params: dict[str, str]) -> None:
    """PostgreSQL's texts hold no NUL: told in one line, and the target is as empty as before."""
    path = tmp_path / "mezite.db"
    source = SqliteStorage(path)
    write(source, lambda tx: tx.add_bot(make_bot()))
    write(source, lambda tx: tx.add_event(make_event(message="nul \0 in it")))
    source.close()
    with pytest.raises(StorageFailure, match="nothing was moved") as caught:
        move(path, params)
    assert "\n" not in str(caught.value)
    target = PostgresStorage(params)
    assert read(target, lambda tx: (tx.list_bots().items, tx.counts()["events"])) == ((), 0)
    target.close()


def test_many_rows_pass_in_bounded_memory(tmp_path: Path, params: dict[str, str]) -> None:
    path = tmp_path / "mezite.db"
    source = SqliteStorage(path)

    def add(tx: Transaction) -> None:
        for number in range(5000):
            tx.add_event(make_event(name=f"bot-{number}"))

    write(source, add)
    source.close()
    assert move(path, params)["events"] == 5000
