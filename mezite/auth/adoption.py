"""Machines ahead of the database: what shows that it is an old copy."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from mezite.auth import older
from mezite.auth.context import Context
from mezite.core.audit import EventType
from mezite.core.model import Instance
from mezite.storage.interface import StoredEvent, Transaction

STORED_AT = "stored_at_unix"
"""Field of ``generation_adopted``: when the generation was given out that the database had."""
_SHOWN = 100


def last_event(tx: Transaction, kind: EventType) -> StoredEvent | None:
    return next(iter(tx.list_events(type_name=kind.event_name, limit=1)), None)


def show_older(context: Context, tx: Transaction, instance: Instance) -> None:
    """*instance* proves to be ahead of the database: an older copy, unless a
    `mezctl restore` has been run since its stored generation was given out."""
    if int(instance.renewed_at.timestamp()) > _told_at(tx) and older.older_copy(tx) is None:
        older.note(context, tx, older.Sign.MACHINE, instance_id=instance.id)


def _told_at(tx: Transaction) -> int:
    declared = last_event(tx, EventType.DATABASE_RESTORED)
    return 0 if declared is None else int(declared.event.at.timestamp())


class Suspicion(Struct, frozen=True):
    """Machines are ahead of the database, and nobody has said why."""

    instances: tuple[str, ...]
    last_at: datetime


def suspicion(tx: Transaction) -> Suspicion | None:
    """Whether adoptions show that the database is an old copy, of which no
    `mezctl restore` has told since the adopted generations were stored."""
    told_at = _told_at(tx)
    unexplained = [
        one.event
        for one in tx.list_events(type_name=EventType.GENERATION_ADOPTED.event_name, limit=_SHOWN)
        if int(one.event.fields.get(STORED_AT, told_at + 1)) > told_at
    ]
    if not unexplained:
        return None
    return Suspicion(tuple(dict.fromkeys(one.resource_name for one in unexplained)), unexplained[0].at)
