"""What every process of the auth server has: the database, the cluster's keys, the clock's guard."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.auth import authorities, restore
from mezite.auth.context import Context, Transaction
from mezite.auth.timekeeping import ClockGuard, Seen
from mezite.config.server import ServerConfig
from mezite.core.audit import AuditEvent
from mezite.core.model import Node
from mezite.database import open_database
from mezite.errors import StorageFailure
from mezite.threads import Doorway, Gathering

_log = Logger()
T = TypeVar("T")
U = TypeVar("U")

GATHER_S = 0.02
"""So long audit events wait for others, to be written in one transaction."""
RELOAD_AGAIN_S = 1.0
"""So long after authorities could not be read they are read again."""


class CoreServices:
    """Opened by the constructor, of use after :meth:`load`, until :meth:`close`.

    *worker* is the number of a worker process, 0 in the one that twistd started,
    which alone makes what is not there yet and looks for what is wrong.
    """

    context: Context
    loaded: authorities.LoadedAuthorities

    def __init__(self, config: ServerConfig, reactor: Any, worker: int) -> None:
        self._config = config
        self._reactor = reactor
        self._worker = worker
        self.doorway = Doorway()
        self.database = open_database(config.database, config.data_dir, self.doorway.deliver, worker)
        self.storage = self.database.storage
        self._together = Gathering(self.doorway, self.storage.write_together)
        self._events: list[AuditEvent] = []
        self._asked = self._answered = 0
        """Numbers of reloads: the last one begun, and the one whose authorities are in use."""
        self._is_unread = self._is_closed = False
        self._again: Any = None
        self.when_reloaded: list[Callable[[], object]] = []
        """Called when other authorities sign or are trusted; a Deferred is waited for."""
        self.guard = ClockGuard(self.clock, self.boottime)
        self.on_event: Callable[[AuditEvent], None] | None = None
        """Hears of each recorded event."""

    @staticmethod
    def boottime() -> float:
        """Seconds of a clock that nobody sets, and that runs while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    @staticmethod
    def clock() -> datetime:
        return datetime.now(UTC)

    def load(self) -> None:
        """Reads the cluster; at the first start it is made."""
        config = self._config
        if not self._worker:
            self._create()

        def load(tx: Transaction) -> tuple[Seen | None, Any, authorities.LoadedAuthorities]:
            return (
                self.guard.load(tx),
                authorities.load_cluster(tx, ",".join(config.public_addrs)),
                authorities.load_authorities(tx, config.ca_key_passphrase, os.urandom),
            )

        seen, cluster, self.loaded = self.storage.read(load).result()
        self.guard.hold(seen)
        nodes = (Node(config.ssh.node_name, config.ssh.public_addr, config.ssh.labels),) if config.ssh else ()
        self.context = Context(
            cluster=cluster,
            authorities=lambda: self.loaded.current,
            nodes=lambda: nodes,
            clock=self.clock,
            random=os.urandom,
        )
        height = self.database.height(cluster.uuid)
        if self._worker:
            return
        last_commit = self.guard.last_seen
        self.guard.hold(self.storage.write(self.guard.commit).result())
        self._warn()
        old = self.storage.write(
            lambda tx: restore.begin(
                self.context, tx, last_commit, clock_is_good=self.guard.fault() is None, mark=height,
                has_mark=self.database.file is not None,
            )
        ).result()
        if old is not None:
            _log.error("{old}", event="database.older", old=str(old))

    def changed(self, topics: frozenset[str]) -> None:
        """Somebody has changed these; other authorities are followed at once.

        Also called in storage's threads, until the reactor runs: it then follows first of all.
        """
        if "authorities" in topics:
            self._reactor.callFromThread(self.reload_authorities)

    def reload_authorities(self) -> Deferred[None]:
        """Fires when this process signs and trusts by what the database says now; never fails:
        what cannot be read is tried again, and again."""
        self._asked += 1
        return Deferred.fromCoroutine(self._reload(self._asked)).addErrback(self._not_reloaded)

    async def _reload(self, number: int) -> None:
        if not self.doorway.is_open:
            return  # about to stop
        passphrase = self._config.ca_key_passphrase
        loaded = await self.doorway.deferred(
            self.storage.read(lambda tx: authorities.load_authorities(tx, passphrase, os.urandom))
        )
        if number < self._answered:
            return  # by an older snapshot than the one that holds
        self.loaded, self._answered, self._is_unread = loaded, number, False
        for follow in self.when_reloaded:
            followed = follow()
            if isinstance(followed, Deferred):
                await followed

    def _not_reloaded(self, failure: Any) -> None:
        if not self._is_unread:
            _log.error(
                "the authorities could not be read anew, which is tried again until they can: {why}",
                event="authorities.unreadable", why=failure.getErrorMessage(),
            )
        self._is_unread = True
        if self._again is None or not self._again.active():
            self._again = self._reactor.callLater(RELOAD_AGAIN_S, self.reload_authorities)

    def _create(self) -> None:
        config = self._config

        def create(tx: Transaction) -> bool:
            return authorities.create_cluster(
                tx, config.cluster_name, passphrase=config.ca_key_passphrase, now=self.clock(),
                random=os.urandom,
            )

        if self.storage.write(create).result():
            _log.info("first start: the cluster and its authorities have been made in {where}",
                      event="cluster.created",
                      where=self.database.where)

    def _warn(self) -> None:
        where, fault = self.database.where, self.guard.fault()
        if fault is not None:
            _log.error("{fault}; joins and renewals are refused until the clock is right, or an operator "
                       "says that it is: mezctl status --accept-clock", event="clock.fault", fault=fault)
        if not self.loaded.encrypted:
            _log.warn("the CA keys lie unencrypted in {where}; set ca_key_passphrase_file to encrypt "
                      "new ones", event="ca_keys.unencrypted", where=where)
        if self._config.database.is_unproven:
            _log.warn("nothing proves the database at {where}; set database.sslmode to verify-full",
                      event="database.unproven",
                      where=where)

    def open_doorway(self) -> None:
        """The reactor is about to run: what the database answers comes to it from now on."""
        self.doorway.open(self._reactor._asyncioEventloop)

    def close(self) -> None:
        """Writes what waits, and closes the database; what comes later is logged alone."""
        self._is_closed, events = True, self._events
        written = self.storage.write(self._take_events()) if events else None
        self.database.close()
        failed = written.exception() if written is not None else None
        if failed is not None:
            self._not_recorded(Failure(failed), events)

    def record(self, event: AuditEvent) -> None:
        """Fire and forget: what it tells of has happened, whatever becomes of the row."""
        if self.on_event is not None:
            self.on_event(event)
        if self._is_closed:
            self._not_recorded(Failure(StorageFailure("the database is closed by now")), [event])
            return
        self._events.append(event)
        if len(self._events) == 1:
            self._reactor.callLater(GATHER_S, self._write_events)

    def _take_events(self) -> Callable[[Transaction], None]:
        events, self._events = self._events, []

        def write(tx: Transaction) -> None:
            for event in events:
                tx.add_event(event)

        return write

    def _write_events(self) -> None:
        events = self._events
        if events:
            written = self.doorway.deferred(self.storage.write(self._take_events(), concurrent=True))
            written.addErrback(self._not_recorded, events)

    def _not_recorded(self, failure: Any, events: list[AuditEvent]) -> None:
        for event in events:
            _log.error("audit event {name} could not be written: {why}", event="audit.unwritten",
                       name=event.type.event_name, why=failure.getErrorMessage())

    async def run(self, use_case: Callable[[Transaction], T], *, write: bool) -> T:
        """For operators' requests."""
        submit = self.storage.write if write else self.storage.read
        return await self.doorway.deferred(submit(use_case))

    def run_rpc(
        self, prepare: Callable[[], Callable[[Transaction], T]], finish: Callable[[T], U]
    ) -> asyncio.Future[U]:
        """For machines' requests: what *finish* makes of the outcome of the use case that *prepare* gives."""
        return self._together(prepare, finish)

    def follow_clock(self) -> Deferred[None]:
        """In a worker: the head commits the time, and takes an operator's word for it."""
        followed: Deferred[Any] = self.doorway.deferred(self.storage.read(self.guard.follow))
        return followed.addCallbacks(self.guard.hold, lambda failure: _log.warn(
            "the committed time could not be read: {why}", event="clock.unread", why=failure.getErrorMessage()
        ))
