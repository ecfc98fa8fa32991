"""Which authorities a process signs and trusts by: those that the database had last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from mezite import core_services
from mezite.auth import authorities
from mezite.auth.context import Transaction
from mezite.config.server import ServerConfig
from mezite.core.audit import AuditEvent, EventType
from mezite.core_services import RELOAD_AGAIN_S, CoreServices
from tests.system.processes import wait_for


class Reactor(Clock):
    """An asyncio loop in the reactor's place; time is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self._asyncioEventloop = asyncio.new_event_loop()

    def callFromThread(self, call: Callable[..., object]) -> None:
        self._asyncioEventloop.call_soon_threadsafe(call)

    def turn(self, seconds: float = 0) -> None:
        """What waits is run."""
        self.advance(seconds)
        self._asyncioEventloop.run_until_complete(asyncio.sleep(0))


class Server:
    """The services of the head, and those of another process on the same file."""

    def __init__(self, folder: Path) -> None:
        environ: Mapping[str, str] = {"MEZITE_DATA_DIR": str(folder), "MEZITE_CLUSTER_NAME": "example"}
        self.config = ServerConfig.load(None, environ, os.geteuid())
        self.reactor = Reactor()
        self.core = CoreServices(self.config, self.reactor, 0)
        self.core.storage.subscribe(self.core.changed)

    def close(self) -> None:
        self.core.doorway.close()
        self.core.close()
        self.reactor._asyncioEventloop.close()

    def announce(self) -> None:
        """Another User CA is trusted."""
        cluster = self.core.context.cluster

        def use_case(tx: Transaction) -> None:
            authorities.create_authority(
                tx, authorities.USER, cluster.name, cluster.uuid, passphrase=None, now=self.core.clock(),
                random=os.urandom, state=authorities.TRUSTED,
            )

        written = self.core.storage.write(use_case)
        if self.core.doorway.is_open:
            wait_for(lambda: self.reactor.turn() or written.done(), "commit")
        written.result(30)

    @property
    def trusted(self) -> int:
        return len(self.core.loaded.current.user_cas)

    def wait_for_trusted(self, count: int) -> None:
        def is_so() -> bool:
            self.reactor.turn()
            return self.trusted == count

        wait_for(is_so, f"{count} User CAs")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


def test_a_reload_that_ends_late_brings_back_no_older_authorities(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at once, on two snapshots, the one that was asked for last holds."""
    server.core.load()
    server.core.open_doorway()
    server.reactor.turn()
    load, seen, go_on = authorities.load_authorities, threading.Event(), threading.Event()

    def slow(*given: Any) -> authorities.LoadedAuthorities:
        found = load(*given)
        if not seen.is_set():
            seen.set()
            assert go_on.wait(30)
        return found

    monkeypatch.setattr(core_services.authorities, "load_authorities", slow)
    try:
        first = server.core.reload_authorities()
        assert seen.wait(30)
        server.announce()
        server.wait_for_trusted(2)
    finally:
        go_on.set()
    server.reactor._asyncioEventloop.run_until_complete(first.asFuture(server.reactor._asyncioEventloop))
    assert server.trusted == 2


def test_a_change_while_the_server_starts_is_followed(server: Server) -> None:
    """Between the reading and the first turn of the reactor, which takes seconds where the
    node's keys are made."""
    server.core.load()
    server.announce()
    assert server.trusted == 1
    server.core.open_doorway()
    server.wait_for_trusted(2)


def test_authorities_that_cannot_be_read_are_read_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until they can: no other change may come to make up for it."""
    server.core.load()
    server.core.open_doorway()
    server.reactor.turn()
    load, failed = authorities.load_authorities, threading.Event()

    def fail(*given: Any) -> None:
        failed.set()
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(core_services.authorities, "load_authorities", fail)
    server.announce()
    wait_for(lambda: server.reactor.turn() or failed.is_set(), "a failure")
    monkeypatch.setattr(core_services.authorities, "load_authorities", load)
    assert server.trusted == 1

    def is_followed() -> bool:
        server.reactor.turn(RELOAD_AGAIN_S)
        return server.trusted == 2

    wait_for(is_followed, "two User CAs")


def event_told() -> AuditEvent:
    return AuditEvent(EventType.SESSION_END, datetime(2026, 3, 24, 14, tzinfo=UTC), actor="system",
                      resource_type="node", resource_name="n")


def unwritten(logs: Sequence[Any]) -> list[str]:
    return [one["why"] for one in logs if one.get("event") == "audit.unwritten"]


def test_events_that_wait_when_it_closes_are_written(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.core.load()
    server.core.record(event_told())
    with capturedLogs() as logs:
        server.close()
    assert unwritten(logs) == []
    again = Server(tmp_path)
    try:
        found = again.core.storage.read(lambda tx: tx.list_events(limit=1000)).result(30)
        assert [one.event.type for one in found].count(EventType.SESSION_END) == 1
    finally:
        again.close()


def test_events_that_can_no_longer_be_written_are_logged(tmp_path: Path) -> None:
    """Those of the last write, which fails, and those after it."""
    server = Server(tmp_path)
    server.core.load()
    with contextlib.closing(sqlite3.connect(tmp_path / "mezite.db", isolation_level=None)) as other:
        other.execute("drop table events")
    with capturedLogs() as logs:
        server.core.record(event_told())
        server.close()
        server.core.record(event_told())
    failed, late = unwritten(logs)
    assert "no such table" in failed
    assert late == "the database is closed by now"
