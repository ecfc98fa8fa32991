"""A thread with a connection of its own, which runs what waits in a queue."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Protocol

from mezite.errors import StorageFailure
from mezite.storage.interface import Waiter
from mezite.storage.postgres_link import Away, Broken, Clash, Link, Unknown
from mezite.storage.postgres_listener import CHANNEL
from mezite.storage.transaction import SqlTransaction

MAX_BATCH = 32
"""Use cases in one transaction: rows stay locked until its end."""
TRIES = 8
"""Of a use case alone, after its batch has clashed."""
MAX_WAIT_S = 15.0
"""Who has waited longer for a connection is not run: its machine is about to ask again."""

_log = logging.getLogger(__name__)


class Queued:
    """A waiter in a queue: since when, and how often it was tried."""

    __slots__ = ("is_reading", "settle", "since", "start", "tries", "use_case")

    def __init__(self, waiter: Waiter) -> None:
        self.use_case = waiter.use_case
        self.is_reading = waiter.is_reading
        self.start = waiter.start
        self.settle = waiter.settle
        self.since = time.monotonic()
        self.tries = 0
        """How often it has clashed: then it runs alone."""


Queue = SimpleQueue["Queued | None"]


class _Raised(Exception):
    """A use case of a batch without savepoints has raised, which hardly any ever does."""

    def __init__(self, job: Queued, error: BaseException) -> None:
        super().__init__()
        self.job = job
        self.error = error


class Owner(Protocol):
    """The storage that a worker belongs to."""

    @property
    def name(self) -> str: ...
    def put_again(self, queue: Queue, job: Queued) -> bool: ...
    def transaction(self, link: Link, job: Queued) -> SqlTransaction: ...
    def announcement(self, topics: set[str]) -> str: ...
    def notify(self, topics: frozenset[str]) -> None: ...
    def hand_over(self, calls: Sequence[Callable[[], None]]) -> None: ...
    def committed(self, newest_event: int) -> None: ...


class Worker:
    """A thread with a connection of its own, which runs what is in *queue*."""

    def __init__(self, storage: Owner, name: str, queue: Queue, link: Link) -> None:
        self.queue = queue
        self._storage = storage
        self._link = link
        self._kept: Queued | None = None
        """Taken from the queue, and not to be run with others."""
        self.thread = threading.Thread(target=self._serve, name=f"mezite-storage-{name}", daemon=True)

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            if job.tries:
                self._run_alone(job)
            elif self._may_start(job):
                self._run_batch(job)
        self._link.close()

    def _next(self) -> Queued | None:
        kept, self._kept = self._kept, None
        return kept or self.queue.get()

    def _run_batch(self, first: Queued) -> None:
        """Together, and when that clashes each alone; every future is resolved in the end."""
        started, jobs = [first], self._arriving()
        if first.is_reading:
            # All before the snapshot is taken: who asks after a commit has a right to a newer one.
            started += jobs
        try:
            try:
                self._transact(chain(list(started), jobs), started)
            except _Raised as raised:
                self._transact(chain(list(started), jobs), started, apart=True, settled=raised)
        except (Clash, Broken):
            for number, job in enumerate(started):
                if not self._run_alone(job):
                    self._fail(started[number + 1:], StorageFailure(f"{self._storage.name} is away"))
                    return
        except Unknown as error:
            self._fail(started, error)
        except StorageFailure as error:
            self._fail([*started, *self._waiting()], error)

    def _run_alone(self, job: Queued) -> bool:
        """When it clashes again it goes to the end of the queue: who waits for a lock
        for long holds up nobody who does not.  Whether there is a database at all."""
        if not self._is_in_time(job):
            return True
        while True:
            try:
                self._transact([job], [], apart=True)
                return True
            except (Clash, Broken) as error:
                job.tries += 1
                if job.tries >= TRIES or time.monotonic() - job.since > MAX_WAIT_S:
                    self._fail([job], error)
                    return True
                # Chance, or two would meet again.
                time.sleep(random.uniform(0, 0.002 * 2**job.tries))
                if self._storage.put_again(self.queue, job):
                    return True
            except Away as error:
                self._fail([job, *self._waiting()], error)
                return False
            except StorageFailure as error:
                self._fail([job], error)
                return True

    def _transact(
        self, jobs: Iterable[Queued], started: list[Queued], *, apart: bool = False,
        settled: _Raised | None = None,
    ) -> None:
        """One transaction for *jobs*, which are noted in *started*; after its commit their
        futures are resolved.

        Raises ``StorageFailure`` when nothing of it is known to be done.  *apart*: each in
        a savepoint, but for what is *settled*; else :class:`_Raised` when one of them
        raises, and nothing is done.
        """
        link, storage = self._link, self._storage
        calls: list[Callable[[], None]] = []
        topics: set[str] = set()
        told: Callable[[], None] | None = None
        try:
            link.begin()
            for job in jobs:
                if job not in started:
                    started.append(job)
                if settled is not None and job is settled.job:
                    calls.append(partial(job.settle, None, settled.error))
                else:
                    calls.append(self._outcome(job, topics, apart))
            announced = storage.announcement(topics)
            if announced:
                link.select("select pg_notify(?, ?)", (CHANNEL, announced))
            told = partial(storage.notify, frozenset(topics)) if topics else None
            link.commit()
        except BaseException as error:
            link.give_up()
            if isinstance(error, Unknown) and all(job.is_reading for job in started):
                raise Broken(str(error)) from error
            if isinstance(error, Unknown) and told is not None:
                storage.hand_over([told])
            if isinstance(error, StorageFailure | _Raised):
                raise
            _log.exception("%s: a batch failed", storage.name, extra={"event": "database.batch_failed"})
            raise StorageFailure(str(error)) from error
        if link.newest_event:
            storage.committed(link.newest_event)
        storage.hand_over(calls if told is None else [told, *calls])

    def _outcome(self, job: Queued, topics: set[str], apart: bool) -> Callable[[], None]:
        """What resolves *job*'s future once the batch is committed; raises
        ``StorageFailure`` when the whole batch cannot go on."""
        link = self._link
        newest = link.newest_event
        if apart:
            link.run("savepoint use_case")
        # Others commit between the use cases of a batch.
        link.policy.begin()
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
        elif not apart:
            raise _Raised(job, error)
        else:
            link.run("rollback to use_case")
            link.policy.forget()
            link.newest_event = newest
        if apart:
            link.run("release use_case")
        return partial(job.settle, result, error)

    def _arriving(self) -> Iterator[Queued]:
        """What is queued when those before it have been run, and so on, a batch with the first."""
        for _ in range(MAX_BATCH - 1):
            try:
                following = self.queue.get_nowait()
            except Empty:
                return
            if following is None:
                self.queue.put(None)
                return
            if following.tries:
                self._kept = following
                return
            if self._may_start(following):
                yield following

    def _may_start(self, job: Queued) -> bool:
        return job.start() and self._is_in_time(job)

    def _is_in_time(self, job: Queued) -> bool:
        if time.monotonic() - job.since <= MAX_WAIT_S:
            return True
        self._fail([job], StorageFailure(
            f"{self._storage.name}: it was not to be done within {MAX_WAIT_S:.0f} s; ask again"
        ))
        return False

    def _waiting(self) -> Iterator[Queued]:
        """Those who would wait for the same failure once more."""
        for _ in range(self.queue.qsize()):
            try:
                job = self.queue.get_nowait()
            except Empty:
                return
            if job is None:
                self.queue.put(None)
                return
            if job.tries or job.start():
                yield job

    def _fail(self, jobs: Iterable[Queued], error: StorageFailure) -> None:
        self._storage.hand_over([partial(job.settle, None, type(error)(str(error))) for job in jobs])
