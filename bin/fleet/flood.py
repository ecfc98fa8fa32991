"""`bin/herd --flood`: strangers who want nothing good, while a few daemons renew; and what it costs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import cpu_seconds, peak_mb, resident_mb
from benchmarks.server import AuthServer

from fleet.audit import ISSUED
from fleet.figures import finish
from fleet.herd import all_pages
from mezite.certs import keys
from mezite.core.request import RENEW, Issued, RenewRequest, TokenText
from mezite.rpc import messages
from tests.system.processes import die_with_parent, wait_for
from tests.system.wire import Asker, Question, Wire, joining, wishes

OWN = "127.0.0.1"
"""The address of the daemons, and of all who do not choose another."""
STRANGE = tuple(f"127.0.0.{number}" for number in range(2, 10))
AT_ONCE = 64
BATCH = 1000
DAEMONS = 3
INTERVAL = "2s"
"""Between a daemon's renewals."""
GAP = "longest between two of a daemon, s"
MOST_GAP = 15.0
"""Seconds; times in the audit log are whole ones, and the machine is shared with the strangers."""
HELD = 30.0
"""Seconds that silent connections are kept up."""


@dataclass(frozen=True, slots=True)
class Target:
    """What strangers know: where the server is, its CA, and what a log or a leaked token tells."""

    port: int
    ca_pem: bytes
    token: TokenText
    instance: str


@dataclass(frozen=True, slots=True)
class Flood:
    what: str
    send: Callable[[Target, str, int], Awaitable[Counter[str]]]
    """*count* of them from an address; what became of them."""
    sources: tuple[str, ...]
    share: float
    """Of all that is sent."""


@contextlib.asynccontextmanager
async def _relay(target: Target, source: str) -> Any:
    """A port whose connections come to the server from *source*: gRPC's clients choose no address."""
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    talks: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        try:
            there = await asyncio.open_connection("127.0.0.1", target.port, local_addr=(source, 0))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait([talk for talk in talks if talk is not None], timeout=10)


async def _ask(target: Target, source: str, count: int, question: Callable[[], Question]) -> Counter[str]:
    found: Counter[str] = Counter()
    async with _relay(target, source) as port:
        wire = Wire(port, target.ca_pem)
        try:
            await wire.open()
            for first in range(0, count, BATCH):
                some = min(BATCH, count - first)
                pending = iter([question() for _ in range(some)])

                async def ask(questions: Iterator[Question] = pending) -> None:
                    for one in questions:
                        answer = await wire.send(one, wire.message(one), sum(found.values()))
                        found["issued" if isinstance(answer, Issued) else answer.code] += 1

                await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
        finally:
            await wire.close()
    return found


async def guesses(target: Target, source: str, count: int) -> Counter[str]:
    """Joins with a secret made up."""
    asker, token = Asker(), target.token
    return await _ask(
        target, source, count,
        lambda: joining(TokenText(token.id, os.urandom(16).hex(), token.pin), asker),
    )


async def forgeries(target: Target, source: str, count: int) -> Counter[str]:
    """Renewals of a real instance, by a key and with a certificate of one's own."""
    asker, wanted = Asker(), Asker()
    request = RenewRequest(
        target.instance, 1, keys.public_blob(asker.lineage), os.urandom(300),
        keys.public_blob(wanted.lineage), wanted.ssh_keys, wishes(),
    )
    question = Question(RENEW, messages.renew_body(request), asker.lineage)
    return await _ask(target, source, count, lambda: question)


async def garbage(target: Target, source: str, count: int) -> Counter[str]:
    """Connections that send what is no TLS."""
    found: Counter[str] = Counter()

    async def one() -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port, local_addr=(source, 0))
            writer.write(os.urandom(512))
            async with asyncio.timeout(30):
                await reader.read()
            writer.close()
            found["ended by the server"] += 1
        except TimeoutError:
            found["not ended in 30 s"] += 1
        except OSError:
            found["ended by the server"] += 1

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(one() for _ in range(min(AT_ONCE, count - first))))
    return found


async def silence(target: Target, source: str, count: int) -> Counter[str]:
    """Connections on which nothing is said, each made again when the server ends it."""
    found: Counter[str] = Counter()

    async def hold(until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", target.port, local_addr=(source, 0)
                )
            except OSError:
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(left):
                    await reader.read()
                    found["ended by the server"] += 1
            writer.close()

    await asyncio.gather(*(hold(time.monotonic() + HELD) for _ in range(count)))
    return found


FLOODS = (
    Flood("guessed tokens, other addresses", guesses, STRANGE, 0.3),
    Flood("guessed tokens, the daemons' address", guesses, (OWN,), 0.2),
    Flood("forged renewals, other addresses", forgeries, STRANGE, 0.2),
    Flood("forged renewals, the daemons' address", forgeries, (OWN,), 0.1),
    Flood("what is no TLS", garbage, STRANGE, 0.2),
    Flood("silent connections", silence, STRANGE, 0.02),
)


def strangers(pipe: Connection, flood: Flood, target: Target, count: int) -> None:
    """A process's whole life; what became of what it sent goes into *pipe*."""
    die_with_parent()

    async def send() -> Counter[str]:
        each = count // len(flood.sources)
        parts = await asyncio.gather(*(flood.send(target, source, each) for source in flood.sources))
        return sum(parts, Counter())

    pipe.send(asyncio.run(send()))


class Watch:
    """The server, its daemons and its operators, looked at from outside."""

    def __init__(self, server: AuthServer) -> None:
        self._server = server

    def renewals(self) -> dict[str, list[float]]:
        """When each instance got its certificates, by the audit log."""
        found: dict[str, list[float]] = {}
        for event in self.events():
            if event["event_type"] == ISSUED:
                at = datetime.fromisoformat(event["timestamp"]).timestamp()
                found.setdefault(event["resource_name"], []).append(at)
        return {instance: sorted(times) for instance, times in found.items()}

    def events(self) -> list[dict[str, Any]]:
        return list(all_pages(self._server, "audit.ls", "events"))

    def seconds_of(self, *words: str) -> float:
        """That a mezctl takes, which must succeed."""
        began = time.monotonic()
        self._server.ctl(*words)
        return time.monotonic() - began

    def during(self, flood: Flood, target: Target, count: int) -> dict[str, Any]:
        server, spawn = self._server, multiprocessing.get_context("spawn")
        mine, its = spawn.Pipe(duplex=False)
        process = spawn.Process(target=strangers, args=(its, flood, target, count), daemon=True)
        log = server.root / "server.log"
        rows, logged, cpu = len(self.events()), log.stat().st_size, cpu_seconds(server.pid)
        began, since = time.time(), time.monotonic()
        process.start()
        its.close()
        commands: dict[str, list[float]] = {"mezctl status": [], "mezctl bots ls": []}
        try:
            is_over = False
            while not is_over:
                for command, times in commands.items():
                    times.append(self.seconds_of(*command.split()[1:]))
                is_over = mine.poll(1)
            found: Counter[str] = mine.recv()
        finally:
            process.kill()
            process.join()
        seconds, ended = time.monotonic() - since, time.time()
        cpu = cpu_seconds(server.pid) - cpu
        renewed = self.renewals()
        gaps = {instance: longest_gap(times, began, ended) for instance, times in renewed.items()}
        after = len(self.events())
        mine_rows = sum(began <= at <= ended for times in renewed.values() for at in times)
        sent = sum(found.values())
        return {
            **found, "a second": round(sent / seconds),
            "server's CPU for each, µs": round(cpu / max(sent, 1) * 1e6),
            "renewals meanwhile": mine_rows,
            GAP: round(max(gaps.values()), 1),
            "mezctl status, longest, ms": round(max(commands["mezctl status"]) * 1e3),
            "mezctl bots ls, longest, ms": round(max(commands["mezctl bots ls"]) * 1e3),
            "audit rows besides renewals": after - rows - mine_rows,
            "log, bytes": log.stat().st_size - logged,
            "server's memory, MB": round(resident_mb(server.pid)),
        }


def longest_gap(times: list[float], began: float, ended: float) -> float:
    """Between two renewals, or a renewal and the end, of those that reach into the flood."""
    before = [at for at in times if at < began][-1:] or [began]
    within = [*before, *(at for at in times if began <= at <= ended), ended]
    return max(after - at for at, after in itertools.pairwise(within))


def flood(count: int, root: Path, floods: Sequence[Flood] = FLOODS) -> dict[str, Any]:
    """The figures of *count* requests and connections, by kind; everything lies below *root*."""
    server = AuthServer(root, {"ssh": {"enabled": False}})
    try:
        server.start()
        server.put_role("deploy")
        for number in range(DAEMONS):
            machine = server.machine(f"machine{number}")
            token_text = server.new_bot(f"good{number}")
            machine.daemon(f"--join-token={token_text}", f"--renewal-interval={INTERVAL}")
        token = TokenText.from_text(server.new_bot("aim"))
        watch = Watch(server)
        wait_for(lambda: _have_renewed(watch.renewals()), "renewals")
        target = Target(
            server.port, server.ctl("ca", "export", "--type=server").encode(), token, min(watch.renewals())
        )
        at_start = resident_mb(server.pid)
        figures: dict[str, Any] = {
            "load average": round(os.getloadavg()[0], 1), "server's memory before, MB": round(at_start),
        }
        for one in floods:
            figures[one.what] = watch.during(one, target, int(count * one.share))
        figures["server's memory at its most, MB"] = round(peak_mb(server.pid))
        figures["locks"] = len(server.admin().call("locks.ls", {})["locks"])
        return figures
    finally:
        server.close()


def _have_renewed(found: dict[str, list[float]]) -> bool:
    return len(found) == DAEMONS and all(len(times) > 2 for times in found.values())


def is_good(figures: dict[str, Any]) -> bool:
    """Whether nobody was held up, or locked."""
    gaps = [found[GAP] for found in figures.values() if isinstance(found, dict)]
    return not figures["locks"] and max(gaps) <= MOST_GAP


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/herd --flood", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="requests and connections in all")
    parser.add_argument("--only", choices=sorted({one.send.__name__ for one in FLOODS}), help="one kind")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    some = [one for one in FLOODS if given.only in (None, one.send.__name__)]
    with tempfile.TemporaryDirectory(prefix="flood") as name:
        figures = flood(given.count, Path(name), some)
    return finish(figures, is_good=is_good(figures), as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
