"""`bin/herd`: thousands of machines that are all due when their server comes back; and the figures."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.measure import cpu_seconds, peak_mb, resident_mb
from benchmarks.server import AuthServer

from fleet.audit import check
from fleet.crowd import TURNED_DOWN, Clock, Newcomer, Record, run
from fleet.deeds import pages
from fleet.figures import finish
from fleet.founding import Founding
from fleet.waits import figures_of, is_served
from mezite.core.duration import parse_duration
from mezite.core.request import TokenText

PER_BOT = 100
AGE = 0.44
"""So much of their certificates' life is over when the server goes away: the first are due
a hundredth later, the last at half of it."""
MOST_WAIT = 600.0
"""Seconds until a crowd has asked in vain."""


@dataclass(frozen=True, slots=True)
class Settings:
    machines: int = 10_000
    seed: int = 1
    ttl: timedelta = timedelta(minutes=10)
    processes: int = 4
    """That the machines share."""
    at_once: int = 400
    """So many of them talk to the server at a time: more than it lets wait."""
    waiting: int = 200
    """The server's `limits.waiting`, a fifth of the default: it shares its processors with all of them."""


@dataclass(frozen=True, slots=True)
class Herd:
    """A fleet before its server, and how long it took to make."""

    newcomers: list[Newcomer]
    clock: Clock
    seconds: float
    uses: dict[str, int]
    """Of each join token."""


def herd(settings: Settings, root: Path) -> dict[str, Any]:
    """The figures of one herd; everything lies below *root*, and ends with it."""
    server = AuthServer(root, {"ssh": {"enabled": False}, "limits": {"waiting": settings.waiting}})
    try:
        server.start()
        found = _founded(settings, server)
        with _crowds(settings, server.port, found) as (pipes, is_back):
            for pipe in pipes:
                _expect_outage(pipe)
            is_back.set()
            load, back = os.getloadavg()[0], found.clock.now()
            server.start()
            at_start, cpu = resident_mb(server.pid), cpu_seconds(server.pid)
            records = [record for pipe in pipes for record in _records(pipe)]
            cpu = cpu_seconds(server.pid) - cpu
        memory = {
            "server's memory when it was back, MB": round(at_start, 1),
            "server's memory at its most, MB": round(peak_mb(server.pid), 1),
            "server's memory afterwards, MB": round(resident_mb(server.pid), 1),
        }
        return {
            "machines": settings.machines,
            "certificates last, in seconds": settings.ttl.total_seconds(),
            "load average when the server was back": round(load, 1),
            "joined in, seconds": round(found.seconds, 1),
            **figures_of(records, back),
            "server's CPU for each machine, ms": round(cpu / settings.machines * 1e3, 2),
            **memory,
            **_agreement(server, records, found.uses),
        }
    finally:
        server.close()


def _founded(settings: Settings, server: AuthServer) -> Herd:
    """All have joined a while ago, by the rules of *server*, which is stopped."""
    server.put_role("deploy")
    texts = []
    for first in range(0, settings.machines, PER_BOT):
        count = min(PER_BOT, settings.machines - first)
        texts += [server.new_bot(f"herd{first // PER_BOT:04}", count)] * count
    assert server.server is not None
    if server.server.stop() != 0:
        raise RuntimeError(server.server.text()[-2000:])
    clock = Clock(datetime.now(UTC), time.monotonic())
    age = settings.ttl.total_seconds() * AGE
    founding = Founding(
        server.data / "mezite.db", clock.epoch, lambda: clock.now() - age, random.Random(settings.seed)
    )
    try:
        tokens = [TokenText.from_text(text) for text in texts]
        machines = founding.join(tokens, settings.ttl, f"127.0.0.1:{server.port}")
    finally:
        founding.close()
    uses = Counter(token.id for token in tokens)
    return Herd([Newcomer.of(machine) for machine in machines], clock, clock.now(), uses)


@contextmanager
def _crowds(settings: Settings, port: int, found: Herd) -> Iterator[tuple[list[Connection], Event]]:
    """The processes of the machines, each of which gives its messages by its pipe; the event is to
    be set when the server is about to be back."""
    spawn = multiprocessing.get_context("spawn")
    pipes, running, is_back = [], [], spawn.Event()
    until = found.clock.now() + MOST_WAIT + settings.ttl.total_seconds()
    try:
        for number in range(settings.processes):
            mine, its = spawn.Pipe(duplex=False)
            some = found.newcomers[number :: settings.processes]
            share = max(1, settings.at_once // settings.processes)
            given = (its, port, found.clock, some, settings.seed + number, share, until, is_back)
            process = spawn.Process(target=run, args=given, daemon=True)
            process.start()
            its.close()  # so that its end is the pipe's
            pipes.append(mine)
            running.append(process)
        yield pipes, is_back
    finally:
        for process in running:
            process.kill()
            process.join()


def _expect_outage(pipe: Connection) -> None:
    if not pipe.poll(MOST_WAIT) or pipe.recv() != TURNED_DOWN:
        raise RuntimeError("the machines did not miss their server")


def _records(pipe: Connection) -> list[Record]:
    records: list[Record] = pipe.recv()
    return records


def _agreement(server: AuthServer, records: list[Record], uses: dict[str, int]) -> dict[str, Any]:
    """What the server's database and its audit log say of the same."""
    instances = {one["id"]: one["generation"] for one in all_pages(server, "instances.ls", "instances")}
    found = check(list(all_pages(server, "audit.ls", "events")), stolen=(), uses=uses)
    differ = [record for record in records if instances.get(record.instance) != record.generation]
    return {
        "generations given out again (an answer was lost)": found.counted["user.cert.reissued"],
        "machines whose generation the server does not have": len(differ),
        "promises broken, by the audit log": len(found.broken),
        "broken": found.broken,
    }


def all_pages(server: AuthServer, method: str, name: str) -> Iterator[dict[str, Any]]:
    """What *method* lists below *name*, a page after the other."""
    with closing(server.admin()) as client:
        yield from pages(lambda method, **params: client.call(method, params), method, name)


def is_good(figures: dict[str, Any]) -> bool:
    return is_served(figures) and not (
        figures["machines whose generation the server does not have"]
        or figures["promises broken, by the audit log"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/herd", description=__doc__)
    defaults = Settings()
    parser.add_argument("--machines", type=int, default=defaults.machines)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--ttl", type=parse_duration, default=defaults.ttl, metavar="LENGTH",
                        help="of a certificate; they renew at half of it")
    parser.add_argument("--processes", type=int, default=defaults.processes, help="that the machines share")
    parser.add_argument("--waiting", type=int, default=defaults.waiting, help="the server's limits.waiting")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = Settings(
        given.machines, given.seed, given.ttl, given.processes, waiting=given.waiting
    )
    with tempfile.TemporaryDirectory(prefix="herd") as name:
        figures = herd(settings, Path(name))
    return finish(figures, is_good=is_good(figures), as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
