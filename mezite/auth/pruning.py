"""What is over for good is forgotten, a bounded batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from mezite.auth.context import Context
from mezite.core.audit import AuditEvent, EventType
from mezite.core.retention import horizon
from mezite.storage.interface import Transaction

BATCH = 200
"""Rows of each kind in one transaction: joins and renewals wait for no more."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows of each kind are gone."""

    instances: int
    tokens: int
    locks: int
    events: int

    @property
    def any(self) -> bool:
        return bool(self.instances or self.tokens or self.locks or self.events)

    @property
    def may_have_left_some(self) -> bool:
        return BATCH in (self.instances, self.tokens, self.locks, self.events)


def find_stale_instances(context: Context, tx: Transaction) -> tuple[str, ...]:
    """Some that :func:`prune` may take; to be run on a snapshot, as it looks at every instance."""
    past = horizon(context.clock(), None)
    return tx.stale_instances(removed_before=past.removed, renewed_before=past.renewed, limit=BATCH)


def prune(
    context: Context, tx: Transaction, instances: Sequence[str], keep_events: timedelta | None
) -> Pruned:
    """One batch is gone, if it is still over; the audit log says how much."""
    now = context.clock()
    past = horizon(now, keep_events)
    pruned = Pruned(
        instances=sum(
            tx.prune_instance(one, removed_before=past.removed, renewed_before=past.renewed)
            for one in instances
        ),
        tokens=tx.prune_tokens(past.ended, BATCH),
        locks=tx.prune_locks(past.ended, BATCH),
        events=0 if past.event is None else tx.prune_events(past.event, BATCH),
    )
    if pruned.any:
        tx.add_event(
            AuditEvent(
                EventType.RECORDS_PRUNED, now, actor="system", resource_type="cluster",
                resource_name=context.cluster.name, fields=asdict(pruned),
            )
        )
    return pruned
