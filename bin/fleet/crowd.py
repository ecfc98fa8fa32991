"""Many machines in one process, in real time, before a real server: a fresh connection for each question."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as EventType
from typing import Any

from fleet.machines import Machine
from mezite.certs import keys
from mezite.certs.ssh import parse_certificate_line
from mezite.core.request import Issued
from mezite.errors import MeziteError, NoAnswer, Refused, Unreachable
from mezite.identity.destination import Memory
from mezite.identity.events import Ask
from mezite.identity.places import Outlets
from mezite.identity.records import OUTPUT, GenerationKeys, Held
from mezite.identity.remote import GrpcRemote, Known
from mezite.identity.service import make_keys
from mezite.identity.states import State
from tests.system.processes import die_with_parent

OK, SILENCE = "ok", "no_answer"
TURNED_DOWN = "each of them has asked in vain"


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since *epoch*, the same in all processes of this machine."""

    epoch: datetime
    began: float
    """The monotonic clock at that moment."""

    def now(self) -> float:
        return time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A machine on its way into a crowd."""

    begins: float
    state: State
    valid_until: float

    @classmethod
    def of(cls, machine: Machine) -> Newcomer:
        assert machine.valid_until is not None
        return cls(machine.begins, machine.state, machine.valid_until)


@dataclass(frozen=True, slots=True)
class Question:
    asked: float
    heard: float
    outcome: str
    """:data:`OK`, :data:`SILENCE`, the reason of a refusal, or an error's code."""
    told: float = 0.0
    """Seconds after which the server wants to be asked again."""


@dataclass
class Record:
    """What one machine went through."""

    instance: str
    generation: int = 0
    questions: list[Question] = field(default_factory=list)
    """In their order."""
    gaps: int = 0
    """Times without a valid certificate."""
    trouble: str = ""
    """Why it has ended, where it has."""


class Home:
    """The world of one machine: its published files, and what it has gone through."""

    def __init__(self, crowd: Crowd, newcomer: Newcomer) -> None:
        self.epoch, self.chance = crowd.clock.epoch, crowd.chance
        self._crowd = crowd
        self._place = Memory()
        self._outlets = Outlets({OUTPUT: [self._place]})
        self.machine = Machine(self, newcomer.begins, newcomer.state, newcomer.valid_until)
        self.record = Record(self._held.instance_id)
        self.publish(self._held)

    @property
    def _held(self) -> Held:
        held = self.machine.state.durable.held
        assert held is not None
        return held

    def end(self) -> Record:
        """What became of it, looked at now."""
        record, machine, held = self.record, self.machine, self._held
        assert machine.valid_until is not None
        record.generation = held.generation
        record.gaps = len(machine.gaps) + (machine.valid_until < self._crowd.clock.now())
        line = self._place.published()["ssh_key-cert.pub"].decode()
        if parse_certificate_line(line).blob != held.certificates[0]:
            record.trouble = "what is published is not what it holds"
        if machine.finished is not None:
            record.trouble = str(machine.finished.error)
        return record

    # --- what a machine asks of a world -------------------------------------------------------

    def keys(self) -> GenerationKeys:
        return make_keys()

    def publish(self, held: Held) -> None:
        self._outlets.publish(held, timedelta(seconds=self._crowd.clock.now()))

    def at(self, when: float, what: Callable[[float], None]) -> None:
        self._crowd.at(when, what)

    def send(self, machine: Machine, ask: Ask, at: float) -> None:
        self._crowd.converse(lambda: self._ask(ask))

    async def _ask(self, ask: Ask) -> None:
        key, now = keys.private_from_pem(ask.signer_pem, None), self._crowd.clock.now
        asked = now()
        answer: Issued | MeziteError
        try:
            if self._crowd.is_away():
                await self._crowd.knock()
            answer = await self._crowd.remote.ask(
                ask.request, lambda data: keys.sign(key, data), Known(trust=self._held.trust), ask.nonce
            ).asFuture(asyncio.get_running_loop())
        except MeziteError as error:
            answer = error
        heard = now()
        self.record.questions.append(_question(answer, asked, heard))
        self.machine.heard(answer, heard)
        self._crowd.note(self, is_over=isinstance(answer, Issued) or self.machine.finished is not None)


class Crowd:
    """Machines before the server on *port*; *turned_down* is called once, when each has asked in vain.

    At most *at_once* of them talk to the server; the others wait, in order, as real ones need not: each
    has a processor of its own, and here a handshake that all wait for would be late for all.  While
    *is_away* they knock first: a whole client for each connection that is refused would cost too much.
    """

    def __init__(
        self, port: int, clock: Clock, newcomers: Sequence[Newcomer], seed: int,
        at_once: int, turned_down: Callable[[], None], is_away: Callable[[], bool],
    ) -> None:
        self.is_away = is_away
        self.clock = clock
        self.chance = random.Random(seed)
        self._turned_down = turned_down
        self._loop = asyncio.get_running_loop()
        self._port = port
        self.remote = GrpcRemote(self._loop, "127.0.0.1", port)
        self._at_once = at_once
        self._talking: set[asyncio.Task[None]] = set()
        # No tasks: grpc.aio looks at every task there is whenever a channel is closed.
        self._waiting: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._homes = [Home(self, newcomer) for newcomer in newcomers]
        self._untroubled = set(self._homes)
        self._unrenewed = set(self._homes)

    async def live(self, until: float) -> list[Record]:
        """What became of each, when all have renewed, or ended, or it is *until*."""
        for home in self._homes:
            home.machine.sleep(self.clock.now())
        with contextlib.suppress(TimeoutError):  # the records tell who has not renewed
            await asyncio.wait_for(self._done, until - self.clock.now())
        return [home.end() for home in self._homes]

    def at(self, when: float, what: Callable[[float], None]) -> None:
        def wake() -> None:
            try:
                what(self.clock.now())
            except Exception as error:
                self._break_off(error)

        self._loop.call_later(max(0.0, when - self.clock.now()), wake)

    def converse(self, conversation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """It begins when it is its turn."""
        self._waiting.append(conversation)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._talking) < self._at_once:
            task = self._loop.create_task(self._waiting.popleft()())
            self._talking.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._talking.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break_off(error)
        self._go_on()

    async def knock(self) -> None:
        """Raises :class:`Unreachable` where nobody listens."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            raise Unreachable("nobody listens there") from None
        writer.close()

    def _break_off(self, error: BaseException) -> None:
        """What no machine has an answer to is raised by :meth:`live`."""
        if not self._done.done():
            self._done.set_exception(error)

    def note(self, home: Home, *, is_over: bool) -> None:
        """A question of its machine was answered; *is_over*: with what it wanted, or for good."""
        if is_over:
            self._unrenewed.discard(home)
        elif home in self._untroubled:
            self._untroubled.discard(home)
            if not self._untroubled:
                self._turned_down()
        if not self._unrenewed and not self._done.done():
            self._done.set_result(None)


def _question(answer: Issued | MeziteError, asked: float, heard: float) -> Question:
    if isinstance(answer, Issued):
        return Question(asked, heard, OK)
    if isinstance(answer, NoAnswer):
        return Question(asked, heard, SILENCE)
    told = answer.retry_after_ms / 1000 if isinstance(answer, Refused) else 0.0
    return Question(asked, heard, answer.code, told)


def run(
    pipe: Connection, port: int, clock: Clock, newcomers: Sequence[Newcomer], seed: int,
    at_once: int, until: float, back: EventType,
) -> None:
    """A process's whole life.  Into *pipe* goes :data:`TURNED_DOWN`, if that comes, and then the records.

    *back* is set when the server is about to be back.
    """
    die_with_parent()

    def is_away() -> bool:
        return not back.is_set()

    async def live() -> list[Record]:
        crowd = Crowd(port, clock, newcomers, seed, at_once, lambda: pipe.send(TURNED_DOWN), is_away)
        gc.collect()
        gc.freeze()  # thousands of machines, of which none goes away
        return await crowd.live(until)

    pipe.send(asyncio.run(live()))
