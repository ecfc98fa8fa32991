"""A large fleet: what a renewal costs, how long a server takes to start, and to answer operators."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from msgspec.structs import replace

from benchmarks.machines import Caller, Load, Machine, Target, Work, load
from benchmarks.measure import AT_MOST, Limit, Row, Table
from benchmarks.rpc import fleet
from benchmarks.server import MANY_JOINS, AuthServer, interleaved
from benchmarks.storage import _NOW, FEW, _fill, _key
from mezite.core.model import Bot, Instance
from mezite.storage.interface import Storage, Transaction
from mezite.storage.postgres import PostgresStorage
from mezite.storage.rows import instance_row
from mezite.storage.sql import ADD_INSTANCE
from mezite.storage.sqlite import SqliteStorage
from tests.postgres import MISSING, Postgres, binaries
from tests.system.processes import call

PER_BOT = 100
PAGE = 500
AT_ONCE = 64
RENEWING = FEW // 2
"""Instances with a machine behind them, for each :data:`FEW` of a small fleet."""
_COLUMNS = ADD_INSTANCE.partition("(")[2].partition(")")[0]


class Fleet:
    """A server whose database has *size* instances, a hundred of each bot."""

    def __init__(self, root: Path, size: int, postgres: Postgres | None) -> None:
        root.mkdir()
        self._size, self._bots, self._chance = size, size // PER_BOT, Random(size)
        overrides: dict[str, Any] = {"ssh": {"enabled": False}, "limits": MANY_JOINS}
        self._params: dict[str, Any] = {}
        if postgres is not None:
            name = f"fleet{size}"
            postgres.create_database(name)
            overrides["database"] = {**postgres.config, "name": name}
            self._params = {**postgres.local_params, "dbname": name}
        self._target: Target
        self._works: list[Work] = []
        self._server = AuthServer(root, overrides)
        self._server.start()
        self._server.put_role("deploy")
        with closing(self._server.admin()) as client:
            self._ca = client.call("ca.export", {"type": "server"})["keys"][0]["text"].encode()
        self.stop()
        self._add_bots()
        self._add_instances()

    def _add_bots(self) -> None:
        path = self._server.data / "mezite.db"
        storage: Storage = PostgresStorage(self._params) if self._params else SqliteStorage(path)
        bots = [
            Bot(id=f"b{number}", name=f"b{number:06}", roles=("deployer",), created_at=_NOW)
            for number in range(self._bots)
        ]

        def add(tx: Transaction) -> None:
            for bot in bots:
                tx.add_bot(bot)

        try:
            storage.write(add).result()
        finally:
            storage.close()

    def _add_instances(self) -> None:
        if not self._params:
            _fill(self._server.data / "mezite.db", self._instances())
            return
        copy = f"copy instances ({_COLUMNS}) from stdin"
        with psycopg.connect(**self._params) as connection, connection.cursor().copy(copy) as copying:
            for instance in self._instances():
                copying.write_row(instance_row(instance))
        with psycopg.connect(**self._params, autocommit=True) as connection:
            connection.execute("vacuum analyze")

    def _instances(self) -> Iterator[Instance]:
        one = Instance(
            "", "", generation=1, lineage_key="", previous_key="", request_hash=bytes(32),
            token_id="tok-bot-000000000000", created_at=_NOW, renewed_at=_NOW, address="192.0.2.7",
            host="bench",
        )
        for number in range(self._size):
            yield replace(
                one, id=self._any_id(), bot_id=f"b{number // PER_BOT}", lineage_key=_key(number, 1)
            )

    def _any_id(self) -> str:
        return str(UUID(int=self._chance.getrandbits(128), version=4))

    # --- what is measured ---------------------------------------------------------------------

    def start_ms(self) -> float:
        """From the start of the process until it serves machines and operators."""
        started = time.perf_counter()
        self._server.start(wait=False)
        while not self._server.is_serving():
            time.sleep(0.002)
        # It listens; both are answered once it serves.
        call(self._server.port, self._ca, "/mezite.v1.IdentityService/GetCluster", b"")
        self._asked_ms("status", {})
        took = time.perf_counter() - started
        self.stop()
        return took * 1e3

    def stop(self) -> None:
        assert self._server.server is not None
        if self._server.server.stop() != 0:
            raise RuntimeError(self._server.server.text()[-2000:])

    @contextmanager
    def running(self) -> Iterator[None]:
        self._server.start()
        yield
        self.stop()

    def join(self, machines: int) -> None:
        """They are spread over all the other instances, as ids are random."""
        self._target, joined = asyncio.run(fleet(self._server, machines))
        self._works = [self._renewing(joined[start::AT_ONCE]) for start in range(AT_ONCE)]

    def _renewing(self, machines: list[Machine]) -> Work:
        async def renew(caller: Caller) -> None:
            await self._chance.choice(machines).renew(caller)

        return renew

    def renewals(self, seconds: float) -> Load:
        return asyncio.run(load(self._target, self._server.pid, self._works, fresh=False, seconds=seconds))

    def instances_ms(self) -> float:
        """From anywhere in the first quarter of the list."""
        after = str(UUID(int=self._chance.getrandbits(126), version=4))
        return self._page_ms("instances.ls", after=after, limit=PAGE)

    def instances_of_bot_ms(self) -> float:
        """All of them."""
        bot = f"b{self._chance.randrange(self._bots):06}"
        return self._page_ms("instances.ls", bot=bot, limit=PER_BOT)

    @property
    def bots_of_a_page(self) -> int:
        return min(PAGE, self._bots // 2)

    def bots_ms(self) -> float:
        after = f"b{self._chance.randrange(self._bots - self.bots_of_a_page):06}"
        return self._page_ms("bots.ls", after=after, limit=self.bots_of_a_page)

    def status_ms(self) -> float:
        """With its counts."""
        return self._asked_ms("status", {})[0]

    def command_ms(self, *words: str) -> float:
        """`mezctl`, from its start to its end."""
        started = time.perf_counter()
        self._server.ctl(*words)
        return (time.perf_counter() - started) * 1e3

    def _page_ms(self, method: str, **params: Any) -> float:
        took, page = self._asked_ms(method, params)
        if len(next(one for one in page.values() if isinstance(one, list))) != params["limit"]:
            raise RuntimeError(f"{method} gave no full page")
        return took

    def _asked_ms(self, method: str, params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """By the operator socket."""
        with closing(self._server.admin()) as client:
            started = time.perf_counter()
            answer = client.call(method, params)
            return (time.perf_counter() - started) * 1e3, answer

    def close(self) -> None:
        self._server.close()


def measure(quick: bool) -> list[Table]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    rounds, many = (1, 20_000) if quick else (5, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="mezite-bench.") as name:
        tables = _measure("SQLite", Path(name), rounds, many, None)
        if binaries() is None:
            return [*tables, Table(MISSING, "", [])]
        server = Postgres(is_durable=True)
        try:
            return [*tables, *_measure("PostgreSQL", Path(name), rounds, many, server)]
        finally:
            server.close()


def _measure(name: str, root: Path, rounds: int, many: int, server: Postgres | None) -> list[Table]:
    with closing(Fleet(root / f"{name}-few", FEW - RENEWING, server)) as few, \
            closing(Fleet(root / f"{name}-many", many, server)) as large:
        starts = interleaved(rounds, [few.start_ms, large.start_ms])
        with few.running(), large.running():
            few.join(RENEWING)
            large.join(RENEWING * 8)
            renewals = interleaved(rounds, [lambda: few.renewals(2.0), lambda: large.renewals(2.0)])
            few_pages, pages, of_bot, bots, few_status, status = interleaved(rounds * 5, [
                few.instances_ms, large.instances_ms, large.instances_of_bot_ms, large.bots_ms,
                few.status_ms, large.status_ms,
            ])
            commands = interleaved(rounds, [
                lambda: large.command_ms("instances", "ls", "--limit", str(PAGE)),
                lambda: large.command_ms("bots", "ls", "--limit", str(large.bots_of_a_page)),
            ])
        in_a_page = large.bots_of_a_page
    against = f"the same with {FEW:,} instances"
    limit = Limit(AT_MOST, 1.1) if server is None else None
    few_cpu, cpu = ([one.cpu_us for one in side] for side in renewals)
    few_rate, rate = ([one.per_second for one in side] for side in renewals)
    fleet_size = f"{name}, {many:,} instances of {many // PER_BOT:,} bots"
    return [
        Table(
            f"{fleet_size}, renewals of random ones of {RENEWING * 8:,} machines, kept, {AT_ONCE} at once",
            "",
            [
                Row("CPU in the server, µs", cpu, against, few_cpu, limit),
                Row("renewals/s", rate, against, few_rate),
            ],
        ),
        Table(
            fleet_size, "ms",
            [
                Row("the server's start, until it serves", starts[1], against, starts[0]),
                Row(f"instances.ls, a page of {PAGE}", pages, against, few_pages),
                Row(f"instances.ls, the {PER_BOT} of one bot", of_bot),
                Row(f"bots.ls, a page of {in_a_page}", bots),
                Row("status, with its counts", status, against, few_status),
                Row(f"mezctl instances ls --limit {PAGE}", commands[0]),
                Row(f"mezctl bots ls --limit {in_a_page}", commands[1]),
            ],
        ),
    ]
