"""PostgreSQL, for more than one auth server: any number of them, none of them special.

Use cases run in one of two ways, at READ COMMITTED:

- *concurrent* ones (joins, renewals, audit rows) beside everything else, on a few
  connections.  Their invariants are conditional statements, and an instance is
  locked from its first reading on (``for no key update``), so that what is judged
  of it is what is written, and its audit rows are in the order of its commits;
- all others one after the other over all servers, by one advisory lock: what they
  read is what is there until they have committed, as on SQLite.

Either way a batch of those that wait shares one transaction and one COMMIT, each
in a savepoint.  A batch that clashes with another server's is rolled back, and
each of its use cases runs again alone, so that nobody waits with locks in hand.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

import psycopg

from mezite.core.audit import AuditEvent
from mezite.core.model import Instance
from mezite.errors import StorageFailure
from mezite.storage import postgres_schema, rows, sql
from mezite.storage.interface import Deliver, Listener, Transaction
from mezite.storage.postgres_link import Away, Broken, Clash, Link, Server, Unknown
from mezite.storage.postgres_listener import CHANNEL, TOPICS
from mezite.storage.postgres_listener import Listener as TopicListener
from mezite.storage.transaction import Serials, SqlTransaction, Statements

T = TypeVar("T")

WRITERS = 4
"""Connections for concurrent use cases."""
READERS = 2
MAX_BATCH = 32
"""Use cases in one transaction: rows stay locked until its end."""
TRIES = 8
"""Of a use case alone, after its batch has clashed."""
MAX_WAIT_S = 15.0
"""Who has waited longer for a connection is not run: its machine is about to ask again."""

_BEGIN = "begin isolation level read committed"
_BEGIN_READING = "begin isolation level repeatable read, read only"
_BEGIN_ALONE = f"{_BEGIN}; select pg_advisory_xact_lock({postgres_schema.WRITE_LOCK})"
_RAISE_EVENTS = """select setval(pg_get_serial_sequence('events', 'id'),
greatest(?, (select coalesce(max(id), 1) from events)))"""
_RESERVE = f"{sql.RESERVE_SERIALS} returning next"

_log = logging.getLogger(__name__)


class _Job:
    __slots__ = ("future", "is_reading", "since", "use_case")

    def __init__(self, use_case: Callable[[Transaction], Any], is_reading: bool) -> None:
        self.future: Future[Any] = Future()
        self.use_case = use_case
        self.is_reading = is_reading
        self.since = time.monotonic()

    def settle(self, result: Any, error: BaseException | None) -> None:
        """The future is resolved, if it is not yet."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


_Queue = SimpleQueue["_Job | None"]


class _Transaction(SqlTransaction):
    """The statements that PostgreSQL says in a way of its own."""

    __slots__ = ()

    def end(self) -> None:
        super().end()
        # Serials come from elsewhere than the statements that have ended.
        self._serials = None

    def instance(self, instance_id: str) -> Instance | None:
        if self._serials is None:
            return super().instance(instance_id)
        row = self._one(f"{sql.INSTANCE} for no key update", instance_id)
        return None if row is None else rows.instance(row)

    def add_event(self, event: AuditEvent, above: int = 0) -> None:
        if above:
            self._all(_RAISE_EVENTS, above)
        super().add_event(event)


class _SharedSerials(Serials):
    """The serials of one server, for all of its connections.

    A block is reserved and committed at once, on a connection of its own: within a
    batch it would hold up every other server until the batch's end.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._lock = threading.Lock()

    def take(self, statements: Statements) -> int:
        with self._lock:
            if self.next >= self.limit:
                self.limit = self._committed(_RESERVE, self.BLOCK, self.next, self.next)
                self.next = self.limit - self.BLOCK
            serial = self.next
            self.next += 1
            return serial

    def raise_to(self, statements: Statements, least: int) -> None:
        with self._lock:
            self._committed(f"{sql.RAISE_SERIALS} returning next", least, least)
            if self.next < least:
                self.next = self.limit = least

    def _committed(self, statement: str, *values: int) -> int:
        """The number that *statement* gives, after its commit; tried again where that does no harm."""
        for attempt in range(TRIES):
            try:
                self._link.begin()
                found = self._link.select(statement, values)
                self._link.commit()
                return int(found[0][0]) if found else 0
            except (Clash, Broken, Unknown):
                # Done twice it is a gap.
                self._link.give_up()
                if attempt + 1 == TRIES:
                    raise
            except StorageFailure:
                self._link.give_up()
                raise
        raise AssertionError("not reached")

    def close(self) -> None:
        self._link.close()


class PostgresStorage:
    """A :class:`~mezite.storage.interface.Storage` in the database that *params* name
    (libpq's keywords: host, port, user, password, dbname, sslmode, …; several hosts
    by commas, of which the one that takes writes is used).

    Opening brings the schema up to date.  Raises ``StorageFailure`` when the
    database cannot be used.  Open it after any fork.

    Listeners hear of this server's own commits before the futures resolve, and of
    other servers' soon after.  A future fails with ``StorageFailure``: then nothing
    of its use case is there, unless the error is
    :class:`~mezite.storage.postgres_link.Unknown`, and the use case is to be asked again.
    """

    def __init__(
        self,
        params: Mapping[str, str],
        *,
        deliver: Deliver | None = None,
        writers: int = WRITERS,
        connection_class: type[psycopg.Connection[Any]] = psycopg.Connection,
    ) -> None:
        self._server = server = Server(params, connection_class)
        self._deliver = _at_once if deliver is None else deliver
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._closed = False
        self._id = uuid4().hex
        first = _prepared(server)
        self._serials = _SharedSerials(Link(server, _BEGIN))
        self._alone: _Queue = SimpleQueue()
        self._concurrent: _Queue = SimpleQueue()
        self._reads: _Queue = SimpleQueue()
        self._workers = [
            _Worker(self, "writer", self._alone, Link(server, _BEGIN_ALONE, first)),
            *(_Worker(self, f"writer-{number}", self._concurrent, Link(server, _BEGIN))
              for number in range(1, writers + 1)),
            *(_Worker(self, f"reader-{number}", self._reads, Link(server, _BEGIN_READING))
              for number in range(READERS)),
        ]
        for worker in self._workers:
            worker.thread.start()
        self._listening = TopicListener(server, self._id, self._heard)

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        return self._submit(self._concurrent if concurrent else self._alone, _Job(use_case, is_reading=False))

    def read(self, use_case: Callable[[Transaction], T]) -> Future[T]:
        return self._submit(self._reads, _Job(use_case, is_reading=True))

    def subscribe(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def close(self) -> None:
        with self._lock:
            first = not self._closed
            self._closed = True
            if first:
                for worker in self._workers:
                    worker.queue.put(None)
        current = threading.current_thread()
        for worker in self._workers:
            if worker.thread is not current:
                worker.thread.join()
        self._listening.close()
        if all(worker.thread is not current for worker in self._workers):
            self._serials.close()

    def _submit(self, queue: _Queue, job: _Job) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise StorageFailure(f"{self._server.name} is closed: the server is shutting down")
            queue.put(job)
        return job.future

    def _heard(self, topics: frozenset[str]) -> None:
        self.hand_over([partial(self.notify, topics)])

    # --- what workers call ----------------------------------------------------------------------

    def transaction(self, link: Link, job: _Job) -> SqlTransaction:
        return _Transaction(link, None if job.is_reading else self._serials)

    def announcement(self, topics: set[str]) -> str:
        """What others are told in the same transaction, or nothing."""
        return f"{self._id} {','.join(sorted(topics & TOPICS))}" if topics & TOPICS else ""

    def notify(self, topics: frozenset[str]) -> None:
        for listener in self._listeners:
            try:
                listener(topics)
            except Exception:
                _log.exception("a listener failed on %s", ", ".join(sorted(topics)))

    def hand_over(self, calls: Sequence[Callable[[], None]]) -> None:
        if not calls:
            return
        try:
            self._deliver(calls)
        except Exception:
            # Better resolved in the wrong thread than never.
            _log.exception("results could not be delivered")
            _at_once(calls)

    @property
    def name(self) -> str:
        """How messages call the database."""
        return self._server.name


class _Worker:
    """A thread with a connection of its own, which runs what is in *queue*."""

    def __init__(self, storage: PostgresStorage, name: str, queue: _Queue, link: Link) -> None:
        self.queue = queue
        self._storage = storage
        self._link = link
        self.thread = threading.Thread(target=self._serve, name=f"mezite-storage-{name}", daemon=True)

    def _serve(self) -> None:
        while (job := self.queue.get()) is not None:
            self._run_batch(job)
        self._link.close()

    def _run_batch(self, first: _Job) -> None:
        """Together, and when that clashes each alone; every future is resolved in the end."""
        if not self._may_start(first):
            return
        started = [first]
        try:
            self._transact(self._arriving(first), started)
        except (Clash, Broken):
            for number, job in enumerate(started):
                try:
                    self._run_alone(job)
                except Away as error:
                    self._fail([*started[number:], *self._waiting()], error)
                    return
        except Unknown as error:
            self._fail(started, error)
        except StorageFailure as error:
            self._fail([*started, *self._waiting()], error)

    def _run_alone(self, job: _Job) -> None:
        """Raises :class:`Away` only."""
        for attempt in range(TRIES):
            try:
                self._transact([job], [])
                return
            except (Clash, Broken) as error:
                if attempt + 1 == TRIES or time.monotonic() - job.since > MAX_WAIT_S:
                    self._fail([job], error)
                    return
                # Chance, or two would meet again.
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
            except Away:
                raise
            except StorageFailure as error:
                self._fail([job], error)
                return

    def _transact(self, jobs: Iterable[_Job], started: list[_Job]) -> None:
        """One transaction for *jobs*, which are noted in *started*; after its commit their
        futures are resolved.  Raises ``StorageFailure`` when nothing of it is known to be done."""
        link, storage = self._link, self._storage
        calls: list[Callable[[], None]] = []
        topics: set[str] = set()
        told: Callable[[], None] | None = None
        try:
            link.begin()
            for job in jobs:
                if job not in started:
                    started.append(job)
                calls.append(self._outcome(job, topics))
            announced = storage.announcement(topics)
            if announced:
                link.select("select pg_notify(?, ?)", (CHANNEL, announced))
            told = partial(storage.notify, frozenset(topics)) if topics else None
            link.commit()
        except BaseException as error:
            link.give_up()
            if isinstance(error, Unknown) and told is not None:
                storage.hand_over([told])
            if isinstance(error, StorageFailure):
                raise
            _log.exception("%s: a batch failed", storage.name)
            raise StorageFailure(str(error)) from error
        storage.hand_over(calls if told is None else [told, *calls])

    def _outcome(self, job: _Job, topics: set[str]) -> Callable[[], None]:
        """What resolves *job*'s future once the batch is committed; raises
        ``StorageFailure`` when the whole batch cannot go on."""
        link = self._link
        link.run("savepoint use_case")
        transaction = self._storage.transaction(link, job)
        result, error = None, None
        try:
            result = job.use_case(transaction)
        except BaseException as raised:
            error = raised
        transaction.end()
        link.check()
        error = error or link.refusal()
        if error is None:
            topics |= transaction.changed
        else:
            link.run("rollback to use_case")
        link.run("release use_case")
        return partial(job.settle, result, error)

    def _arriving(self, first: _Job) -> Iterator[_Job]:
        """*first* and what is queued when it has been run, and so on, a batch of them."""
        yield first
        for _ in range(MAX_BATCH - 1):
            try:
                following = self.queue.get_nowait()
            except Empty:
                return
            if following is None:
                self.queue.put(None)
                return
            if self._may_start(following):
                yield following

    def _may_start(self, job: _Job) -> bool:
        if not job.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() - job.since <= MAX_WAIT_S:
            return True
        self._fail([job], StorageFailure(
            f"{self._storage.name}: no connection was free for {MAX_WAIT_S:.0f} s; ask again"
        ))
        return False

    def _waiting(self) -> Iterator[_Job]:
        """Those who would wait for the same failure once more."""
        for _ in range(self.queue.qsize()):
            try:
                job = self.queue.get_nowait()
            except Empty:
                return
            if job is None:
                self.queue.put(None)
                return
            if job.future.set_running_or_notify_cancel():
                yield job

    def _fail(self, jobs: Iterable[_Job], error: StorageFailure) -> None:
        self._storage.hand_over([partial(job.settle, None, type(error)(str(error))) for job in jobs])


def _prepared(server: Server) -> psycopg.Connection[Any]:
    """A connection to a database of the newest schema."""
    connection = server.connect()
    try:
        postgres_schema.upgrade(connection)
    except StorageFailure as error:
        connection.close()
        raise StorageFailure(f"{server.name} {error}") from None
    except psycopg.Error as error:
        connection.close()
        raise StorageFailure(
            f"{server.name}: the schema cannot be made or read: {' '.join(str(error).split())}; the account "
            "needs the rights of the database's owner"
        ) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
