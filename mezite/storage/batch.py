"""Use cases that share one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from mezite.errors import StorageFailure
from mezite.storage.interface import Waiter
from mezite.storage.sqlite_link import Link
from mezite.storage.transaction import SqlTransaction


class Batch:
    """The use cases of one transaction, in order, and what came of each.

    They run without savepoints, as hardly any ever raises.  When one does, the
    transaction is undone, what was run before it is run again, and from then on
    each has a savepoint of its own.
    """

    def __init__(self, link: Link, jobs: Iterable[Waiter], *, waits: bool = True) -> None:
        self.failure: BaseException | None = None
        """Why none of it can be committed, where it has been found out already."""
        self.rest: Iterator[Waiter] = iter(jobs)
        """What has not been run."""
        self.started: list[Waiter] = []
        self.calls: list[Callable[[], None]] = []
        """What resolves the futures, once the batch is committed."""
        self.topics: set[str] = set()
        self.limit = link.serials.limit
        """The serials' when the transaction began."""
        self.link = link
        self.waits = waits
        """For another process, where it has to begin anew."""
        self._runs_apart = False

    def run_rest(self) -> None:
        """Raises ``StorageFailure`` when the whole batch cannot go on."""
        for job in self.rest:
            if job.start():
                self._run(job)

    def fail(self, error: BaseException) -> None:
        """Nothing of it is committed, and nobody is left waiting."""
        # Those that have not been run would wait for the same failure once more.
        failed = self.started + [job for job in self.rest if job.start()]
        self.calls = [partial(job.settle, None, StorageFailure(str(error))) for job in failed]
        self.topics.clear()

    def _run(self, job: Waiter) -> None:
        self.started.append(job)
        if self._runs_apart:
            self._run_apart(job)
            return
        error = self._call(job)
        if error is None:
            return
        if not job.is_reading:
            self.link.undo(wait=self.waits)
            self.link.serials.limit = self.limit
            self._runs_apart = True
            self.calls.clear()
            self.topics.clear()
            for before in self.started[:-1]:
                self._run_apart(before)
        self.calls.append(partial(job.settle, None, error))

    def _run_apart(self, job: Waiter) -> None:
        link, limit = self.link, self.link.serials.limit
        link.change("savepoint use_case")
        error = self._call(job)
        if error is not None:
            link.change("rollback to use_case")
            link.serials.limit = limit
            link.policy.forget()
            self.calls.append(partial(job.settle, None, error))
        link.change("release use_case")

    def _call(self, job: Waiter) -> BaseException | None:
        """What the use case raised; its result is kept."""
        link = self.link
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
