"""The auth server's ``/metrics``: what docs/monitoring.md lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, Metric
from twisted.internet.defer import Deferred

from mezite import metrics
from mezite.auth.context import Transaction
from mezite.core import locks
from mezite.core.audit import AuditEvent
from mezite.core_services import CoreServices
from mezite.errors import Reason
from mezite.metering import OK, RequestMeter

COUNT_EVERY_S = 60.0
"""Rows are counted no more often: a count reads all of them."""


OUTCOMES = tuple(
    (method, outcome)
    for method in ("join", "renew", "leave")
    for outcome in (OK, *(one.code for one in Reason))
)
"""Of each the counter is there before it happens."""


class Machines(Protocol):
    @property
    def is_serving(self) -> bool: ...
    @property
    def meter(self) -> RequestMeter: ...
    @property
    def waiting(self) -> int: ...


class Rows(Struct, frozen=True):
    """What the database holds."""

    counts: Mapping[str, int]
    active_locks: int


def _count(tx: Transaction, now: datetime) -> Rows:
    return Rows(tx.counts(), sum(locks.is_active(lock, now) for lock in tx.all_locks()))


class ServerMetrics:
    """Collected for each scrape.  *not_ready* says why the server is not ready, or ``None``."""

    def __init__(
        self, core: CoreServices, machines: Machines, not_ready: Callable[[], Deferred[Any]]
    ) -> None:
        self._core = core
        self._machines = machines
        self._not_ready = not_ready
        self._rows: Rows | None = None
        self._counted_at = 0.0
        self._events: Counter[tuple[str, str]] = Counter()
        core.on_event = self._note

    def _note(self, event: AuditEvent) -> None:
        self._events[event.type.event_name, event.reason or ""] += 1

    def collect(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._collect())

    async def _collect(self) -> bytes:
        not_ready = await self._not_ready()
        now = self._core.boottime()
        if self._rows is None or now - self._counted_at >= COUNT_EVERY_S:
            try:
                self._rows = await self._core.run(lambda tx: _count(tx, self._core.clock()), write=False)
                self._counted_at = now
            except Exception:
                self._rows = None  # a database that cannot be read has no figures; mezite_ready says so
        return metrics.exposition(self._metrics(not_ready is None, self._rows))

    def _metrics(self, is_ready: bool, rows: Rows | None) -> list[Metric]:
        machines = self._machines
        found = list(metrics.requests(machines.meter, "mezite_request", "Requests of machines", OUTCOMES))
        found += metrics.gauge("mezite_requests_waiting", "Requests of machines that wait.", machines.waiting)
        found += metrics.gauge("mezite_serving", "Whether machines are served.", machines.is_serving)
        found += metrics.gauge("mezite_ready", "What /readyz says.", is_ready)
        fault = self._core.guard.fault() is not None
        found += metrics.gauge("mezite_clock_fault", "Whether the server's clock is at fault.", fault)
        events = CounterMetricFamily(
            "mezite_events", "Audit events of the node, and of refusals, by name and reason.",
            labels=("event", "reason"),
        )
        for (name, reason), count in sorted(self._events.items()):
            events.add_metric((name, reason), count)
        found.append(events)
        if rows is not None:
            for noun, count in rows.counts.items():
                # mezite_events is the name of the counter above.
                name = "audit_events" if noun == "events" else noun
                found += metrics.gauge(f"mezite_{name}", f"Rows in the database: {noun}.", count)
            found += metrics.gauge("mezite_active_locks", "Locks that hold now.", rows.active_locks)
        return found
