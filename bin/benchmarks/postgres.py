"""The storage on a PostgreSQL of its own: steps and renewals, and what a million instances cost besides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.measure import Row, Table, cpu_seconds
from benchmarks.server import interleaved
from benchmarks.storage import _NOW, CONCURRENT, FEW, Action, Database
from mezite.core.model import Bot
from mezite.storage.interface import Transaction
from mezite.storage.postgres import PostgresStorage
from mezite.storage.rows import instance_row
from mezite.storage.sql import ADD_INSTANCE
from tests.postgres import MISSING, Postgres, binaries

BOTS = 10_000
PAGE = 500
_COLUMNS = ADD_INSTANCE.partition("(")[2].partition(")")[0]


class PostgresDatabase(Database):
    """A cluster with *size* instances, in a database of its own on *server*."""

    def __init__(self, server: Postgres, name: str, size: int) -> None:
        server.create_database(name)
        self.params: dict[str, Any] = {**server.local_params, "dbname": name}
        self._begin(PostgresStorage(self.params), size)
        copy = f"copy instances ({_COLUMNS}) from stdin"
        with psycopg.connect(**self.params) as connection, connection.cursor().copy(copy) as copying:
            for index in range(size):
                copying.write_row(instance_row(self._instance(index)))
        with psycopg.connect(**self.params, autocommit=True) as connection:
            connection.execute("vacuum analyze")

    def add_bots(self) -> None:
        def add(tx: Transaction) -> None:
            for number in range(BOTS):
                tx.add_bot(Bot(id=f"b{number}", name=f"b{number:06}", roles=("deployer",), created_at=_NOW))

        self._storage.write(add).result()

    def size_mb(self) -> float:
        with psycopg.connect(**self.params) as connection:
            found = connection.execute("select pg_database_size(current_database())").fetchone()
        assert found is not None
        return float(found[0]) / 1e6

    def read_ms(self, use_case: Callable[[Transaction], Any]) -> float:
        started = time.perf_counter()
        self._storage.read(use_case).result()
        return (time.perf_counter() - started) * 1e3

    def open_ms(self) -> float:
        started = time.perf_counter()
        storage = PostgresStorage(self.params)
        took = (time.perf_counter() - started) * 1e3
        storage.close()
        return took

    def a_page(self, tx: Transaction) -> object:
        """From anywhere in the list."""
        return tx.list_instances(after=self._ids[self.any_instance()], limit=PAGE)


@dataclass(frozen=True, slots=True)
class Cost:
    per_second: float
    cpu_us: float
    """Of this process and of the database's."""
    database_us: float
    """The database's part of it."""


class Measured:
    """Rates whose cost is that of this process and of the database's."""

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def _servers_cpu(self) -> float:
        pids = [self._server.pid]
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        pids += map(int, children.split())
        return sum(cpu_seconds(pid) for pid in pids if Path(f"/proc/{pid}").exists())

    def rate(self, database: Database, make: Callable[[int], Action], seconds: float) -> Cost:
        before = self._servers_cpu()
        found = database.rate(make, seconds)
        spent = (self._servers_cpu() - before) / (found.per_second * seconds) * 1e6
        return Cost(found.per_second, found.cpu_us + spent, spent)


def measure(quick: bool) -> list[Table]:
    if binaries() is None:
        return [Table(MISSING, "", [])]
    rounds, seconds, many = (1, 0.5, 20_000) if quick else (5, 2.0, 1_000_000)
    server = Postgres(is_durable=True)
    try:
        return _measure(server, rounds, seconds, many)
    finally:
        server.close()


def _measure(server: Postgres, rounds: int, seconds: float, many: int) -> list[Table]:
    few, large = PostgresDatabase(server, "few", FEW), PostgresDatabase(server, "many", many)
    large.add_bots()
    measured = Measured(server)
    try:
        rates = interleaved(rounds, [
            lambda: measured.rate(few, few.step, seconds),
            lambda: measured.rate(large, large.step, seconds),
            lambda: measured.rate(few, few.renewal, seconds),
            lambda: measured.rate(large, large.renewal, seconds),
        ])
        times = interleaved(rounds, [
            few.open_ms,
            large.open_ms,
            lambda: few.read_ms(few.a_page),
            lambda: large.read_ms(large.a_page),
            lambda: large.read_ms(lambda tx: tx.list_bots(after="b005000", limit=PAGE)),
            lambda: large.read_ms(lambda tx: tx.counts()),
        ])
        size = large.size_mb()
    finally:
        few.close()
        large.close()
    per_second = [[one.per_second for one in found] for found in rates]
    costs = [[one.cpu_us for one in found] for found in rates]
    parts = [[one.database_us for one in found] for found in rates]
    against = f"the same with {FEW:,} instances"
    return [
        Table(
            f"PostgreSQL, {CONCURRENT} at any time, each durable before it is answered", "per second",
            [
                Row("generation steps", per_second[0]),
                Row("whole renewals, one process, without proof", per_second[2]),
            ],
        ),
        Table(
            f"PostgreSQL, {many:,} instances, a random one each time", "CPU µs",
            [
                Row("a generation step", costs[1], against, costs[0]),
                Row("the database's part of it", parts[1], against, parts[0]),
                Row("a whole renewal", costs[3], against, costs[2]),
                Row("the database's part of it", parts[3], against, parts[2]),
            ],
            ["of this process and of the database's", f"the database is {size:,.0f} MB"],
        ),
        Table(
            f"PostgreSQL, {many:,} instances", "ms",
            [
                Row("opening the storage", times[1], against, times[0]),
                Row(f"a page of {PAGE} instances", times[3], against, times[2]),
                Row(f"a page of {PAGE} of {BOTS:,} bots", times[4]),
                Row("the counts of mezctl status", times[5]),
            ],
        ),
    ]
