"""A crowd before a server of any strength: all are served about as fast as it can, in the order they came."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from statistics import mean

import pytest

from mezite.core.admission import Admission, Kind, Limits
from mezite.core.throughput import Throughput

PATIENCE_S = 20.0
"""A client's, for an answer."""
HOME = "192.0.2.1"


class World:
    """Machines that come, and come again up to a tenth later than they are told, before
    a server that answers one after the other, *strength* of them a second."""

    def __init__(self, room: int, strength: float) -> None:
        self.strength = strength
        self.admission = Admission(Limits(waiting=room), 0.0)
        self.tries: list[int] = []
        self.begun: list[float] = []
        self.ended: list[float] = []
        self._chance = random.Random(1)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._queue: deque[tuple[int, float]] = deque()
        self._is_busy = False

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def crowd(self, when: float, count: int) -> range:
        """Their numbers; all come within a tenth of a second."""
        first = len(self.tries)
        for number in range(first, first + count):
            self.tries.append(0)
            self.begun.append(when)
            self.ended.append(float("inf"))
            self._comes(when + 0.1 * (number - first) / count, number)
        return range(first, first + count)

    def run(self, until: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until:
            now, _, what = heapq.heappop(self._events)
            what(now)

    def _comes(self, when: float, number: int) -> None:
        self.at(when, lambda now: self._come(now, number))

    def _come(self, now: float, number: int) -> None:
        self.tries[number] += 1
        wait = self.admission.enter(Kind.RENEW, HOME, now)
        if wait is None:
            self._queue.append((number, now))
            self._serve(now)
        else:
            assert wait >= 1
            self._comes(now + wait * (1 + 0.1 * self._chance.random()), number)

    def _serve(self, now: float) -> None:
        while self._queue and not self._is_busy:
            number, came = self._queue.popleft()
            if now - came > PATIENCE_S:
                self.admission.leave(Kind.RENEW, HOME, now, given_up=True)
                self._comes(now + 30 * (1 + self._chance.random()), number)
                continue
            self._is_busy = True
            self.at(now + 1 / self.strength, lambda then, number=number: self._answer(then, number))

    def _answer(self, now: float, number: int) -> None:
        self.ended[number] = now
        self.admission.leave(Kind.RENEW, HOME, now, proven=True)
        self._is_busy = False
        self._serve(now)

    def waits(self, numbers: Sequence[int]) -> list[float]:
        return [self.ended[number] - self.begun[number] for number in numbers]


@pytest.mark.parametrize("room", [8, 100, 1000])
@pytest.mark.parametrize("strength", [5, 50, 500])
def test_all_of_a_crowd_are_served_about_as_fast_as_the_server_can(strength: int, room: int) -> None:
    """Who comes first is told by the pace that it begins with, 200 a second."""
    count = min(3000, 300 * strength)
    world = World(room, strength)
    crowd = world.crowd(0.0, count)
    world.run()
    assert max(world.waits(crowd)) <= 1.2 * count / min(strength, 200) + 10
    assert mean(world.tries) <= 4
    assert max(world.tries) <= 12


@pytest.mark.parametrize("room", [8, 100, 1000])
def test_a_server_that_is_faster_than_was_thought_serves_a_crowd_in_its_order(room: int) -> None:
    world = World(room, 500)
    crowd = world.crowd(0.0, 3000)
    world.run()
    quarters = [mean(world.waits(crowd[first : first + 750])) for first in range(0, 3000, 750)]
    assert quarters == sorted(quarters)
    assert max(world.tries) <= 3


@pytest.mark.parametrize("room", [8, 100, 1000])
@pytest.mark.parametrize(("before", "after"), [(50, 500), (500, 50), (50, 5)])
def test_the_pace_follows_a_server_that_changes(before: int, after: int, room: int) -> None:
    """Up or down by ten, within one crowd; the next one is served as fast as the server can."""
    world = World(room, before)
    world.crowd(0.0, 20 * before)
    world.run()
    begun = max(world.ended) + 60
    world.strength = after
    world.crowd(begun, 20 * after)
    world.run()
    begun = max(world.ended) + 60
    tried = sum(world.tries)
    crowd = world.crowd(begun, 20 * after)
    world.run()
    assert max(world.waits(crowd)) <= 1.5 * 20 + 10
    assert (sum(world.tries) - tried) / len(crowd) <= 3


@pytest.mark.parametrize("room", [8, 1000])
def test_whoever_comes_as_he_was_told_does_not_keep_the_pace_low(room: int) -> None:
    """A server that was slow for a while, and is fast again: what comes at the low pace is answered fast."""
    world = World(room, 2)
    world.crowd(0.0, 400)
    world.run(60.0)
    assert world.admission.pace < 10
    world.strength = 400
    world.run(75.0)
    assert world.admission.pace > 200


def test_a_standstill_takes_no_more_than_half_of_the_pace() -> None:
    """Those who are told times by it could not be called back."""
    throughput = Throughput(100, 0.0)
    throughput.pace = 400.0
    for _ in range(100):
        throughput.enter(0.0)
    throughput.turn_away()
    throughput.leave(30.0, is_answered=True, is_awaited=True)
    assert 200 <= throughput.pace < 201


def test_hours_with_little_to_do_lower_no_pace_and_prove_no_great_one() -> None:
    """Requests refused in a tenth of a millisecond say nothing of a renewal's cost."""
    throughput = Throughput(1000, 0.0)
    for begun, cost in (0, 0.1), (10_000, 0.0001):
        for second in range(begun, begun + 10_000, 5):
            throughput.enter(second)
            throughput.leave(second + cost, is_answered=True, is_awaited=False)
        assert throughput.pace == 200


def test_a_pace_that_was_low_once_is_raised_by_single_answers() -> None:
    throughput = Throughput(1000, 0.0)
    throughput.pace = 1.0
    for second in range(10):
        throughput.enter(second)
        throughput.leave(second + 0.01, is_answered=True, is_awaited=False)
    assert 99 < throughput.pace < 101
