"""What becomes of use cases when PostgreSQL, or the way to it, fails: with a real server."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from mezite.core.model import LockKind
from mezite.core.request import Issued
from mezite.errors import StorageFailure
from mezite.storage.interface import Storage, Transaction
from mezite.storage.jobs import Job
from mezite.storage.sql import ADD_INSTANCE
from tests.harness import Auth, Machine
from tests.storage.making import make_bot, make_event, make_instance, make_lock, read, write
from tests.system.processes import wait_for

psycopg = pytest.importorskip("psycopg", reason="needs psycopg (pip install 'mezite[postgres]')")

from mezite.storage.postgres import PostgresStorage  # noqa: E402
from mezite.storage.postgres_link import Unknown  # noqa: E402
from mezite.storage.postgres_worker import Queued  # noqa: E402
from tests.postgres import MISSING, PASSWORD, Postgres, binaries  # noqa: E402
from tests.postgres_faults import PostgresFaults  # noqa: E402

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(postgres_server: Postgres) -> Postgres:
    """The one of the whole run, empty."""
    postgres_server.empty()
    return postgres_server


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """One that a test may do harm to."""
    if binaries() is None:
        pytest.skip(MISSING)
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def faults() -> PostgresFaults:
    return PostgresFaults()


@pytest.fixture
def storage(server: Postgres, faults: PostgresFaults) -> Iterator[Storage]:
    made = PostgresStorage(server.local_params, connection_class=faults.connection_class)
    yield made
    made.close()


def adding(key: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.set_value(key, b"set")


def sever(server: Postgres, query: str = "%", state: str = "%") -> int:
    """Connections in *state* whose last statement is like *query* are ended by the server; how many."""
    with server.superuser() as connection:
        return connection.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = 'mezite' and query like %s and state like %s", (query, state)
        ).fetchone()[0]


def test_numbers_of_events_that_others_have_drawn_are_not_given_again(
    server: Postgres, storage: Storage
) -> None:
    """Where a mark asks for fewer: those who drew them have yet to commit."""
    write(storage, lambda tx: tx.add_event(make_event()))
    with server.superuser("mezite") as connection:
        drawn = connection.execute(
            "select nextval(pg_get_serial_sequence('events', 'id')) from generate_series(1, 9)"
        ).fetchall()[-1][0]
    write(storage, lambda tx: tx.add_event(make_event(), above=drawn - 4))
    assert read(storage, lambda tx: tx.newest_event()) == drawn + 1


# --- clashes --------------------------------------------------------------------------------


CLASHES = [
    psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
]


@pytest.mark.parametrize("kind", CLASHES)
@pytest.mark.parametrize("statement", ["insert into bots", "commit"])
def test_a_clash_is_tried_again(
    storage: Storage, faults: PostgresFaults, kind: Any, statement: str
) -> None:
    """Nobody hears of it, and nothing is done twice."""
    faults.fail(statement, kind=kind, times=3)
    write(storage, lambda tx: tx.add_bot(make_bot()))
    assert not faults.pending
    assert read(storage, lambda tx: len(tx.list_bots().items)) == 1


def test_clashes_without_end_are_told(storage: Storage, faults: PostgresFaults) -> None:
    """After some tries, in one line."""
    faults.fail("insert into bots", kind=psycopg.errors.DeadlockDetected, times=100)
    error = storage.write(lambda tx: tx.add_bot(make_bot())).exception(30)
    assert isinstance(error, StorageFailure)
    assert "others write the same" in str(error)
    faults.heal()
    write(storage, lambda tx: tx.add_bot(make_bot()))


def test_a_statement_that_takes_too_long_takes_no_others_with_it(storage: Storage) -> None:
    """Those that share its transaction are done."""
    begun, go = threading.Event(), threading.Event()

    def first(tx: Transaction) -> None:
        begun.set()
        go.wait(60)
        tx.set_value("first", b"set")

    def slow(tx: Transaction) -> None:
        statements = tx._statements  # type: ignore[attr-defined]
        statements.select("select set_config('statement_timeout', '20', true)")
        statements.select("select pg_sleep(60)")

    futures = [storage.write(first)]
    begun.wait(60)
    futures += [storage.write(slow), storage.write(adding("last"))]
    go.set()
    assert [future.exception(60) for future in futures[::2]] == [None, None]
    assert "takes too long" in str(futures[1].exception(60))
    assert read(storage, lambda tx: (tx.value("first"), tx.value("last"))) == (b"set", b"set")


def test_a_use_case_that_is_to_run_again_is_not_put_behind_the_end(storage: Storage) -> None:
    """Nobody would take it there, and who waits for it would wait for ever."""
    queue, job = SimpleQueue[Queued | None](), Queued(Job(adding("a"), is_reading=False))
    assert isinstance(storage, PostgresStorage)
    assert storage.put_again(queue, job)
    assert queue.get() is job
    storage.close()
    assert not storage.put_again(queue, job)
    assert queue.empty()


def test_rights_that_were_taken_away_are_told_and_given_back(own_server: Postgres) -> None:
    """Without a word of the values, which are not at fault."""
    storage = PostgresStorage(own_server.params)
    try:
        write(storage, adding("a"))
        with own_server.superuser(own_server.params["dbname"]) as connection:
            connection.execute("revoke all on cluster_values from mezite")
            error = storage.write(adding("b")).exception(30)
            assert isinstance(error, StorageFailure)
            assert "permission denied" in str(error)
            assert "give the account back the rights" in str(error)
            connection.execute("grant all on cluster_values to mezite")
        write(storage, adding("b"))
    finally:
        storage.close()


def test_use_cases_that_lock_in_opposite_orders_are_all_done(server: Postgres) -> None:
    """A real deadlock between two servers: neither is told of it."""
    one, two = (PostgresStorage(server.local_params) for _ in range(2))
    try:
        write(one, lambda tx: [tx.add_bot(make_bot(name)) for name in "ab"] and None)
        meet = threading.Barrier(2, timeout=60)
        met: set[str] = set()

        def remove(first: str, second: str) -> Callable[[Transaction], None]:
            def use_case(tx: Transaction) -> None:
                tx.remove_bot(f"bot-{first}", make_bot().created_at)
                if first not in met:
                    met.add(first)
                    meet.wait()
                tx.remove_bot(f"bot-{second}", make_bot().created_at)

            return use_case

        futures = [
            one.write(remove("a", "b"), concurrent=True), two.write(remove("b", "a"), concurrent=True)
        ]
        assert [future.result(60) for future in futures] == [None, None]
        assert read(one, lambda tx: tx.list_bots().items) == ()
    finally:
        one.close()
        two.close()


def test_whoever_waits_for_a_row_holds_up_no_others(server: Postgres, storage: Storage) -> None:
    """All connections wait for one row that somebody else keeps locked: the rest is
    answered meanwhile, and they as soon as it is free."""
    write(storage, lambda tx: tx.add_bot(make_bot()))
    with psycopg.connect(**server.local_params) as other:
        other.execute("select 1 from bots for update")
        waiting = [
            storage.write(lambda tx: tx.remove_bot("bot-ci", make_bot().created_at), concurrent=True)
            for _ in range(8)
        ]
        wait_for(lambda: is_waiting(server), "wait for the row")
        rest: list[Future[Any]] = [
            storage.write(adding(str(number)), concurrent=True) for number in range(20)
        ]
        for future in rest:
            future.result(30)
        assert not any(future.done() for future in waiting)
    assert sorted(future.result(30) for future in waiting) == [False] * 7 + [True]


def is_waiting(server: Postgres) -> bool:
    with server.superuser() as connection:
        return bool(connection.execute(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
        ).fetchone())


# --- connections ----------------------------------------------------------------------------


def test_severed_connections_are_made_anew_and_nobody_hears_of_it(server: Postgres, storage: Storage) -> None:
    for number in range(3):
        assert sever(server) >= 1
        write(storage, adding(f"alone{number}"))
        storage.write(adding(f"beside{number}"), concurrent=True).result(30)
        assert read(storage, lambda tx: tx.value("alone0")) == b"set"
        assert write(storage, lambda tx: tx.next_serial()) > 0


def test_a_batch_that_is_cut_off_is_run_again(server: Postgres, storage: Storage) -> None:
    """Before its commit nothing is done: each use case runs once more, and is done once."""
    severed: list[int] = []

    def use_case(tx: Transaction) -> None:
        tx.add_bot(make_bot())
        if not severed:
            severed.append(sever(server, state="idle in transaction"))

    assert storage.write(use_case, concurrent=True).result(30) is None
    assert severed[0] >= 1
    assert read(storage, lambda tx: len(tx.list_bots().items)) == 1


class CutAtCommit(PostgresFaults):
    """The next commit's connection goes, before or after the server has carried it out."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = ""
        cuts = self

        class Connection(psycopg.Connection[Any]):
            def execute(self, query: Any, *values: Any, **options: Any) -> Any:
                when = cuts.cut
                if query != "commit" or not when:
                    return super().execute(query, *values, **options)
                cuts.cut = ""
                if when == "after":
                    super().execute(query, *values, **options)
                self.pgconn.finish()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        self.connection_class = Connection


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_is_cut_off_loses_and_forks_nothing(server: Postgres, when: str) -> None:
    """Nobody knows whether it is done, so the machine is told so; it asks again, with the
    same keys, and has its next generation, whichever it was."""
    cuts = CutAtCommit()
    auth = Auth(PostgresStorage(server.local_params, connection_class=cuts.connection_class))
    try:
        machine, token = Machine(auth), auth.add_token(auth.add_bot())
        auth.write(lambda tx: tx.next_serial())  # so that no block of them is to be committed first
        cuts.cut = when
        with pytest.raises(Unknown, match="whether it was done is not known"):
            auth.join(*machine.join_request(token))
        assert machine.join(token).generation == 1
        cuts.cut = when
        with pytest.raises(Unknown):
            machine.try_renew()
        assert machine.renew().generation == 2
        assert machine.renew().generation == 3
        assert auth.locks() == ()
        assert auth.write(lambda tx: tx.counts()["instances"]) == 1
    finally:
        auth.close()


def test_a_read_that_is_cut_off_is_run_again(server: Postgres) -> None:
    """There is nothing in it that could be done twice."""
    cuts = CutAtCommit()
    storage = PostgresStorage(server.local_params, connection_class=cuts.connection_class)
    try:
        cuts.cut = "before"
        assert read(storage, lambda tx: tx.value("none")) is None
        assert cuts.cut == ""
    finally:
        storage.close()


def test_topics_of_a_commit_that_is_cut_off_are_told(server: Postgres) -> None:
    """It may have been committed: what is cached is read again."""
    cuts = CutAtCommit()
    storage = PostgresStorage(server.local_params, connection_class=cuts.connection_class)
    try:
        told: list[frozenset[str]] = []
        storage.subscribe(told.append)
        cuts.cut = "after"
        future = storage.write(lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "root")))
        assert isinstance(future.exception(30), Unknown)
        assert told == [frozenset({"locks"})]
    finally:
        storage.close()


def test_a_listener_that_was_cut_off_takes_everything_as_changed(server: Postgres, storage: Storage) -> None:
    """And then hears again."""
    told: list[frozenset[str]] = []
    storage.subscribe(told.append)
    assert sever(server, "listen%") + sever(server, "select 1") >= 1
    wait_for(lambda: len(told) >= 2, "told of everything, when it went and when it came back")
    assert all({"roles", "locks", "authorities"} <= topics for topics in told)
    told.clear()
    other = PostgresStorage(server.local_params)
    write(other, lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "root")))
    wait_for(lambda: frozenset({"locks"}) in told, "notification")
    other.close()


def test_what_comes_while_the_listener_proves_itself_is_heard(server: Postgres) -> None:
    """The answer to its own statement and the notification arrive as one."""
    armed: list[Storage] = []

    class Meeting(psycopg.Connection[Any]):
        def execute(self, query: Any, *values: Any, **options: Any) -> Any:
            if query == "select 1" and armed:
                write(armed.pop(), lambda tx: tx.add_lock(make_lock("l", LockKind.LOGIN, "root")))
            return super().execute(query, *values, **options)

    other = PostgresStorage(server.local_params)
    hearing = PostgresStorage(server.local_params, connection_class=Meeting)
    try:
        told: list[frozenset[str]] = []
        hearing.subscribe(told.append)
        armed.append(other)
        wait_for(lambda: told, "notification")
        assert told == [frozenset({"locks"})]
    finally:
        hearing.close()
        other.close()


def test_closing_while_the_listener_waits_to_connect_again_is_clean(own_server: Postgres) -> None:
    """Also where so many files are open that select(2) would not do."""
    many = 1100 if resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1300 else 0
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(many)]
    try:
        storage = PostgresStorage(own_server.params)
        told: list[frozenset[str]] = []
        storage.subscribe(told.append)
        own_server.stop(signal.SIGKILL)
        wait_for(lambda: told, "told of everything")
        storage.close()
        storage.close()
    finally:
        for descriptor in held:
            os.close(descriptor)


# --- the server goes ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
def test_a_server_that_is_killed_and_comes_back_has_all_that_was_told(
    own_server: Postgres, number: signal.Signals
) -> None:
    """While it is away everything fails in one line, soon; nothing acknowledged is lost."""
    storage = PostgresStorage(own_server.params)
    acknowledged: list[str] = []
    stopping = threading.Event()

    def run(thread: int) -> None:
        count = 0
        while not stopping.is_set():
            count += 1
            key = f"{thread}-{count}"
            if storage.write(adding(key), concurrent=True).exception(30) is None:
                acknowledged.append(key)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(acknowledged) > 50, "writes")
        own_server.stop(number)
        error = storage.write(adding("away")).exception(30)
        assert isinstance(error, StorageFailure)
        assert f"127.0.0.1:{own_server.port}" in str(error)
        assert PASSWORD not in str(error)
        own_server.start()
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 50, "writes after it came back")
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
    try:
        assert read(storage, lambda tx: [key for key in acknowledged if tx.value(key) is None]) == []
    finally:
        storage.close()


def test_a_promoted_standby_goes_on_with_all_that_was_told(own_server: Postgres) -> None:
    """Synchronous replication, the primary killed under load, its standby promoted: the storage
    finds it by itself, and no generation, serial or row that was acknowledged is lost."""
    standby = Postgres(copy_of=own_server)
    try:
        own_server.wait_synchronous()
        hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{own_server.port},{standby.port}"}
        auth = Auth(PostgresStorage({**own_server.params, **hosts}))
        try:
            fails_over(auth, own_server, standby)
        finally:
            auth.close()
    finally:
        standby.close()


def fails_over(auth: Auth, primary: Postgres, standby: Postgres) -> None:
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    reached = [1]
    failed: list[str] = []
    stopping = threading.Event()

    def renew() -> None:
        while not stopping.is_set():
            try:
                outcome = machine.try_renew()
            except StorageFailure as error:
                failed.append(str(error))
                stopping.wait(0.1)
                continue
            assert isinstance(outcome, Issued), outcome
            machine.accept(outcome)
            reached.append(outcome.generation)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        wait_for(lambda: reached[-1] > 10, "renewals")
        primary.stop(signal.SIGKILL)
        wait_for(lambda: failed, "failure")
        standby.promote()
        then = reached[-1]
        wait_for(lambda: reached[-1] > then + 10, "renewals after the failover")
    finally:
        stopping.set()
        thread.join(30)
    assert reached == list(range(1, len(reached) + 1))
    assert auth.instance(machine.instance_id).generation == reached[-1]
    assert auth.locks() == ()
    assert auth.events("generation_adopted") == []
    serials = [event.event.fields["serial"] for event in auth.events("user.cert.issued")]
    assert len(set(serials)) == len(serials)


def test_a_commit_that_no_standby_has_is_not_told(own_server: Postgres) -> None:
    """An operator who cancels the wait for a standby must not make us promise what one crash undoes."""
    storage = PostgresStorage(own_server.params)
    try:
        write(storage, adding("a"))
        with own_server.superuser() as connection:
            connection.execute("alter system set synchronous_standby_names = 'nobody'")
            connection.execute("select pg_reload_conf()")
            shown = "show synchronous_standby_names"
            wait_for(lambda: connection.execute(shown).fetchone() == ("nobody",), "setting")
            future = storage.write(adding("b"), concurrent=True)
            wait_for(lambda: connection.execute(
                "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
            ).fetchone(), "commit that waits")
            assert isinstance(future.exception(30), Unknown)
            connection.execute("alter system reset synchronous_standby_names")
            connection.execute("select pg_reload_conf()")
    finally:
        storage.close()


def test_a_server_that_takes_no_writes_is_left_until_it_does(own_server: Postgres) -> None:
    """As a primary that was made a standby under our connections."""
    storage = PostgresStorage(own_server.params)
    try:
        write(storage, adding("a"))
        with own_server.superuser() as connection:
            connection.execute("alter role mezite set default_transaction_read_only = on")
            connection.execute("alter system set default_transaction_read_only = on")
            connection.execute("select pg_reload_conf()")
            wait_for(lambda: storage.write(adding("b")).exception(30) is not None, "failure")
            error = storage.write(adding("b")).exception(30)
            assert isinstance(error, StorageFailure)
            assert "read-only" in str(error)
            connection.execute("set default_transaction_read_only = off")
            connection.execute("alter role mezite reset default_transaction_read_only")
            connection.execute("alter system reset default_transaction_read_only")
            connection.execute("select pg_reload_conf()")
        wait_for(lambda: storage.write(adding("b")).exception(30) is None, "write")
    finally:
        storage.close()


def backends(server: Postgres) -> list[int]:
    with server.superuser() as connection:
        return [pid for (pid,) in connection.execute(
            "select pid from pg_stat_activity where datname = 'mezite'"
        )]


def test_backends_that_stand_still_are_left_for_others(own_server: Postgres) -> None:
    """What waits for them is done on new connections, where there is time left."""
    storage = PostgresStorage(own_server.params, patience_s=1)
    stopped: list[int] = []
    try:
        write(storage, adding("a"))
        read(storage, lambda tx: tx.value("a"))
        stopped += backends(own_server)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        write(storage, adding("b"))
        assert read(storage, lambda tx: tx.value("b")) == b"set"
    finally:
        storage.close()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_a_server_that_stands_still_as_a_whole_holds_up_no_stop(own_server: Postgres) -> None:
    storage = PostgresStorage(own_server.params, patience_s=1)
    write(storage, adding("a"))
    stopped = [*backends(own_server), own_server.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = storage.write(adding("b"))
        closing = threading.Thread(target=storage.close, daemon=True)
        closing.start()
        assert isinstance(waiting.exception(60), StorageFailure)
        closing.join(60)
        assert not closing.is_alive()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_many_instances_are_told_of_by_estimate(server: Postgres, storage: Storage) -> None:
    """Near enough, and at once; few of them are counted."""
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(make_instance())))
    with psycopg.connect(**server.local_params, autocommit=True) as connection:
        connection.execute("analyze instances")
        assert read(storage, lambda tx: tx.counts()["instances"]) == 1
        columns = ADD_INSTANCE.partition("(")[2].partition(")")[0].replace("id, bot_id", "bot_id")
        connection.execute(
            f"insert into instances (id, {columns}) select n::text, {columns} from instances, "
            "generate_series(1, 250000) n"
        )
        connection.execute("update instances set removed_at_us = 1 where id like '1%'")
        (live,) = connection.execute("select count(*) from instances where removed_at_us is null").fetchone()
        connection.execute("vacuum analyze instances")
    told = read(storage, lambda tx: tx.counts())
    assert abs(told["instances"] - live) < live / 20
    assert (told["bots"], told["tokens"]) == (1, 0)


# --- opening --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password": "wrong-secret"}, "password authentication failed"),
        ({"port": "1"}, "refused"),
        ({"dbname": "none"}, "does not exist"),
        ({"host": "/nonexistent"}, "No such file"),
    ],
)
def test_what_cannot_be_reached_is_told_in_one_line(
    server: Postgres, changes: dict[str, str], said: str
) -> None:
    """Host, port and account are in it; the password never."""
    params = {**server.params, **changes}
    with pytest.raises(StorageFailure) as caught:
        PostgresStorage(params)
    text = str(caught.value)
    assert said in text
    assert f"{params['host']}:{params['port']}" in text
    assert "user mezite" in text
    assert "\n" not in text
    assert PASSWORD not in text
    assert "secret" not in text


@pytest.mark.parametrize("way", ["PGPASSWORD", "PGPASSFILE"])
def test_a_password_may_come_from_libpqs_own_places(
    server: Postgres, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {key: value for key, value in server.params.items() if key != "password"}
    if way == "PGPASSWORD":
        monkeypatch.setenv(way, PASSWORD)
    else:
        file = tmp_path / "pgpass"
        escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        file.write_text(f"127.0.0.1:{server.port}:*:mezite:{escaped}\n")
        file.chmod(0o600)
        monkeypatch.setenv(way, str(file))
    storage = PostgresStorage(params)
    write(storage, adding("a"))
    storage.close()


def test_a_standby_is_refused_and_the_primary_beside_it_found(own_server: Postgres) -> None:
    standby = Postgres(copy_of=own_server)
    try:
        with pytest.raises(StorageFailure, match="it is a standby"):
            PostgresStorage(standby.params)
        hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{standby.port},{own_server.port}"}
        storage = PostgresStorage({**own_server.params, **hosts})
        write(storage, adding("a"))
        storage.close()
    finally:
        standby.close()


def test_a_server_that_takes_no_more_connections_is_told_and_then_used(own_server: Postgres) -> None:
    """Those that are open go on; a use case that gets none fails, and the next one works."""
    storage = PostgresStorage(own_server.params)
    try:
        with own_server.superuser() as connection:
            connection.execute("alter role mezite connection limit 2")
            write(storage, adding("a"))
            error = storage.write(adding("b"), concurrent=True).exception(30)
            assert isinstance(error, StorageFailure)
            assert "too many connections" in str(error)
            connection.execute("alter role mezite connection limit -1")
        storage.write(adding("b"), concurrent=True).result(30)
    finally:
        storage.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("create table stock (id integer)", "holds tables of another program"),
        ("create table schema_migrations (version integer); create table cluster_values (key text);"
         "create table instances (id text); insert into schema_migrations values (999)",
         "has schema 999, and this program knows schema"),
    ],
)
def test_other_databases_are_refused_untouched(server: Postgres, statement: str, said: str) -> None:
    with server.new_database() as config:
        params = {**server.local_params, "dbname": config["name"]}
        with psycopg.connect(**params, autocommit=True) as connection:
            connection.execute(statement)
        with pytest.raises(StorageFailure, match=said):
            PostgresStorage(params)


def test_a_schema_is_upgraded_once_and_kept(server: Postgres) -> None:
    with server.new_database() as config:
        params = {**server.local_params, "dbname": config["name"]}
        first = PostgresStorage(params)
        write(first, adding("a"))
        first.close()
        second = PostgresStorage(params)
        assert read(second, lambda tx: tx.value("a")) == b"set"
        second.close()


def test_psycopg_is_loaded_where_postgres_is_named_and_nowhere_else() -> None:
    code = (
        "import sys, pathlib, tempfile; from mezite.database import open_database\n"
        "from mezite.config.database import DatabaseConfig\n"
        "open_database(DatabaseConfig(), pathlib.Path(tempfile.mkdtemp())).close()\n"
        "assert not [name for name in sys.modules if name.startswith('psycopg')]"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
