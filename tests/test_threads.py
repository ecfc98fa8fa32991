"""The doorway: at once before the reactor runs, in its thread and once a batch from then on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from mezite.threads import Doorway

T = TypeVar("T")


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what crosses into it from other threads."""

    crossings = 0

    def call_soon_threadsafe(self, callback: Any, *args: Any, **more: Any) -> asyncio.Handle:
        self.crossings += 1
        return super().call_soon_threadsafe(callback, *args, **more)


def run_in(loop: CountingLoop, scenario: Coroutine[Any, Any, T]) -> T:
    try:
        return loop.run_until_complete(scenario)
    finally:
        loop.close()


def test_before_it_is_open_results_are_delivered_where_they_are_made() -> None:
    doorway, future = Doorway(), Future[int]()
    doorway.deliver([lambda: future.set_result(7)])
    assert future.result(0) == 7


def test_a_batch_from_a_thread_crosses_once_and_wakes_everybody() -> None:
    loop = CountingLoop()

    async def scenario() -> tuple[list[Any], int]:
        doorway = Doorway()
        doorway.open(loop)
        futures = [Future[int]() for _ in range(64)]
        waiting = [doorway.awaitable(future) for future in futures]
        calls = [lambda future=future, n=n: future.set_result(n) for n, future in enumerate(futures[:-1])]
        calls.append(lambda: futures[-1].set_exception(ValueError("no")))
        thread = threading.Thread(target=doorway.deliver, args=(calls,))
        thread.start()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        thread.join()
        doorway.close()
        return results, loop.crossings

    results, crossings = run_in(loop, scenario())
    assert crossings == 1
    assert results[:-1] == list(range(63))
    assert isinstance(results[-1], ValueError)


def test_a_waiter_that_was_cancelled_costs_nobody_anything() -> None:
    """A gRPC call that is gone leaves the outcome of its use case as it is."""

    async def scenario() -> int:
        doorway = Doorway()
        doorway.open(asyncio.get_running_loop())
        future = Future[int]()
        gone, here = doorway.awaitable(future), doorway.awaitable(future)
        gone.cancel()
        future.set_result(1)
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await here

    assert asyncio.run(scenario()) == 1


def test_what_is_submitted_in_one_turn_is_submitted_together_and_in_order() -> None:
    """After the rest of the turn; one that cannot be submitted fails alone."""
    order: list[object] = []

    def refuse() -> Future[int]:
        raise ValueError("closed")

    async def scenario() -> list[Any]:
        doorway = Doorway()
        doorway.open(asyncio.get_running_loop())
        futures = [Future[int]() for _ in range(3)]

        def submit(number: int) -> Future[int]:
            order.append(number)
            return futures[number]

        waiting = [doorway.submitted(lambda number=number: submit(number)) for number in range(3)]
        waiting.insert(1, doorway.submitted(refuse))
        order.append("rest of the turn")
        await asyncio.sleep(0)
        for number, future in enumerate(futures):
            future.set_result(number)
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(scenario())
    assert order == ["rest of the turn", 0, 1, 2]
    assert [results[0], *results[2:]] == [0, 1, 2]
    assert isinstance(results[1], ValueError)


def test_who_comes_while_others_are_under_way_is_gathered() -> None:
    """All of them are submitted at once, within some milliseconds, whatever becomes of
    the first; and whoever comes alone afterwards does not wait."""
    order: list[int] = []

    async def scenario() -> None:
        doorway = Doorway()
        doorway.open(asyncio.get_running_loop())
        futures = [Future[int]() for _ in range(6)]

        def submit(number: int) -> Future[int]:
            order.append(number)
            return futures[number]

        def ask(number: int) -> asyncio.Future[int]:
            return doorway.submitted(lambda: submit(number))

        first = ask(0)
        await asyncio.sleep(0)
        assert order == [0]
        gathered = [ask(1)]
        await asyncio.sleep(0)
        gathered += [ask(2), ask(3)]
        futures[0].set_result(0)
        assert await first == 0
        assert order == [0]
        for number in (1, 2, 3):
            futures[number].set_result(number)
        assert await asyncio.wait_for(asyncio.gather(*gathered), 30) == [1, 2, 3]
        assert order == [0, 1, 2, 3]
        futures[4].set_result(4)
        # Several came together last: one more is waited for, and then nobody.
        assert await asyncio.wait_for(ask(4), 30) == 4
        alone = ask(5)
        await asyncio.sleep(0)
        assert order == [0, 1, 2, 3, 4, 5]
        futures[5].set_result(5)
        assert await alone == 5

    asyncio.run(scenario())


def test_who_has_gone_before_it_is_submitted_is_not_waited_for() -> None:
    """Its use case runs all the same: others may be told of what it did."""

    async def scenario() -> bool:
        doorway, future = Doorway(), Future[int]()
        doorway.open(asyncio.get_running_loop())
        gone = doorway.submitted(lambda: future)
        gone.cancel()
        await asyncio.sleep(0)
        future.set_result(1)
        return gone.cancelled()

    assert asyncio.run(scenario())
