"""The one doorway between the reactor and worker threads, and the only user of txaio.

Storage resolves its futures in a thread of its own.  The doorway moves a whole
batch of them across in one call, because a crossing costs more than the
statements it waits for, and gives each edge what it can await: gRPC handlers
an asyncio future, Twisted code a Deferred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import txaio
from twisted.internet.defer import Deferred

T = TypeVar("T")

GATHER_S = 0.02
"""How long those who come many at a time wait for each other."""


class Doorway:
    """Delivers at once until :meth:`open`, in the reactor's thread from then on.

    Before the reactor runs (opening the database, making the CAs) nobody could
    pick up a call from a thread.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._futures: Any = None
        self._submissions: list[Callable[[], None]] = []
        self._under_way = 0
        self._last_together = 0

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on *loop*, on which the reactor runs, picks up: without the timer
        that the reactor's own callFromThread would add."""
        txaio.use_asyncio()
        self._futures = txaio.with_config(loop=loop)
        self._loop = loop

    def close(self) -> None:
        """Back to delivering at once: the reactor is about to stop."""
        self._loop = None

    def deliver(self, calls: Sequence[Callable[[], None]]) -> None:
        """Storage calls this in its own thread, with everything that one batch resolved."""
        if self._loop is None:
            _run_all(calls)
        else:
            self._loop.call_soon_threadsafe(_run_all, calls)

    def awaitable(self, future: Future[T]) -> asyncio.Future[T]:
        """What an asyncio coroutine awaits for *future*, which :meth:`deliver` resolves."""
        crossing: asyncio.Future[T] = self._futures.create_future()
        self._cross(future, crossing)
        return crossing

    def submitted(self, submit: Callable[[], Future[T]]) -> asyncio.Future[T]:
        """What an asyncio coroutine awaits for the future that *submit* gives.

        Who comes alone is submitted in this turn of the loop; who comes while others
        are under way, with all that come in the next :data:`GATHER_S`: to wake the
        worker thread and to commit costs as much for one as for all of them.
        """
        crossing: asyncio.Future[T] = self._futures.create_future()

        def begin() -> None:
            try:
                future = submit()
            except Exception as error:
                self._under_way -= 1
                if not crossing.cancelled():
                    self._futures.reject(crossing, error)
            else:
                future.add_done_callback(self._arrived)
                self._cross(future, crossing)

        self._submissions.append(begin)
        if len(self._submissions) == 1:
            loop = crossing.get_loop()
            if self._under_way == 0 and self._last_together <= 1:
                loop.call_soon(self._submit)
            else:
                loop.call_later(GATHER_S, self._submit)
        self._under_way += 1
        return crossing

    def _arrived(self, future: Future[Any]) -> None:
        self._under_way -= 1

    def _submit(self) -> None:
        submissions, self._submissions = self._submissions, []
        self._last_together = len(submissions)
        _run_all(submissions)

    def _cross(self, future: Future[T], crossing: asyncio.Future[T]) -> None:
        futures = self._futures

        def cross(done: Future[T]) -> None:
            if crossing.cancelled():
                return
            error = done.exception()
            if error is None:
                futures.resolve(crossing, done.result())
            else:
                futures.reject(crossing, error)

        future.add_done_callback(cross)

    def deferred(self, future: Future[T]) -> Deferred[T]:
        """The same for Twisted code."""
        return Deferred.fromFuture(self.awaitable(future))


def _run_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
