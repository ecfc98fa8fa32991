"""What a copy of the database holds, for the operator who has just made it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from mezite.auth.admin import note
from mezite.auth.authorities import CLUSTER_NAME, CLUSTER_UUID
from mezite.auth.context import Context, Operator, Transaction
from mezite.core.audit import EventType
from mezite.errors import StorageFailure


class Contents(Struct, frozen=True):
    cluster_name: str
    cluster_uuid: str
    counts: Mapping[str, int]
    newest_event: int
    newest_event_at: datetime | None
    """What was done later is not in it."""
    encrypted: bool
    """Whether every CA's private key in it is."""


def contents(tx: Transaction) -> Contents:
    """Raises :class:`StorageFailure` for a database without a cluster in it."""
    name, uuid, authorities = tx.value(CLUSTER_NAME), tx.value(CLUSTER_UUID), tx.authorities()
    if name is None or uuid is None or not authorities:
        raise StorageFailure("the copy holds no cluster; the database may be damaged")
    newest = next(iter(tx.list_events(limit=1)), None)
    return Contents(
        cluster_name=name.decode(),
        cluster_uuid=uuid.decode(),
        counts=tx.counts(),
        newest_event=newest.id if newest else 0,
        newest_event_at=newest.event.at if newest else None,
        encrypted=all(b"ENCRYPTED" in one.private_pem for one in authorities),
    )


def note_backup(context: Context, tx: Transaction, operator: Operator, path: str, made: Contents) -> None:
    """A copy of the CAs has left the data directory: that is on record."""
    note(
        context, tx, operator, EventType.DATABASE_BACKED_UP, "cluster", context.cluster.name,
        fields={"path": path, "newest_event": made.newest_event, "ca_keys_encrypted": str(made.encrypted)},
    )
