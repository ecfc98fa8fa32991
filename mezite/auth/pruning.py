"""What is over for good is forgotten, a bounded batch at a time."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct
from msgspec.structs import asdict

from mezite.auth.context import Context
from mezite.core.audit import AuditEvent, EventType
from mezite.core.retention import horizon
from mezite.storage.interface import Transaction

BATCH = 200
"""Rows of each kind in one transaction: joins and renewals wait for no more."""


class Pruned(Struct, frozen=True):
    """How many rows of each kind are gone."""

    instances: int
    tokens: int
    locks: int
    events: int
    bots: int = 0

    @property
    def any(self) -> bool:
        return any(asdict(self).values())

    @property
    def may_have_left_some(self) -> bool:
        return BATCH in asdict(self).values()


class Stale(Struct, frozen=True):
    """Ids of some that :func:`prune` may take."""

    instances: tuple[str, ...] = ()
    bots: tuple[str, ...] = ()


def find_stale(context: Context, tx: Transaction) -> Stale:
    """To be run on a snapshot, as it looks at every instance and bot."""
    past = horizon(context.clock(), None)
    return Stale(
        tx.stale_instances(removed_before=past.removed, renewed_before=past.renewed, limit=BATCH),
        tx.stale_bots(removed_before=past.removed, limit=BATCH),
    )


def prune(context: Context, tx: Transaction, stale: Stale, keep_events: timedelta | None) -> Pruned:
    """One batch is gone, if it is still over; the audit log says how much."""
    now = context.clock()
    past = horizon(now, keep_events)
    pruned = Pruned(
        instances=sum(
            tx.prune_instance(one, removed_before=past.removed, renewed_before=past.renewed)
            for one in stale.instances
        ),
        tokens=tx.prune_tokens(past.ended, BATCH),
        locks=tx.prune_locks(past.ended, BATCH),
        bots=sum(tx.prune_bot(one, removed_before=past.removed) for one in stale.bots),
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
