"""Storage alone: durable generation steps, on disks of two kinds, in databases of two sizes."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.measure import AT_LEAST, Limit, Row, Table
from benchmarks.server import interleaved
from mezite.auth import authorities
from mezite.auth.context import Context, Peer
from mezite.auth.proof import Provenance, RenewProof
from mezite.auth.renew import renew
from mezite.certs import keys
from mezite.core.model import Bot, Instance
from mezite.core.request import Issued, RenewRequest, SshKey, Wishes
from mezite.core.roles import Role
from mezite.storage.interface import Step, Storage, Transaction
from mezite.storage.rows import instance_row
from mezite.storage.sql import ADD_INSTANCE
from mezite.storage.sqlite import SqliteStorage

CONCURRENT = 64
FEW = 1_000
SLOW_COMMIT_S = 0.005
_NOW = datetime.now(UTC)
_HOUR = timedelta(hours=1)


class SlowDisk(sqlite3.Connection):
    """Waits before each COMMIT, as a disk does whose fdatasync takes 5 ms more."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "commit":
            time.sleep(SLOW_COMMIT_S)
        return super().execute(statement, *values)


@dataclass(frozen=True, slots=True)
class Rate:
    per_second: float
    cpu_us: float
    """CPU time of this process for each: storage's threads, and the little that asks them."""


Action = Callable[[Transaction], bool]


class Database:
    """A cluster with *size* instances of one bot, and what happens to a random one of them."""

    def __init__(self, path: Path, size: int, connection_class: type[sqlite3.Connection]) -> None:
        self._begin(SqliteStorage(path, connection_class=connection_class), size)
        _fill(path, map(self._instance, range(size)))

    def _begin(self, storage: Storage, size: int) -> None:
        """All but the instances is there."""
        self._storage = storage
        self._chance = random.Random(size)
        self._ssh_key = SshKey("default", keys.public_blob(keys.generate_key()))

        def create(tx: Transaction) -> tuple[Any, Any]:
            authorities.create_cluster(tx, "bench", passphrase=None, now=_NOW, random=os.urandom)
            tx.put_role(Role.from_document({
                "kind": "role", "metadata": {"name": "deployer"},
                "spec": {"allow": {"node_labels": {"env": "staging"}, "logins": ["deploy"]}},
            }))
            tx.add_bot(Bot(id="bot", name="bench", roles=("deployer",), created_at=_NOW))
            return (
                authorities.load_cluster(tx, "localhost:3025"),
                authorities.load_authorities(tx, None, os.urandom).current,
            )

        cluster, current = self._storage.write(create).result()
        self._context = Context(cluster, lambda: current, tuple, lambda: datetime.now(UTC), os.urandom)
        self._generations = [1] * size
        self._ids = [str(UUID(int=self._chance.getrandbits(128), version=4)) for _ in range(size)]

    def _instance(self, index: int) -> Instance:
        return Instance(
            self._ids[index], "bot", generation=1, lineage_key=_key(index, 1), previous_key="",
            request_hash=bytes(32), token_id="tok-bot-000000000000", created_at=_NOW, renewed_at=_NOW,
            address="192.0.2.7", host="bench",
        )

    def close(self) -> None:
        self._storage.close()

    @property
    def generations(self) -> Sequence[int]:
        return self._generations

    def any_instance(self) -> int:
        return self._chance.randrange(len(self._ids))

    def step(self, index: int) -> Action:
        """The generation step alone."""
        generation = self._generations[index]
        key, now = _key(index, generation), datetime.now(UTC)
        step = Step(
            instance_id=self._ids[index], from_generation=generation, from_key=key,
            to_generation=generation + 1, to_key=_key(index, generation + 1), previous_key=key,
            request_hash=bytes(32), at=now, not_after=now + _HOUR, address="192.0.2.7", host="bench",
        )
        return lambda tx: tx.step(step)

    def renewal(self, index: int) -> Action:
        """The whole transaction of a renewal: all it reads, the step, the certificate, the audit row."""
        generation = self._generations[index]
        lineage_key = _key(index, generation)
        proof = RenewProof(lineage_key, _key(index, generation + 1), bytes(32))
        provenance = Provenance("bench", is_current=True)
        wishes = Wishes(None, None, _NOW, host="bench")
        request = RenewRequest(self._ids[index], generation, b"", b"", b"", (self._ssh_key,), wishes)
        peer = Peer("192.0.2.7")

        def act(tx: Transaction) -> bool:
            outcome = renew(self._context, tx, request, proof, provenance, nonce=b"", peer=peer)
            return isinstance(outcome, Issued)

        return act

    def rate(self, make: Callable[[int], Action], seconds: float) -> Rate:
        """*make*'s action on random instances, 64 at any time, for *seconds*."""
        left, done = CONCURRENT, threading.Event()
        # Futures are resolved by one thread of SQLite's, and by several of PostgreSQL's.
        lock = threading.RLock()
        count = 0
        failed: list[BaseException] = []
        busy: set[int] = set()
        started, cpu = time.perf_counter(), time.process_time()

        def go_on(index: int | None, future: Future[bool] | None) -> None:
            with lock:
                note(index, future)

        def note(index: int | None, future: Future[bool] | None) -> None:
            nonlocal left, count
            try:
                if future is not None and index is not None:
                    if not future.result():
                        raise RuntimeError("a step was not made")
                    self._generations[index] += 1
                    busy.discard(index)
                    count += 1
                if time.perf_counter() - started < seconds and not failed:
                    ask()
                    return
            except BaseException as error:
                failed.append(error)
            left -= 1
            if not left:
                done.set()

        def ask() -> None:
            index = self.any_instance()
            while index in busy:
                index = self.any_instance()
            busy.add(index)
            asked = self._storage.write(make(index), concurrent=True)
            asked.add_done_callback(lambda future: go_on(index, future))

        def begin(tx: Transaction) -> None:
            with lock:
                for _ in range(CONCURRENT):
                    ask()

        self._storage.write(begin).result()
        if not done.wait(seconds + 60):
            raise RuntimeError("storage does not answer")
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        if failed:
            raise failed[0]
        return Rate(count / wall, cpu / count * 1e6)


def _key(index: int, generation: int) -> str:
    """As long as a fingerprint."""
    return f"SHA256:{index:021d}/{generation:021d}"


def _fill(path: Path, instances: Any) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("pragma synchronous = off")
        connection.executemany(ADD_INSTANCE, map(instance_row, instances))
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


def _fdatasync_ms(directory: Path) -> float:
    """How long this disk takes for 4 KiB, in the median."""
    times = []
    with (directory / "probe").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return sorted(times)[25] * 1e3


def measure(quick: bool) -> list[Table]:
    rounds, seconds, many = (1, 0.4, 100_000) if quick else (5, 2.0, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="mezite-bench.") as name:
        directory = Path(name)
        fdatasync = _fdatasync_ms(directory)
        few = Database(directory / "few.db", FEW, sqlite3.Connection)
        slow = Database(directory / "slow.db", FEW, SlowDisk)
        large = Database(directory / "many.db", many, sqlite3.Connection)
        found = interleaved(rounds, [
            lambda: few.rate(few.step, seconds),
            lambda: slow.rate(slow.step, seconds),
            lambda: large.rate(large.step, seconds),
            lambda: few.rate(few.renewal, seconds),
            lambda: slow.rate(slow.renewal, seconds),
            lambda: large.rate(large.renewal, seconds),
        ])
        for database in (few, slow, large):
            database.close()
        size_mb = (directory / "many.db").stat().st_size / 1e6
    rates = [[one.per_second for one in rounds_] for rounds_ in found]
    costs = [[one.cpu_us for one in rounds_] for rounds_ in found]
    a_million = f"the same with {FEW:,} instances"
    return [
        Table(
            f"storage alone, {CONCURRENT} at any time, each durable before it is answered", "per second",
            [
                Row("generation steps", rates[0], limit=Limit(AT_LEAST, 10_000)),
                Row("generation steps, COMMIT takes 5 ms more", rates[1], limit=Limit(AT_LEAST, 5_000)),
                Row("whole renewals, one core, without proof", rates[3]),
                Row("whole renewals, COMMIT takes 5 ms more", rates[4]),
            ],
            [f"fdatasync of 4 KiB takes {fdatasync:.2f} ms here"],
        ),
        Table(
            f"{many:,} instances, a random one each time", "CPU µs",
            [
                Row("a generation step", costs[2], a_million, costs[0]),
                Row("the storage's part of a renewal", costs[5], a_million, costs[3]),
            ],
            [f"the database of {many:,} instances is {size_mb:,.0f} MB"],
        ),
    ]
