"""PostgreSQL, for more than one auth server: any number of them, none of them special.

Use cases run in one of two ways, at READ COMMITTED:

- *concurrent* ones (joins, renewals, audit rows) beside everything else, on a few
  connections.  Their invariants are conditional statements, and an instance is
  locked from its first reading on (``for no key update``), so that what is judged
  of it is what is written, and its audit rows are in the order of its commits;
- all others one after the other over all servers, by one advisory lock: what they
  read is what is there until they have committed, as on SQLite.

Either way a batch of those that wait shares one transaction and one COMMIT; when
one of them raises, it is run again with a savepoint for each.  A batch that clashes
with another server's is rolled back, and each of its use cases runs again alone, so
that nobody waits with locks in hand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

import psycopg

from mezite.errors import StorageFailure
from mezite.storage import postgres_schema
from mezite.storage.interface import Committed, Deliver, Listener, Transaction, Waiter
from mezite.storage.jobs import Job
from mezite.storage.postgres_link import PATIENCE_S, Link, Server
from mezite.storage.postgres_listener import TOPICS
from mezite.storage.postgres_listener import Listener as TopicListener
from mezite.storage.postgres_transaction import PostgresTransaction, SharedSerials
from mezite.storage.postgres_watch import Watch
from mezite.storage.postgres_worker import Queue, Queued, Worker
from mezite.storage.transaction import SqlTransaction

T = TypeVar("T")

WRITERS = 4
"""Connections for concurrent use cases."""
READERS = 2

_BEGIN = "begin isolation level read committed"
_BEGIN_READING = "begin isolation level repeatable read, read only"
_BEGIN_ALONE = f"{_BEGIN}; select pg_advisory_xact_lock({postgres_schema.WRITE_LOCK})"

_log = logging.getLogger(__name__)


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
        committed: Committed | None = None,
        writers: int = WRITERS,
        connection_class: type[psycopg.Connection[Any]] = psycopg.Connection,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._server = server = Server(params, connection_class)
        self._deliver = _at_once if deliver is None else deliver
        self._committed = committed
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._closed = False
        self._id = uuid4().hex
        first = _prepared(server)
        self._serials = SharedSerials(Link(server, _BEGIN))
        self._alone: Queue = SimpleQueue()
        self._concurrent: Queue = SimpleQueue()
        self._reads: Queue = SimpleQueue()
        self._workers = [
            Worker(self, "writer", self._alone, Link(server, _BEGIN_ALONE, first)),
            *(Worker(self, f"writer-{number}", self._concurrent, Link(server, _BEGIN))
              for number in range(1, writers + 1)),
            *(Worker(self, f"reader-{number}", self._reads, Link(server, _BEGIN_READING))
              for number in range(READERS)),
        ]
        for worker in self._workers:
            worker.thread.start()
        self._listening = TopicListener(server, self._id, self._heard)
        self._watch = Watch(server.wires, patience_s)

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        return self._submit(self._concurrent if concurrent else self._alone, use_case)

    def write_together(self, waiters: Sequence[Waiter]) -> None:
        """Each on the first connection that is free; none in this thread, which waits for nobody."""
        with self._lock:
            self._check_open()
            for waiter in waiters:
                self._concurrent.put(Queued(waiter))

    def read(self, use_case: Callable[[Transaction], T]) -> Future[T]:
        return self._submit(self._reads, use_case, is_reading=True)

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
            self._watch.close()

    def _submit(
        self, queue: Queue, use_case: Callable[[Transaction], T], *, is_reading: bool = False
    ) -> Future[T]:
        job = Job(use_case, is_reading)
        with self._lock:
            self._check_open()
            queue.put(Queued(job))
        return job.future

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailure(f"{self._server.name} is closed: the server is shutting down")

    def _heard(self, topics: frozenset[str]) -> None:
        self.hand_over([partial(self.notify, topics)])

    # --- what workers call ----------------------------------------------------------------------

    def transaction(self, link: Link, job: Queued) -> SqlTransaction:
        if job.is_reading:
            return PostgresTransaction(link, None)
        return PostgresTransaction(link, self._serials, link.policy)

    def announcement(self, topics: set[str]) -> str:
        """What others are told in the same transaction, or nothing."""
        return f"{self._id} {','.join(sorted(topics & TOPICS))}" if topics & TOPICS else ""

    def notify(self, topics: frozenset[str]) -> None:
        for listener in self._listeners:
            try:
                listener(topics)
            except Exception:
                _log.exception("a listener failed on %s", ", ".join(sorted(topics)),
                               extra={"event": "database.listener_failed"})

    def committed(self, newest_event: int) -> None:
        if self._committed is not None:
            self._committed(newest_event, self._serials.limit)

    def hand_over(self, calls: Sequence[Callable[[], None]]) -> None:
        if not calls:
            return
        try:
            self._deliver(calls)
        except Exception:
            # Better resolved in the wrong thread than never.
            _log.exception("results could not be delivered", extra={"event": "database.results_undelivered"})
            _at_once(calls)

    def put_again(self, queue: Queue, job: Queued) -> bool:
        """Whether *job* is in *queue* again; not behind its end, where nobody would take it."""
        with self._lock:
            if not self._closed:
                queue.put(job)
            return not self._closed

    @property
    def name(self) -> str:
        """How messages call the database."""
        return self._server.name


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
