"""Use cases queued to threads, and committed a batch at a time.

One thread writes.  It takes what has queued up while the last COMMIT waited
for the disk, and what arrives while it runs these, and commits them together:
the disk is waited for once.  Other threads read, each on a snapshot.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mezite.errors import StorageFailure
from mezite.storage import sql
from mezite.storage.interface import Committed, Deliver, Listener, Transaction
from mezite.storage.jobs import Job
from mezite.storage.policy import PolicyCache
from mezite.storage.rows import Row
from mezite.storage.sqlite_file import Source, failure
from mezite.storage.statements import Serials
from mezite.storage.transaction import SqlTransaction

T = TypeVar("T")

MAX_BATCH = 256
"""Use cases in one commit: bounds how long the first waits for the last."""
LOCK_POLL_S = 0.001
"""How often a lock that another process holds is asked for."""
MAX_READ_BATCH = 16
"""Reads that share one snapshot."""

_log = logging.getLogger(__name__)


class _Link:
    """One thread's connection: opened when needed, given up after a failure."""

    def __init__(self, source: Source, connection: sqlite3.Connection | None = None) -> None:
        self._source = source
        self._reading = connection is None
        self._connection = connection
        if connection is not None:
            self._wait_here(connection)
        self._failed: StorageFailure | None = None
        self.writes = not self._reading
        self.serials = Serials()
        self.policy = PolicyCache()

    @staticmethod
    def _wait_here(connection: sqlite3.Connection) -> None:
        """Another process's lock is waited for by :meth:`begin`: SQLite itself
        waits in steps of up to 100 ms, which starves one of two busy processes
        for most of a second."""
        connection.execute("pragma busy_timeout = 0")

    def begin(self) -> None:
        if self._connection is None:
            self._connection = self._source.connect(reading=self._reading)
            if not self._reading:
                self._wait_here(self._connection)
        self._failed = None
        self.policy.begin()
        if self._reading:
            self.change("begin")
            return
        deadline = time.monotonic() + self._source.lock_timeout.total_seconds()
        while True:
            try:
                self._connection.execute("begin immediate")
                return
            except Exception as error:
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise self._told(error) from error
            time.sleep(LOCK_POLL_S)

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).fetchall()
        except Exception as error:
            raise self._told(error) from error

    def change(self, statement: str, values: Row = (), /) -> int:
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).rowcount
        except Exception as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> StorageFailure:
        """*error* as a ``StorageFailure``; unless only the statement's values
        are at fault, no use case of the batch goes on."""
        if isinstance(
            error,
            sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError | sqlite3.InterfaceError,
        ) or not isinstance(error, sqlite3.Error | MemoryError):
            return StorageFailure(f"{self._source.name}: the database refuses a value: {error}")
        if self._failed is None:
            self._failed = failure(self._source.name, error)
        return self._failed

    def undo(self) -> None:
        """The open transaction is empty again."""
        self.policy.forget()
        self.change("rollback")
        self.begin()

    def check(self) -> None:
        """The transaction is whole; raises ``StorageFailure`` when a statement has
        failed for good (though its use case may have caught that), or when SQLite
        has rolled everything back by itself, as it may do on a full disk."""
        assert self._connection is not None
        if self._failed is not None:
            raise self._failed
        if not self._connection.in_transaction:
            raise StorageFailure(f"{self._source.name}: the database ended a transaction by itself")

    def give_up(self) -> None:
        """Nothing of the open transaction remains."""
        self.policy.forget()
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("rollback")
        except sqlite3.Error as error:
            _log.warning("%s: rollback failed: %s", self._source.name, error)
        if not self._source.kept:
            self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.warning("%s: close failed: %s", self._source.name, error)


class _Batch:
    """The use cases of one transaction, in order, and what came of each.

    They run without savepoints, as hardly any ever raises.  When one does, the
    transaction is undone, what was run before it is run again, and from then on
    each has a savepoint of its own.
    """

    def __init__(self, link: _Link) -> None:
        self.started: list[Job] = []
        self.calls: list[Callable[[], None]] = []
        """What resolves the futures, once the batch is committed."""
        self.topics: set[str] = set()
        self._link = link
        self._limit = link.serials.limit
        self._runs_apart = False

    def run(self, job: Job) -> None:
        """Raises ``StorageFailure`` when the whole batch cannot go on."""
        self.started.append(job)
        if self._runs_apart:
            self._run_apart(job)
            return
        error = self._call(job)
        if error is None:
            return
        if not job.is_reading:
            self._link.undo()
            self._link.serials.limit = self._limit
            self._runs_apart = True
            self.calls.clear()
            self.topics.clear()
            for before in self.started[:-1]:
                self._run_apart(before)
        self.calls.append(partial(job.settle, None, error))

    def _run_apart(self, job: Job) -> None:
        link, limit = self._link, self._link.serials.limit
        link.change("savepoint use_case")
        error = self._call(job)
        if error is not None:
            link.change("rollback to use_case")
            link.serials.limit = limit
            link.policy.forget()
            self.calls.append(partial(job.settle, None, error))
        link.change("release use_case")

    def _call(self, job: Job) -> BaseException | None:
        """What the use case raised; its result is kept."""
        link = self._link
        if job.is_reading:
            transaction = SqlTransaction(link, None)
        else:
            transaction = SqlTransaction(link, link.serials, link.policy)
        result, error = None, None
        try:
            result = job.use_case(transaction)
        except BaseException as raised:
            error = raised
        transaction.end()
        link.check()
        if error is None:
            self.topics |= transaction.changed
            self.calls.append(partial(job.settle, result, None))
        return error


class QueuedStorage:
    """A :class:`~mezite.storage.interface.Storage` over the connections of *source*.

    With no *readers*, the writing thread runs the reads too.  Calls after
    :meth:`close` raise ``StorageFailure``; a future fails with it when the
    database does, and the next batch tries again on a new connection.

    A listener, and a callback of a future, runs in a thread of this storage
    unless *deliver* takes it elsewhere: it may submit use cases, and must not
    wait for them.
    """

    def __init__(
        self, source: Source, *, readers: int, deliver: Deliver | None = None,
        committed: Committed | None = None,
    ) -> None:
        self._source = source
        self._deliver = _at_once if deliver is None else deliver
        self._committed = committed
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._closed = False
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        self._reads: SimpleQueue[Job | None] = SimpleQueue() if readers else self._writes
        writer = _Link(source, source.prepare())
        self._threads = [self._thread("writer", self._writes, writer, MAX_BATCH)] + [
            self._thread(f"reader-{number}", self._reads, _Link(source), MAX_READ_BATCH)
            for number in range(readers)
        ]
        for thread in self._threads:
            thread.start()

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        """One after the other, concurrent ones too: SQLite has one writer."""
        return self._submit(self._writes, Job(use_case, is_reading=False))

    def read(self, use_case: Callable[[Transaction], T]) -> Future[T]:
        return self._submit(self._reads, Job(use_case, is_reading=True))

    def subscribe(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def close(self) -> None:
        with self._lock:
            first = not self._closed
            self._closed = True
            if first:
                self._writes.put(None)
                for _ in self._threads[1:]:
                    self._reads.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _submit(self, queue: SimpleQueue[Job | None], job: Job) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise StorageFailure(f"{self._source.name} is closed: the server is shutting down")
            queue.put(job)
        return job.future

    def _thread(
        self, name: str, queue: SimpleQueue[Job | None], link: _Link, most: int
    ) -> threading.Thread:
        # Daemonic: an owner that forgets to close still ends, and SQLite
        # rolls back what was not committed.
        return threading.Thread(
            target=self._serve, args=(queue, link, most), name=f"mezite-storage-{name}", daemon=True
        )

    def _serve(self, queue: SimpleQueue[Job | None], link: _Link, most: int) -> None:
        while (job := queue.get()) is not None:
            self._run_batch(_arriving(job, queue, most), link)
        link.close()

    def _run_batch(self, jobs: Iterator[Job], link: _Link) -> None:
        """One transaction: the future of every job is resolved after its end."""
        limit = link.serials.limit
        batch = _Batch(link)
        newest = 0
        try:
            link.begin()
            for job in jobs:
                if job.future.set_running_or_notify_cancel():
                    batch.run(job)
            if self._committed is not None and link.writes:
                ((newest,),) = link.select(sql.NEWEST_EVENT)
            link.change("commit")
            calls = batch.calls
            if batch.topics:
                calls.insert(0, partial(self._notify, frozenset(batch.topics)))
        except BaseException as error:
            newest = 0
            link.give_up()
            if not isinstance(error, StorageFailure):
                _log.exception("%s: a batch failed", self._source.name)
            link.serials.limit = limit
            # Those that wait already would wait for the same failure once more.
            failed = batch.started + [job for job in jobs if job.future.set_running_or_notify_cancel()]
            calls = [partial(job.settle, None, StorageFailure(str(error))) for job in failed]
        if newest and self._committed is not None:
            self._committed(newest, link.serials.limit)
        if calls:
            self._hand_over(calls)

    def _notify(self, topics: frozenset[str]) -> None:
        for listener in self._listeners:
            try:
                listener(topics)
            except Exception:
                _log.exception("a listener failed on %s", ", ".join(sorted(topics)))

    def _hand_over(self, calls: Sequence[Callable[[], None]]) -> None:
        try:
            self._deliver(calls)
        except Exception:
            # Better resolved in the wrong thread than never.
            _log.exception("results could not be delivered")
            _at_once(calls)


def _arriving(job: Job, queue: SimpleQueue[Job | None], most: int) -> Iterator[Job]:
    """*job* and what is queued when it has been run, and so on, *most* of them.

    Those that a commit released come back while the first of them are being
    run, and are in time for the next commit.
    """
    yield job
    for _ in range(most - 1):
        try:
            following = queue.get_nowait()
        except Empty:
            return
        if following is None:
            queue.put(None)
            return
        yield following


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
