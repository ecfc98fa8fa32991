"""Thousands of the daemon's machines (mezite/identity/machine.py) on one simulated clock."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from fleet.server import EPOCH, Server
from mezite.core.request import Issued, TokenText
from mezite.errors import MeziteError, Refused
from mezite.identity.events import (
    Action,
    Answered,
    Ask,
    CheckDestination,
    DestinationReady,
    Event,
    Finish,
    KeysMade,
    MakeKeys,
    Moment,
    Publish,
    Published,
    Save,
    Saved,
    Start,
    Tick,
    Unanswered,
    WasRefused,
)
from mezite.identity.machine import step
from mezite.identity.records import Durable, GenerationKeys
from mezite.identity.service import TICK, make_keys
from mezite.identity.states import Options, Phase, State

WAY = 0.005
"""Seconds that a message takes."""
POOL = 64
"""Sets of keys that go round: a lineage never gets the same one twice in a row."""


@dataclass
class Gap:
    """A time in which a machine had no valid certificate, in seconds since the start."""

    begin: float
    end: float


@dataclass
class Machine:
    """One daemon, its disk and its destination, which never fail."""

    fleet: Fleet
    number: int
    begins: float
    state: State
    valid_until: float | None = None
    gaps: list[Gap] = field(default_factory=list)
    finished: Finish | None = None
    renewed_at: list[float] = field(default_factory=list)
    """When answers came, the join's first."""
    woken_for: float = math.inf

    @property
    def joined_at(self) -> float:
        return self.renewed_at[0] if self.renewed_at else math.inf

    def feed(self, event: Event, at: float) -> None:
        events = deque([event])
        while events:
            chance = self.fleet.chance.random()
            now = Moment(timedelta(seconds=at), EPOCH + timedelta(seconds=at), chance)
            self.state, actions = step(self.state, events.popleft(), now)
            for action in actions:
                answer = self._perform(action, at)
                if answer is not None:
                    events.append(answer)
        self._sleep(at)

    def _perform(self, action: Action, at: float) -> Event | None:
        match action:
            case MakeKeys():
                return KeysMade(self.fleet.keys(self.number))
            case Save():
                return Saved()
            case CheckDestination():
                return DestinationReady()
            case Publish():
                return Published()
            case Ask():
                self.fleet.send(self, action, at)
            case Finish():
                self.finished = action
        return None

    def _sleep(self, at: float) -> None:
        """Wakes at the tick on or after what is due; the ticks began with the machine."""
        state = self.state
        due = {Phase.WAITING: state.retry_due, Phase.HOLDING: state.renew_due}.get(state.phase)
        if due is None:
            return
        tick = TICK.total_seconds()
        wanted = max(due.monotonic.total_seconds(), at)
        ticks = math.ceil((wanted - self.begins) / tick - 1e-9)
        wake = self.begins + max(ticks, 1) * tick
        self.woken_for = wake
        self.fleet.at(wake, lambda: self._wake(wake))

    def _wake(self, wake: float) -> None:
        if self.woken_for == wake:
            self.feed(Tick(), wake)

    def heard(self, answer: Issued | MeziteError, at: float) -> None:
        if isinstance(answer, Issued):
            if self.valid_until is not None and at > self.valid_until:
                self.gaps.append(Gap(self.valid_until, at))
            self.renewed_at.append(at)
            self.valid_until = (answer.server_time - EPOCH + answer.ttl).total_seconds()
            self.feed(Answered(answer), at)
        elif isinstance(answer, Refused):
            self.feed(WasRefused(answer), at)
        else:
            self.feed(Unanswered(answer), at)


class Fleet:
    """*count* machines with a certificate's TTL and renewal interval each, begun at the times given."""

    def __init__(
        self, server: Server, chance: random.Random, begins: Sequence[float], interval: timedelta | None
    ) -> None:
        self.server = server
        self.chance = chance
        self._pool = [make_keys() for _ in range(POOL)]
        self._drawn = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self.machines = []
        for number, begin in enumerate(begins):
            token = TokenText(f"tok-bot-{number:012x}", "0" * 32, "0" * 32)
            options = Options(token=token, interval=interval, server="auth:3025")
            machine = Machine(self, number, begin, State(options, Durable()))
            self.machines.append(machine)
            self.at(begin, lambda machine=machine, begin=begin: machine.feed(Start(), begin))

    def keys(self, number: int) -> GenerationKeys:
        return self._pool[next(self._drawn) % POOL]

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._sequence), what))

    def send(self, machine: Machine, ask: Ask, at: float) -> None:
        def arrive() -> None:
            # A join asks for the cluster first, on the same connection; the server counts it as one.
            answer = self.server.ask(at + WAY, ask.request)
            self.at(answer.at + WAY, lambda: machine.heard(answer.issued, answer.at + WAY))

        self.at(at + WAY, arrive)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            _, _, what = heapq.heappop(self._queue)
            what()
        for machine in self.machines:
            if machine.valid_until is not None and machine.valid_until < until:
                machine.gaps.append(Gap(machine.valid_until, until))
