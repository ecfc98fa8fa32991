"""The daemon's machine (mezite/identity/machine.py) without a daemon: it sleeps until something is due."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from mezite.core.request import Issued
from mezite.errors import MeziteError, Refused, UntrustedServer
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
    Untrusted,
    WasRefused,
)
from mezite.identity.machine import step
from mezite.identity.records import GenerationKeys, Held
from mezite.identity.service import TICK
from mezite.identity.states import Phase, State


class World(Protocol):
    """Where machines live: its time, its chance, its server.  Times are seconds since *epoch*."""

    epoch: datetime
    chance: random.Random

    def keys(self) -> GenerationKeys:
        """For one generation."""

    def publish(self, held: Held) -> None:
        """*held* is what its readers find."""

    def send(self, machine: Machine, ask: Ask, at: float) -> None:
        """:meth:`Machine.heard` follows."""

    def at(self, when: float, what: Callable[[float], None]) -> None:
        """*what* is called at *when* or soon after, with the time that it is then."""


@dataclass
class Gap:
    """A time in which a machine had no valid certificate."""

    begin: float
    end: float


@dataclass
class Machine:
    """One daemon, whose disk never fails; *begins* is when its ticks began."""

    world: World
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

    def start(self, at: float) -> None:
        self.feed(Start(), at)

    def feed(self, event: Event, at: float) -> None:
        events = deque([event])
        while events:
            chance = self.world.chance.random()
            now = Moment(timedelta(seconds=at), self.world.epoch + timedelta(seconds=at), chance)
            self.state, actions = step(self.state, events.popleft(), now)
            for action in actions:
                answer = self._perform(action, at)
                if answer is not None:
                    events.append(answer)
        self.sleep(at)

    def _perform(self, action: Action, at: float) -> Event | None:
        match action:
            case MakeKeys():
                return KeysMade(self.world.keys())
            case Save():
                return Saved()
            case CheckDestination():
                return DestinationReady()
            case Publish(held):
                self.world.publish(held)
                return Published()
            case Ask():
                self.world.send(self, action, at)
            case Finish():
                self.finished = action
        return None

    def sleep(self, at: float) -> None:
        """Wakes at the tick on or after what is due."""
        state = self.state
        due = {Phase.WAITING: state.retry_due, Phase.HOLDING: state.renew_due}.get(state.phase)
        if due is None:
            return
        tick = TICK.total_seconds()
        wanted = max(due.monotonic.total_seconds(), at)
        ticks = math.ceil((wanted - self.begins) / tick - 1e-9)
        wake = self.begins + max(ticks, 1) * tick
        self.woken_for = wake
        self.world.at(wake, lambda now: self._wake(wake, now))

    def _wake(self, wake: float, now: float) -> None:
        if self.woken_for == wake:
            self.feed(Tick(), now)

    def heard(self, answer: Issued | MeziteError, at: float) -> None:
        if isinstance(answer, Issued):
            if self.valid_until is not None and at > self.valid_until:
                self.gaps.append(Gap(self.valid_until, at))
            self.renewed_at.append(at)
            self.valid_until = (answer.server_time - self.world.epoch + answer.ttl).total_seconds()
            self.feed(Answered(answer), at)
        elif isinstance(answer, Refused):
            self.feed(WasRefused(answer), at)
        elif isinstance(answer, UntrustedServer):
            self.feed(Untrusted(answer), at)
        else:
            self.feed(Unanswered(answer), at)
