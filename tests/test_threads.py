"""The doorway: at once before the reactor runs, in its thread and once a batch from then on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from mezite.threads import Doorway


class LoopReactor:
    """What the doorway needs of a reactor, on a plain asyncio loop; counts its crossings."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.crossings = 0

    def callFromThread(self, callable: Any, *args: object) -> None:
        self.crossings += 1
        self._loop.call_soon_threadsafe(callable, *args)


def test_before_it_is_open_results_are_delivered_where_they_are_made() -> None:
    doorway, future = Doorway(), Future[int]()
    doorway.deliver([lambda: future.set_result(7)])
    assert future.result(0) == 7


def test_a_batch_from_a_thread_crosses_once_and_wakes_everybody() -> None:
    async def scenario() -> tuple[list[Any], int]:
        loop = asyncio.get_running_loop()
        reactor, doorway = LoopReactor(loop), Doorway()
        doorway.open(reactor, loop)
        futures = [Future[int]() for _ in range(64)]
        waiting = [doorway.awaitable(future) for future in futures]
        calls = [lambda future=future, n=n: future.set_result(n) for n, future in enumerate(futures[:-1])]
        calls.append(lambda: futures[-1].set_exception(ValueError("no")))
        thread = threading.Thread(target=doorway.deliver, args=(calls,))
        thread.start()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        thread.join()
        doorway.close()
        return results, reactor.crossings

    results, crossings = asyncio.run(scenario())
    assert crossings == 1
    assert results[:-1] == list(range(63))
    assert isinstance(results[-1], ValueError)


def test_a_waiter_that_was_cancelled_costs_nobody_anything() -> None:
    """A gRPC call that is gone leaves the outcome of its use case as it is."""

    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        doorway = Doorway()
        doorway.open(LoopReactor(loop), loop)
        future = Future[int]()
        gone, here = doorway.awaitable(future), doorway.awaitable(future)
        gone.cancel()
        future.set_result(1)
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await here

    assert asyncio.run(scenario()) == 1
