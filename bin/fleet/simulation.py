"""Thousands of the daemon's machines (mezite/identity/machine.py) on one simulated clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from datetime import timedelta

from fleet.machines import Gap, Machine
from fleet.server import EPOCH, Server
from mezite.core.request import TokenText
from mezite.identity.events import Ask
from mezite.identity.records import Durable, GenerationKeys, Held
from mezite.identity.service import make_keys
from mezite.identity.states import Options, State

WAY = 0.005
"""Seconds that a message takes."""
POOL = 64
"""Sets of keys that go round: a lineage never gets the same one twice in a row."""


class Fleet:
    """A machine for each of *begins*, when it starts, with a renewal interval; a world of theirs."""

    epoch = EPOCH

    def __init__(
        self, server: Server, chance: random.Random, begins: Sequence[float], interval: timedelta | None
    ) -> None:
        self.server = server
        self.chance = chance
        self._pool = [make_keys() for _ in range(POOL)]
        self._drawn = itertools.count()
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = itertools.count()
        self.machines = []
        for number, begin in enumerate(begins):
            token = TokenText(f"tok-bot-{number:012x}", "0" * 32, "0" * 32)
            options = Options(token=token, interval=interval, server="auth:3025")
            machine = Machine(self, begin, State(options, Durable()))
            self.machines.append(machine)
            self.at(begin, machine.start)

    def keys(self) -> GenerationKeys:
        return self._pool[next(self._drawn) % POOL]

    def publish(self, held: Held) -> None:
        """Nobody reads it."""

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._sequence), what))

    def send(self, machine: Machine, ask: Ask, at: float) -> None:
        def arrive(now: float) -> None:
            # A join asks for the cluster first, on the same connection; the server counts it as one.
            answer = self.server.ask(now, ask.request)
            self.at(answer.at + WAY, lambda then: machine.heard(answer.issued, then))

        self.at(at + WAY, arrive)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            when, _, what = heapq.heappop(self._queue)
            what(when)
        for machine in self.machines:
            if machine.valid_until is not None and machine.valid_until < until:
                machine.gaps.append(Gap(machine.valid_until, until))
