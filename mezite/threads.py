"""The one doorway between the reactor and worker threads.

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

import txaio.aio
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

GATHER_S = 0.01
"""How long those who come many at a time wait for each other."""
MOST_TOGETHER = 64
"""At a time: bounds how long the loop does nothing else."""


class Doorway:
    """Delivers at once until :meth:`open`, in the reactor's thread from then on.

    Before the reactor runs (opening the database, making the CAs) nobody could
    pick up a call from a thread.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._futures: Any = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on *loop*, on which the reactor runs, picks up: without the timer
        that the reactor's own callFromThread would add."""
        self._futures = txaio.aio.with_config(loop=loop)
        self._loop = loop

    @property
    def is_open(self) -> bool:
        return self._loop is not None

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
        crossing, futures = self.crossing(), self._futures

        def settle(done: Future[T]) -> None:
            if crossing.cancelled():
                return
            error = done.exception()
            if error is None:
                futures.resolve(crossing, done.result())
            else:
                futures.reject(crossing, _carried(error))

        future.add_done_callback(settle)
        return crossing

    def crossing(self) -> asyncio.Future[Any]:
        """To be given an outcome in the loop's thread."""
        crossing: asyncio.Future[Any] = self._futures.create_future()
        return crossing

    def soon(self, call: Callable[[], object]) -> None:
        """In the next turn of the loop, in whose thread this is called."""
        assert self._loop is not None
        self._loop.call_soon(call)

    def deferred(self, future: Future[T]) -> Deferred[T]:
        """The same for Twisted code, whose cancelling it knows, as by a timeout."""
        return Deferred.fromFuture(self.awaitable(future)).addErrback(_cancelled_for_twisted)


def _cancelled_for_twisted(failure: Failure) -> Failure:
    """asyncio's CancelledError is none to Twisted, whose timeouts would pass it on."""
    return Failure(CancelledError()) if failure.check(asyncio.CancelledError) else failure


Prepare = Callable[[], Callable[[Any], Any]]
Finish = Callable[[Any], Any]


class _Asked:
    """A use case of somebody who waits in the loop: what a storage calls a Waiter."""

    __slots__ = ("_crossing", "_finish", "_gathering", "prepare", "use_case")
    is_reading = False

    def __init__(
        self, gathering: Gathering, prepare: Prepare, finish: Finish, crossing: asyncio.Future[Any]
    ) -> None:
        self._gathering = gathering
        self._crossing = crossing
        self._finish = finish
        self.prepare = prepare
        self.use_case: Callable[[Any], Any] = _unprepared

    def start(self) -> bool:
        """It runs even if nobody waits any more: others may be told of what it does."""
        return True

    def settle(self, result: Any, error: BaseException | None) -> None:
        """In the loop's thread."""
        self._gathering.under_way -= 1
        crossing = self._crossing
        if crossing.done():
            return
        if error is None:
            try:
                crossing.set_result(self._finish(result))
            except Exception as failed:
                crossing.set_exception(_carried(failed))
        else:
            crossing.set_exception(_carried(error))


def _carried(error: BaseException) -> BaseException:
    """*error*, as a future takes it: none takes StopIteration, and its caller would wait for ever."""
    if not isinstance(error, StopIteration):
        return error
    carried = RuntimeError(f"StopIteration was raised: {error}")
    carried.__cause__ = error
    return carried


def _unprepared(transaction: Any) -> Any:
    raise AssertionError("submitted before it was prepared")


class Gathering:
    """Use cases of the reactor's thread that go to a storage together.

    Who comes alone is submitted in this turn of the loop; who comes while others
    are under way, with all that come in the next :data:`GATHER_S`: a transaction
    and its COMMIT cost as much for one as for all of them, and each step costs less
    where the same one was the last.
    """

    def __init__(self, doorway: Doorway, submit: Callable[[Sequence[Any]], object]) -> None:
        self._doorway = doorway
        self._submit_all = submit
        self._gathered: list[_Asked] = []
        self._last_together = 0
        self.under_way = 0

    def __call__(self, prepare: Prepare, finish: Finish) -> asyncio.Future[Any]:
        """What *finish* makes of the outcome of the use case that *prepare* gives, or what
        any of them raises; all are called later."""
        crossing = self._doorway.crossing()
        self._gathered.append(_Asked(self, prepare, finish, crossing))
        if len(self._gathered) == 1:
            loop = crossing.get_loop()
            if self.under_way == 0 and self._last_together <= 1:
                loop.call_soon(self._submit)
            else:
                loop.call_later(GATHER_S, self._submit)
        self.under_way += 1
        return crossing

    def _submit(self) -> None:
        together, self._gathered = self._gathered[:MOST_TOGETHER], self._gathered[MOST_TOGETHER:]
        if self._gathered:
            # Whatever else the loop has to do comes in between.
            self._doorway.soon(self._submit)
        self._last_together = len(together)
        ready = []
        for asked in together:
            try:
                asked.use_case = asked.prepare()
            except Exception as error:
                asked.settle(None, error)
            else:
                ready.append(asked)
        if ready:
            try:
                self._submit_all(ready)
            except Exception as error:
                for asked in ready:
                    asked.settle(None, error)


def _run_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
