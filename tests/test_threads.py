"""The doorway: at once before the reactor runs, in its thread and once a batch from then on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from twisted.internet import defer
from twisted.internet.task import Clock

from mezite.threads import MOST_TOGETHER, Doorway, Gathering

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


def test_a_timeout_of_twisted_is_one_and_leaves_the_use_case_as_it_is() -> None:
    """Whoever gives up waiting is told of the timeout, and of nothing else."""

    async def scenario() -> tuple[object, int]:
        loop = asyncio.get_running_loop()
        doorway, clock = Doorway(), Clock()
        doorway.open(loop)
        future = Future[int]()
        gone = doorway.deferred(future)
        gone.addTimeout(2, clock)
        ended = gone.asFuture(loop)
        clock.advance(3)
        with pytest.raises(defer.TimeoutError) as told:
            await ended
        future.set_result(1)
        return told.type, await doorway.deferred(future).asFuture(loop)

    assert asyncio.run(scenario()) == (defer.TimeoutError, 1)


class Submitted:
    """A storage's part: takes what comes together, and answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.error: Exception | None = None
        self._arrived = asyncio.Event()

    def __call__(self, waiters: Sequence[Any]) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append(list(waiters))
        self._arrived.set()

    async def come(self, count: int) -> None:
        """There are *count* batches."""
        while len(self.batches) < count:
            self._arrived.clear()
            await self._arrived.wait()

    @property
    def names(self) -> list[list[str]]:
        return [[waiter.use_case(None) for waiter in batch] for batch in self.batches]

    def answer(self, batch: int) -> None:
        """Each gets what its use case gives."""
        for waiter in self.batches[batch]:
            assert waiter.start()
            waiter.settle(waiter.use_case(None), None)


def prepare(name: str) -> Callable[[], Callable[[Any], str]]:
    return lambda: lambda transaction: name


Scenario = Callable[[Gathering, Submitted], Coroutine[Any, Any, None]]


def gathering(scenario: Scenario) -> None:
    async def run() -> None:
        doorway, submitted = Doorway(), Submitted()
        doorway.open(asyncio.get_running_loop())
        await scenario(Gathering(doorway, submitted), submitted)

    asyncio.run(run())


def test_what_comes_in_one_turn_is_submitted_together_and_in_order() -> None:
    """After the rest of the turn; one that cannot be prepared fails alone."""

    def refuse() -> Callable[[Any], str]:
        raise ValueError("no such thing")

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        waiting = [ask(prepare("a"), str.upper), ask(refuse, str.upper), ask(prepare("b"), str.upper)]
        assert submitted.batches == []
        await asyncio.sleep(0)
        assert submitted.names == [["a", "b"]]
        submitted.answer(0)
        a, refused, b = await asyncio.gather(*waiting, return_exceptions=True)
        assert (a, b) == ("A", "B")
        assert isinstance(refused, ValueError)

    gathering(scenario)


def test_who_comes_while_others_are_under_way_is_gathered() -> None:
    """All of them are submitted at once, within some milliseconds, whatever becomes of
    the first; and whoever comes alone afterwards does not wait."""

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        first = ask(prepare("a"), str)
        await asyncio.sleep(0)
        assert submitted.names == [["a"]]
        gathered = [ask(prepare("b"), str)]
        await asyncio.sleep(0)
        gathered += [ask(prepare("c"), str), ask(prepare("d"), str)]
        submitted.answer(0)
        assert await first == "a"
        assert submitted.names == [["a"]]
        await submitted.come(2)
        submitted.answer(1)
        assert await asyncio.gather(*gathered) == ["b", "c", "d"]
        assert submitted.names == [["a"], ["b", "c", "d"]]
        # Several came together last: one more is waited for, and then nobody.
        late = ask(prepare("e"), str)
        await submitted.come(3)
        submitted.answer(2)
        assert await late == "e"
        alone = ask(prepare("f"), str)
        await asyncio.sleep(0)
        assert submitted.names[3:] == [["f"]]
        submitted.answer(3)
        assert await alone == "f"

    gathering(scenario)


def test_what_cannot_be_finished_fails_alone() -> None:
    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        waiting = [ask(prepare("a"), int), ask(prepare("1"), int)]
        await submitted.come(1)
        submitted.answer(0)
        failed, done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(failed, ValueError)
        assert done == 1

    gathering(scenario)


def test_very_many_are_submitted_a_part_at_a_time() -> None:
    """So that the loop does something else in between, and in their order."""

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        names = [str(number) for number in range(MOST_TOGETHER + 5)]
        waiting = [ask(prepare(name), str) for name in names]
        await asyncio.sleep(0)
        assert submitted.names == [names[:MOST_TOGETHER]]
        await submitted.come(2)
        submitted.answer(1)
        submitted.answer(0)
        assert await asyncio.gather(*waiting) == names

    gathering(scenario)


def test_what_a_storage_does_not_take_fails_together() -> None:
    """And the next to come does not wait for them."""

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        submitted.error = ValueError("closed")
        waiting = [ask(prepare(name), str) for name in "ab"]
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert failed == [submitted.error, submitted.error]
        submitted.error = None
        alone = ask(prepare("c"), str)
        await submitted.come(1)
        submitted.answer(0)
        assert await alone == "c"

    gathering(scenario)


def test_who_has_gone_before_it_is_submitted_is_not_waited_for() -> None:
    """Its use case runs all the same: others may be told of what it did."""

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        gone = ask(prepare("a"), str)
        gone.cancel()
        await asyncio.sleep(0)
        submitted.answer(0)
        assert gone.cancelled()
        assert ask.under_way == 0

    gathering(scenario)


def test_what_no_future_takes_is_an_answer_too() -> None:
    """An asyncio future refuses StopIteration."""

    def stop() -> Callable[[Any], str]:
        raise StopIteration

    async def scenario(ask: Gathering, submitted: Submitted) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(ask(stop, str), 30)

    gathering(scenario)
