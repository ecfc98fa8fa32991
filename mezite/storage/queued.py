"""Use cases queued to threads, and committed a batch at a time.

One thread writes.  It takes what has queued up while the last COMMIT waited
for the disk, and what arrives while it runs these, and commits them together:
the disk is waited for once.  Other threads read, each on a snapshot.

What is written *together* runs in the thread that submits it, the reactor's, and
only the COMMIT in the writer's: two threads that take turns with Python's one lock
cost several times what the statements do.  Nobody waits in the submitter's thread:
whatever would have to, for a COMMIT under way or another process, runs later or in
the writer's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from enum import Enum
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mezite.errors import StorageFailure
from mezite.storage import sql
from mezite.storage.batch import Batch
from mezite.storage.interface import Committed, Deliver, Listener, Transaction, Waiter
from mezite.storage.jobs import Job
from mezite.storage.sqlite_file import Source
from mezite.storage.sqlite_link import Link

T = TypeVar("T")

MAX_BATCH = 256
"""Use cases in one commit: bounds how long the first waits for the last."""
MAX_HERE = 64
"""Of those that run in their submitter's thread: bounds how long that does nothing else."""
MAX_READ_BATCH = 16
"""Reads that share one snapshot."""

_log = logging.getLogger(__name__)


class _Go(Enum):
    """What a thread's queue holds besides jobs."""

    FINISH = "there is a batch to be committed, unless it has been already"
    END = "nothing more comes"


_Queue = SimpleQueue["Job | _Go"]


class QueuedStorage:
    """A :class:`~mezite.storage.interface.Storage` over the connections of *source*.

    With no *readers*, the writing thread runs the reads too.  Calls after
    :meth:`close` raise ``StorageFailure``; a future fails with it when the
    database does, and the next batch tries again on a new connection.

    A listener, and a callback of a future, runs in a thread of this storage
    unless *deliver* takes it elsewhere: it may submit use cases, and must not
    wait for them.  *deliver* runs one call after the other, those of one thread in
    their order.
    """

    def __init__(
        self, source: Source, *, readers: int, deliver: Deliver | None = None,
        committed: Committed | None = None,
    ) -> None:
        self._source = source
        self._deliver = _at_once if deliver is None else deliver
        self._committed = committed
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Condition(threading.Lock())
        self._closed = False
        self._writes: _Queue = SimpleQueue()
        self._reads: _Queue = SimpleQueue() if readers else self._writes
        self._writer = Link(source, source.prepare())
        # Under the lock: who uses the writer's connection.
        self._in_use = False
        self._begun: Batch | None = None
        """Left to the writer's thread by one that has run its statements."""
        self._waiting: list[Waiter] = []
        """To run in a submitter's thread, when the connection is free."""
        serving = {"writer": self._serve_writes}
        serving |= {f"reader-{number}": self._serve_reads for number in range(readers)}
        # Daemonic: an owner that forgets to close still ends, and SQLite
        # rolls back what was not committed.
        self._threads = [
            threading.Thread(target=serve, name=f"mezite-storage-{name}", daemon=True)
            for name, serve in serving.items()
        ]
        for thread in self._threads:
            thread.start()

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        """One after the other, concurrent ones too: SQLite has one writer."""
        return self._submit(self._writes, Job(use_case, is_reading=False))

    def write_together(self, waiters: Sequence[Waiter]) -> None:
        """They have run when this returns, and COMMIT is under way, if the connection was
        free; their outcomes are delivered like any other."""
        with self._lock:
            self._check_open()
            self._waiting += waiters
        self._run_waiting()

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
                self._writes.put(_Go.END)
                for _ in self._threads[1:]:
                    self._reads.put(_Go.END)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _submit(self, queue: _Queue, job: Job) -> Future[Any]:
        with self._lock:
            self._check_open()
            queue.put(job)
        return job.future

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailure(f"{self._source.name} is closed: the server is shutting down")

    # --- in the submitter's thread --------------------------------------------------------------

    def _run_waiting(self) -> None:
        """Those that wait have run, and the writer's thread commits them; unless
        somebody else has the connection, who then sees to them."""
        with self._lock:
            if self._in_use or not self._waiting:
                return
            self._in_use = True
            jobs, self._waiting = self._waiting[:MAX_HERE], self._waiting[MAX_HERE:]
        batch = Batch(self._writer, jobs, waits=False)
        try:
            has_begun = self._writer.begin(wait=False)
            if has_begun:
                batch.run_rest()
        except BaseException as error:
            has_begun, batch.failure = True, error
        with self._lock:
            if has_begun:
                self._begun = batch
            else:
                # Another process writes just now; the writer's thread waits for it.
                self._in_use = False
                self._waiting = jobs + self._waiting
            self._writes.put(_Go.FINISH)
            self._lock.notify()

    def _run_later(self) -> None:
        """After the outcomes that have just been delivered have been made use of."""
        self._hand_over([self._run_waiting])

    # --- in the threads -------------------------------------------------------------------------

    def _serve_writes(self) -> None:
        while (job := self._writes.get()) is not _Go.END:
            self._write_batch(job)
        while self._is_left():
            self._write_batch(_Go.FINISH)
        self._writer.close()

    def _is_left(self) -> bool:
        """Whether somebody has run, runs or waits to run statements on the writer's connection."""
        with self._lock:
            return self._in_use or self._begun is not None or bool(self._waiting)

    def _write_batch(self, job: Job | _Go) -> None:
        """*job* and what has come with it are committed, or what has begun elsewhere is."""
        jobs: Iterable[Waiter] = () if isinstance(job, _Go) else _arriving(job, self._writes, MAX_BATCH)
        with self._lock:
            while self._in_use and self._begun is None:
                self._lock.wait()
            batch, self._begun = self._begun, None
            if batch is None:
                # They have waited for as long as *job*.
                jobs, self._waiting = chain(self._waiting, jobs), []
            self._in_use = True
        if batch is not None:
            batch.rest, batch.waits = chain(batch.rest, jobs), True
            self._end(batch)
        else:
            batch = self._run_batch(jobs, self._writer)
        calls = batch.calls
        with self._lock:
            self._in_use = False
            if self._waiting:
                calls.append(self._run_later)
        self._hand_over(calls)

    def _serve_reads(self) -> None:
        link = Link(self._source)
        while isinstance(job := self._reads.get(), Job):
            # All before the snapshot is taken: who asks after a commit has a right to a newer one.
            jobs = list(_arriving(job, self._reads, MAX_READ_BATCH))
            self._hand_over(self._run_batch(jobs, link).calls)
        link.close()

    def _run_batch(self, jobs: Iterable[Waiter], link: Link) -> Batch:
        """One transaction, from its beginning to its end."""
        jobs = iter(jobs)
        first = next(jobs, None)
        if first is None:
            return Batch(link, ())
        batch = Batch(link, chain((first,), jobs))
        try:
            link.begin()
        except BaseException as error:
            batch.failure = error
        self._end(batch)
        return batch

    def _end(self, batch: Batch) -> None:
        """What is left of *batch* has run, and all of it is committed, or nothing: then its calls tell."""
        link, newest = batch.link, 0
        try:
            if batch.failure is not None:
                raise batch.failure
            batch.run_rest()
            if self._committed is not None and link.writes:
                ((newest,),) = link.select(sql.NEWEST_EVENT)
            link.commit()
            if batch.topics:
                batch.calls.insert(0, partial(self._notify, frozenset(batch.topics)))
        except BaseException as error:
            newest = 0
            link.give_up()
            if not isinstance(error, StorageFailure):
                _log.exception("%s: a batch failed", self._source.name,
                               extra={"event": "database.batch_failed"})
            link.serials.limit = batch.limit
            batch.fail(error)
        if newest and self._committed is not None:
            self._committed(newest, link.serials.limit)

    def _notify(self, topics: frozenset[str]) -> None:
        for listener in self._listeners:
            try:
                listener(topics)
            except Exception:
                _log.exception("a listener failed on %s", ", ".join(sorted(topics)),
                               extra={"event": "database.listener_failed"})

    def _hand_over(self, calls: Sequence[Callable[[], None]]) -> None:
        if not calls:
            return
        try:
            self._deliver(calls)
        except Exception:
            # Better resolved in the wrong thread than never.
            _log.exception("results could not be delivered", extra={"event": "database.results_undelivered"})
            _at_once(calls)


def _arriving(job: Job, queue: _Queue, most: int) -> Iterator[Job]:
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
        if following is _Go.END:
            queue.put(_Go.END)
            return
        if isinstance(following, Job):
            yield following


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
