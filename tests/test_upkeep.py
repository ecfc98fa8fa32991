"""What the server does by itself: it prunes to the end, never by a wrong clock, and
knows whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mezite.auth.context import Transaction
from mezite.auth.pruning import BATCH
from mezite.auth.timekeeping import ClockGuard
from mezite.core.audit import AuditEvent, EventType
from mezite.storage.memory import MemoryStorage
from mezite.threads import Doorway
from mezite.upkeep import Upkeep
from tests.harness import Auth
from tests.storage_faults import Faults

OLD_EVENTS = 2 * BATCH + 7


class Server:
    """Upkeep over a storage in memory, on an asyncio loop in the reactor's place."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.loop = asyncio.new_event_loop()
        self.serving = True
        self.boottime = 0.0
        self._doorway = Doorway()
        self._doorway.open(self.loop)
        self.faults = Faults()
        self.storage = MemoryStorage(
            deliver=self._doorway.deliver, connection_class=self.faults.connection_class
        )
        self.guard = ClockGuard(lambda: auth.now, lambda: self.boottime)
        self.upkeep = Upkeep(
            auth.context, self.storage, self._doorway, self.guard, timedelta(days=400),
            reactor=Clock(), is_serving=lambda: self.serving,
        )

    def result(self, deferred: Deferred[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(deferred.asFuture(self.loop), 30))

    def write(self, use_case: Callable[[Transaction], Any]) -> Any:
        return self.result(self._doorway.deferred(self.storage.write(use_case)))

    def fill(self) -> None:
        """Events that are over, by a clock that goes on as it should."""
        event = AuditEvent(EventType.CLOCK_ACCEPTED, self.auth.now, "system")
        self.write(lambda tx: [tx.add_event(event) for _ in range(OLD_EVENTS)])
        self.auth.advance(days=500)
        self.boottime += timedelta(days=500).total_seconds()

    def count(self, kind: EventType) -> int:
        return len(self.write(lambda tx: tx.list_events(type_name=kind.event_name, limit=1000)))


@pytest.fixture
def server() -> Iterator[Server]:
    auth = Auth()
    made = Server(auth)
    yield made
    made.storage.close()
    made.loop.close()
    auth.close()


def test_it_prunes_batch_by_batch_to_the_end(server: Server) -> None:
    server.fill()
    server.result(server.upkeep.prune())
    assert server.count(EventType.CLOCK_ACCEPTED) <= 1
    assert server.count(EventType.RECORDS_PRUNED) == 3


def test_nothing_is_pruned_by_a_clock_at_fault(server: Server) -> None:
    """By a clock that is a year ahead, everything is over."""
    server.fill()
    server.result(server.upkeep.beat())
    server.auth.advance(days=365)
    server.result(server.upkeep.prune())
    assert server.count(EventType.CLOCK_ACCEPTED) == OLD_EVENTS


def test_what_fails_is_logged_and_done_again_later(server: Server) -> None:
    """Neither the heartbeat nor the pruning ends its loop by failing."""
    server.storage.close()
    assert server.result(server.upkeep.beat()) is None
    assert server.result(server.upkeep.prune()) is None


def test_it_is_ready_while_it_serves_with_a_good_clock_and_database(server: Server) -> None:
    def reason() -> str | None:
        found: str | None = server.result(server.upkeep.not_ready_reason())
        return found

    assert reason() is None
    server.serving = False
    assert reason() == "machines are not served"
    server.serving = True
    server.auth.advance(hours=-3)
    assert "3h behind its last commit" in (reason() or "")
    server.auth.advance(hours=3)
    assert reason() is None
    server.storage.close()
    assert (reason() or "").startswith("the database cannot be written: ")


def test_a_disk_that_was_full_for_long_is_no_jump_of_the_clock(server: Server) -> None:
    """Once there is room again it goes on by itself: no heartbeat meanwhile was committed."""
    server.result(server.upkeep.beat())
    server.faults.fail("commit", times=1000)
    for _ in range(300):
        server.auth.advance(seconds=30)
        server.boottime += 30
        server.result(server.upkeep.beat())
    assert server.guard.fault() is None
    server.faults.heal()
    server.result(server.upkeep.beat())
    assert server.result(server.upkeep.not_ready_reason()) is None
