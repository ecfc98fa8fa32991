"""A TCP proxy that a test tells where to break: after so many bytes of one direction."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Way(Enum):
    UP = "requests"
    DOWN = "replies"


class Act(Enum):
    CUT = "cut"
    """Both sides are closed."""
    RESET = "reset"
    """Both sides get a TCP reset."""
    STALL = "stall"
    """Nothing goes on in either direction, and nothing is closed."""
    DROP = "drop"
    """This direction is swallowed from here on; the other one goes on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one connection after *after* bytes in the direction *way*."""

    way: Way
    after: int
    act: Act


def _untouched() -> None:
    return None


class Proxy:
    """Listens on :attr:`port` of 127.0.0.1 and passes on to *target_port*.

    Each connection takes the next of the plans given, or else what *choose*
    gives, or goes through untouched.
    """

    def __init__(self, target_port: int, choose: Callable[[], Plan | None] | None = None) -> None:
        self._target = target_port
        self._choose = choose or _untouched
        self._plans: deque[Plan | None] = deque()
        self.connections = 0
        self.broken: list[Plan] = []
        """Plans that came to their byte."""
        self.is_down = False
        """Connections are refused as if nobody listened: closed at once."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        started = threading.Event()
        self._loop.call_soon(started.set)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(listener.getsockname()[1])
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=listener))
        self._thread.start()
        assert started.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def plan(self, *plans: Plan | None) -> None:
        """The next connections meet these, in order; ``None`` goes through."""
        self._plans.extend(plans)

    @property
    def planned(self) -> int:
        return len(self._plans)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(10)
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            return
        self.connections += 1
        plan = self._plans.popleft() if self._plans else self._choose()
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(up_writer)
        try:
            pipes = [
                asyncio.create_task(self._pipe(reader, up_writer, plan, Way.UP, writer)),
                asyncio.create_task(self._pipe(up_reader, writer, plan, Way.DOWN, up_writer)),
            ]
            try:
                done, _ = await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
                stalled = any(one.result() is Act.STALL for one in done if not one.exception())
                if stalled:
                    for pipe in pipes:
                        pipe.cancel()
                    await asyncio.gather(*pipes, return_exceptions=True)
                    # Whoever waits gives up first.
                    with contextlib.suppress(OSError):
                        while await reader.read(_CHUNK):
                            pass
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            self._writers.discard(up_writer)
            up_writer.transport.abort()

    async def _pipe(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        plan: Plan | None,
        way: Way,
        other: asyncio.StreamWriter,
    ) -> Act | None:
        mine = plan if plan is not None and plan.way is way else None
        passed = 0
        while True:
            if mine is not None and passed >= mine.after:
                return await self._break(mine, reader, (writer, other))
            data = await reader.read(_CHUNK if mine is None else min(_CHUNK, mine.after - passed))
            if not data:
                return None
            writer.write(data)
            await writer.drain()
            passed += len(data)

    async def _break(
        self, plan: Plan, reader: asyncio.StreamReader, writers: tuple[asyncio.StreamWriter, ...]
    ) -> Act:
        self.broken.append(plan)
        if plan.act is Act.DROP:
            while await reader.read(_CHUNK):
                pass
        if plan.act is Act.RESET:
            for writer in writers:
                found = writer.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return plan.act
