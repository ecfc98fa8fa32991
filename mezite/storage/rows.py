"""Records to rows and back.

Times are whole microseconds since the epoch in the database, aware UTC
``datetime`` outside.  A row that does not make a valid record raises
:class:`StorageFailure`: rights are never decided on half a record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from mezite.core.audit import AuditEvent, EventType
from mezite.core.fork import Fork
from mezite.core.model import Bot, Instance, JoinToken, Lock, LockKind, LockTarget
from mezite.core.roles import Role
from mezite.errors import InvalidInput, StorageFailure
from mezite.storage.interface import Admission, StoredAuthority, StoredEvent

Row = Sequence[Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_compact = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: ``json.dumps`` makes an encoder for every call."""
_EVENT_TYPES = {event_type.event_name: event_type for event_type in EventType}
_LOCK_KINDS = {kind.value: kind for kind in LockKind}


def to_us(time: datetime) -> int:
    """Microseconds since the epoch; ``TypeError`` for a naive time."""
    return (time - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def optional_to_us(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // _MICROSECOND


def _optional_from_us(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _length_us(length: timedelta | None) -> int | None:
    return None if length is None else length // _MICROSECOND


def _optional_length(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=microseconds)


# --- authorities ----------------------------------------------------------------------------


def authority_row(authority: StoredAuthority) -> Row:
    return (
        authority.id,
        authority.kind,
        authority.state,
        authority.public,
        authority.private_pem,
        to_us(authority.created_at),
    )


def authority(row: Row) -> StoredAuthority:
    return StoredAuthority(row[0], row[1], row[2], bytes(row[3]), bytes(row[4]), from_us(row[5]))


# --- roles ----------------------------------------------------------------------------------


def role_document(role: Role) -> str:
    return _compact(role.to_document())


@lru_cache(maxsize=1024)
def _parsed_role(document: str) -> Role:
    return Role.from_document(json.loads(document))


def role(row: Row) -> Role:
    """The role, the same object again for the same document."""
    try:
        return _parsed_role(row[1])
    except (InvalidInput, ValueError) as error:
        raise StorageFailure(f"the stored role {row[0]} cannot be read: {error}; create it anew") from error


# --- bots -----------------------------------------------------------------------------------


def bot_row(bot: Bot) -> Row:
    return (
        bot.id,
        bot.name,
        to_us(bot.created_at),
        _length_us(bot.ttl),
        _length_us(bot.renewable_for),
        _length_us(bot.max_lineage_age),
        " ".join(bot.source_address),
    )


def bot(rows: Sequence[Row]) -> Bot:
    """The bot that *rows* tell of, one for each of its roles, at least one."""
    row = rows[0]
    try:
        return Bot(
            id=row[0],
            name=row[1],
            roles=tuple(one[7] for one in rows),
            created_at=from_us(row[2]),
            ttl=_optional_length(row[3]),
            renewable_for=timedelta(microseconds=row[4]),
            max_lineage_age=_optional_length(row[5]),
            source_address=tuple(row[6].split()),
        )
    except InvalidInput as error:
        raise StorageFailure(f"the stored bot {row[1]} cannot be read: {error}; remove it") from error


def bots(rows: Iterable[Row]) -> list[Bot]:
    """Bots from the rows of several, those of one bot together."""
    by_bot: dict[str, list[Row]] = {}
    for row in rows:
        by_bot.setdefault(row[0], []).append(row)
    return [bot(group) for group in by_bot.values()]


# --- tokens and admissions ------------------------------------------------------------------


def token_row(token: JoinToken) -> Row:
    return (
        token.id,
        token.bot_id,
        token.secret_hash,
        token.uses,
        to_us(token.created_at),
        to_us(token.expires_at),
        token.used,
        optional_to_us(token.revoked_at),
    )


def token(row: Row) -> JoinToken:
    return JoinToken(
        id=row[0],
        bot_id=row[1],
        secret_hash=bytes(row[2]),
        uses=row[3],
        created_at=from_us(row[4]),
        expires_at=from_us(row[5]),
        used=row[6],
        revoked_at=_optional_from_us(row[7]),
    )


def admission_row(admission: Admission) -> Row:
    return (
        admission.token_id,
        admission.lineage_key,
        admission.instance_id,
        to_us(admission.at),
        admission.address,
    )


def admission(row: Row) -> Admission:
    return Admission(row[0], row[1], row[2], from_us(row[3]), row[4])


# --- instances ------------------------------------------------------------------------------


def instance_row(instance: Instance) -> Row:
    return (
        instance.id,
        instance.bot_id,
        instance.generation,
        instance.lineage_key,
        instance.previous_key,
        instance.request_hash,
        instance.token_id,
        to_us(instance.created_at),
        to_us(instance.renewed_at),
        instance.address,
        instance.host,
        instance.boot_id,
        optional_to_us(instance.not_after),
        int(instance.recoverable),
        optional_to_us(instance.removed_at),
        instance.certificate_hash,
    )


def instance(row: Row) -> Instance:
    return Instance(
        id=row[0],
        bot_id=row[1],
        generation=row[2],
        lineage_key=row[3],
        previous_key=row[4],
        request_hash=bytes(row[5]),
        token_id=row[6],
        created_at=from_us(row[7]),
        renewed_at=from_us(row[8]),
        address=row[9],
        host=row[10],
        boot_id=row[11],
        not_after=_optional_from_us(row[12]),
        recoverable=bool(row[13]),
        removed_at=_optional_from_us(row[14]),
        certificate_hash=row[15],
    )


# --- locks ----------------------------------------------------------------------------------


def target_text(target: LockTarget) -> str:
    return f"{target.kind.value}/{target.value}"


def lock_row(lock: Lock) -> Row:
    return (
        lock.id,
        target_text(lock.target),
        lock.reason,
        lock.message,
        lock.created_by,
        to_us(lock.created_at),
        optional_to_us(lock.expires_at),
        "" if lock.fork is None else _compact(lock.fork.to_document()),
    )


def lock(row: Row) -> Lock:
    kind_name, _, value = row[1].partition("/")
    kind = _LOCK_KINDS.get(kind_name)
    if kind is None:
        raise StorageFailure(f"the stored lock {row[0]} is on {row[1]!r}, which this program does not know; "
                             "install the newer one that made it, or delete the lock")
    return Lock(
        id=row[0],
        target=LockTarget(kind, value),
        reason=row[2],
        message=row[3],
        created_by=row[4],
        created_at=from_us(row[5]),
        expires_at=_optional_from_us(row[6]),
        fork=_fork(row[7]),
    )


def _fork(document: str) -> Fork | None:
    """What cannot be read is left out: the lock holds without it."""
    try:
        return Fork.from_document(json.loads(document)) if document else None
    except (KeyError, TypeError, ValueError):
        return None


# --- audit ----------------------------------------------------------------------------------


def event_row(event: AuditEvent) -> Row:
    return (
        to_us(event.at),
        event.type.event_name,
        event.event_code,
        event.actor,
        event.resource_type,
        event.resource_name,
        event.client_ip,
        int(event.success),
        event.reason,
        event.message,
        _compact(dict(event.fields)),
    )


def event(row: Row) -> StoredEvent:
    event_type = _EVENT_TYPES.get(row[2])
    if event_type is None:
        raise StorageFailure(f"audit row {row[0]} is a {row[2]!r}, which this program does not know; "
                             "read it with the newer one that wrote it")
    return StoredEvent(
        row[0],
        AuditEvent(
            type=event_type,
            at=from_us(row[1]),
            actor=row[4],
            resource_type=row[5],
            resource_name=row[6],
            client_ip=row[7],
            success=bool(row[8]),
            reason=row[9],
            message=row[10],
            fields=json.loads(row[11]),
        ),
    )
