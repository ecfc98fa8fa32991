"""What the audit log tells of two holders of one lineage, proven or only asked about."""

from __future__ import annotations

from datetime import timedelta

from mezite.auth.context import Context, Transaction
from mezite.core.audit import AuditEvent, EventType
from mezite.core.fork import Fork
from mezite.errors import Reason
from mezite.storage.interface import StoredEvent

ASKED_AGAIN_AFTER = timedelta(hours=1)
"""Of each instance one row in this time: whoever holds an old key may ask as often as he likes."""
_LOOKED_AT = 100
_SHOWN = 10


def fork_fields(seen: Fork) -> dict[str, str | int]:
    """Both sides under stable names."""
    current, other = seen.current, seen.other
    return {
        "stored_generation": current.generation,
        "stored_key": current.lineage_key,
        "stored_address": current.address,
        "stored_host": current.host,
        "stored_boot_id": current.boot_id,
        "stored_at": f"{current.at:%Y-%m-%dT%H:%M:%SZ}",
        "presented_generation": other.generation,
        "presented_key": other.lineage_key,
        "presented_address": other.address,
        "presented_host": other.host,
        "presented_boot_id": other.boot_id,
        "looks_like": seen.likeness.code,
    }


def note_asked(context: Context, tx: Transaction, seen: Fork, instance_id: str, bot_name: str) -> None:
    """`prove` was asked of the *other* side; a row, unless one was written lately.

    It locks nobody: a message that came late is asked the same.
    """
    now = context.clock()
    told = tx.list_events(
        type_name=EventType.PROVE_ASKED.event_name, resource_name=instance_id, limit=1
    )
    if told and timedelta(0) <= now - told[0].event.at < ASKED_AGAIN_AFTER:
        return
    tx.add_event(
        AuditEvent(
            EventType.PROVE_ASKED, now, actor=f"bot/{bot_name}", resource_type="instance",
            resource_name=instance_id, client_ip=seen.other.address, success=False,
            reason=Reason.PROVE.code,
            message="a generation of before was presented, and a fresh proof asked for; "
            f"{seen.likeness.text}",
            fields=fork_fields(seen),
        )
    )


def asked(tx: Transaction, instance_id: str) -> StoredEvent | None:
    """The last time that this instance was asked for a proof, which has not come."""
    told = tx.list_events(
        type_name=EventType.PROVE_ASKED.event_name, resource_name=instance_id, limit=1
    )
    return told[0] if told and not _was_proven(tx, told[0]) else None


def unanswered(tx: Transaction) -> tuple[StoredEvent, ...]:
    """The same of all instances, the latest first, each once."""
    found: dict[str, StoredEvent] = {}
    for one in tx.list_events(type_name=EventType.PROVE_ASKED.event_name, limit=_LOOKED_AT):
        name = one.event.resource_name
        if name in found or len(found) == _SHOWN or _was_proven(tx, one):
            continue
        instance = tx.instance(name)
        if instance is not None and (instance.removed_at is None or _had_left(tx, one)):
            found[name] = one
    return tuple(found.values())


def left_with(tx: Transaction, instance_id: str) -> int | None:
    """The generation with which the instance has ended itself, if it has, and no fork of it was
    proven since: whoever renewed with a copy and then left may have meant that nobody finds out."""
    left = _left(tx, instance_id)
    return None if left is None or _was_proven(tx, left) else int(left.event.fields["generation"])


def _had_left(tx: Transaction, question: StoredEvent) -> bool:
    left = _left(tx, question.event.resource_name)
    return left is not None and left.id < question.id


def _left(tx: Transaction, instance_id: str) -> StoredEvent | None:
    told = tx.list_events(
        type_name=EventType.INSTANCE_LEFT.event_name, resource_name=instance_id, limit=1
    )
    return told[0] if told else None


def _was_proven(tx: Transaction, question: StoredEvent) -> bool:
    name = question.event.resource_name
    answered = tx.list_events(
        type_name=EventType.GENERATION_MISMATCH.event_name, resource_name=name, limit=1
    )
    return bool(answered) and answered[0].id > question.id
