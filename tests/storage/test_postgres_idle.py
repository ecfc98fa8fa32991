"""A server of ours that stands still in the middle of a transaction, until PostgreSQL ends it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from mezite.core.request import Issued
from mezite.errors import NotFound
from mezite.storage.interface import Storage, Transaction
from tests.harness import Auth, Machine
from tests.storage.making import make_bot, read, write
from tests.system.processes import wait_for

psycopg = pytest.importorskip("psycopg", reason="needs psycopg (pip install 'mezite[postgres]')")

from mezite.storage.postgres import PostgresStorage  # noqa: E402
from mezite.storage.postgres_link import Server  # noqa: E402
from tests.postgres import Postgres  # noqa: E402
from tests.postgres_faults import PostgresFaults  # noqa: E402

pytestmark = pytest.mark.postgres

SHORTENED = b"set idle_in_transaction_session_timeout = 20"
"""In place of the five seconds, where a session is to end by it, and nowhere else."""


class Standing:
    """Connections of which one stands still until PostgreSQL has ended it: the one whose
    statement is the *at*th from now on, if it is in a transaction."""

    def __init__(self, server: Postgres) -> None:
        self.at: int | None = None
        self.stood = 0
        self._server = server
        standing = self

        class Connection(psycopg.Connection[Any]):
            def execute(self, query: Any, *values: Any, **options: Any) -> Any:
                standing.meet(self)
                return super().execute(query, *values, **options)

        self.connection_class = Connection

    def meet(self, connection: Any) -> None:
        if self.at is None:
            return
        self.at -= 1
        if self.at < 0:
            self.at = None
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                connection.pgconn.exec_(SHORTENED)
                self.until_ended(connection.info.backend_pid)

    def until_ended(self, pid: int) -> None:
        with self._server.superuser() as other:
            there = "select 1 from pg_stat_activity where pid = %s"
            wait_for(lambda: other.execute(there, (pid,)).fetchone() is None, "end by the server")
        self.stood += 1


@pytest.fixture
def standing(postgres_server: Postgres) -> Standing:
    postgres_server.empty()
    return Standing(postgres_server)


@pytest.fixture
def storage(
    postgres_server: Postgres, standing: Standing, caplog: pytest.LogCaptureFixture
) -> Iterator[Storage]:
    """In the end nobody has been warned of anything."""
    made = PostgresStorage(
        postgres_server.local_params, connection_class=standing.connection_class, writers=1
    )
    made.write(lambda tx: tx.next_serial(), concurrent=True).result(60)  # it has its connections now
    yield made
    made.close()
    told = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told] == []


def test_a_session_that_stands_still_in_a_transaction_ends_soon(postgres_server: Postgres) -> None:
    """Whoever waits for its rows waits no longer; PostgreSQL's own default is for ever."""
    with Server(postgres_server.local_params).connect() as connection:
        assert connection.execute("show idle_in_transaction_session_timeout").fetchone() == ("5s",)


@pytest.mark.parametrize("concurrent", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("statements", [0, 1], ids=["before the commit", "before a statement"])
def test_a_use_case_that_stands_still_is_run_again(
    storage: Storage, standing: Standing, statements: int, concurrent: bool
) -> None:
    """Nothing was done, also where COMMIT was next, so it is done once, and nobody hears of it."""
    runs: list[str] = []

    def use_case(tx: Transaction) -> None:
        tx.set_value(f"run {len(runs)}", b"")
        if not runs:
            standing.at = 0
        runs.append("run")
        for number in range(statements):
            tx.set_value(f"after {number}", b"")

    assert storage.write(use_case, concurrent=concurrent).exception(60) is None
    assert (len(runs), standing.stood) == (2, 1)
    assert read(storage, lambda tx: [tx.value("run 0"), tx.value("run 1")]) == [None, b""]


def test_a_use_case_that_raises_after_it_stood_still_is_told_what_it_raised(
    storage: Storage, standing: Standing
) -> None:
    """There is no transaction left to be rolled back."""
    error = NotFound("none such")

    def use_case(tx: Transaction) -> None:
        tx.add_bot(make_bot())
        standing.at = 0  # that statement is the rollback
        raise error

    assert storage.write(use_case, concurrent=True).exception(60) is error
    assert standing.stood == 1
    assert read(storage, lambda tx: tx.list_bots().items) == ()


def test_wherever_it_stands_still_machines_are_answered_rightly(storage: Storage, standing: Standing) -> None:
    """At each statement of a join and of a renewal in turn: each machine has its next generation,
    nobody is taken for a thief, and no certificate is in the audit log that was not given out."""
    auth = Auth(storage)
    bot = auth.add_bot()
    machines = []
    for statement in count():
        machine, token = Machine(auth), auth.add_token(bot)
        stood, standing.at = standing.stood, statement
        machine.join(token)
        machines.append(machine)
        if standing.at is not None:
            break  # it had no more statements
        assert standing.stood == stood + (statement > 0)
    assert statement > 5
    machine, standing.at = machines[0], None
    for statement in count():
        stood, standing.at = standing.stood, statement
        outcome = machine.try_renew()
        assert isinstance(outcome, Issued)
        assert outcome.generation == statement + 2
        machine.accept(outcome)
        if standing.at is not None:
            break
        assert standing.stood == stood + (statement > 0)
    assert statement > 4
    standing.at = None
    assert auth.locks() == ()
    assert len(auth.events("instance.joined")) == len(machines)
    given = [event.event.fields["generation"] for event in auth.events("user.cert.issued")
             if event.event.resource_name == machine.instance_id]
    assert sorted(given) == list(range(1, machine.generation + 1))


@pytest.mark.parametrize("statement", ["begin", "insert into bots", "commit"])
def test_what_the_server_says_of_it_is_enough(postgres_server: Postgres, statement: str) -> None:
    """Before the connection is seen to be closed."""
    postgres_server.empty()
    faults = PostgresFaults()
    storage = PostgresStorage(postgres_server.local_params, connection_class=faults.connection_class)
    try:
        faults.fail(statement, kind=psycopg.errors.IdleInTransactionSessionTimeout)
        write(storage, lambda tx: tx.add_bot(make_bot()))
        assert not faults.pending
        assert read(storage, lambda tx: len(tx.list_bots().items)) == 1
    finally:
        storage.close()


def test_a_connection_that_does_not_roll_back_is_given_up(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is open in it is not committed with what comes next."""
    postgres_server.empty()
    faults = PostgresFaults()
    storage = PostgresStorage(
        postgres_server.local_params, connection_class=faults.connection_class, writers=1
    )

    def fail(tx: Transaction) -> None:
        tx.add_bot(make_bot())
        faults.fail("rollback", kind=psycopg.errors.QueryCanceled)
        raise NotFound("none such")

    try:
        assert isinstance(storage.write(fail, concurrent=True).exception(60), NotFound)
        assert storage.write(lambda tx: tx.set_value("a", b""), concurrent=True).exception(60) is None
        assert read(storage, lambda tx: tx.list_bots().items) == ()
    finally:
        storage.close()
    assert "rollback failed" in caplog.text
