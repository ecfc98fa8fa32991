"""Records as the JSON objects that operators and their scripts get.

Times are RFC 3339 in UTC, lengths of time as in ``1h30m``, what is not there is
null.  Nothing secret has a place here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mezite.auth.admin import CaKey, Status, StatusCa, StoredEvent
from mezite.auth.admin_bots import BotView
from mezite.auth.admin_instances import InstanceView
from mezite.auth.admin_tokens import TokenView
from mezite.auth.restore import Restored
from mezite.core.duration import format_duration
from mezite.core.fork import Fork
from mezite.core.model import Bot, JoinToken, Lock, Node

Object = dict[str, Any]

_PAGE_BYTES = 768 * 1024
"""Of one page's records, so that the answer stays below the protocol's 1 MiB."""


def page(noun: str, records: Iterable[tuple[str, Object]], following: str | None) -> Object:
    """A list's answer: records with the key that the list is paged by, and where
    to go on, which is earlier than *following* when they are too large together."""
    shown: list[Object] = []
    size = 0
    last = ""
    for key, record in records:
        size += len(json.dumps(record))
        if size > _PAGE_BYTES and shown:
            return {noun: shown, "next": last}
        shown.append(record)
        last = key
    return {noun: shown, "next": following}


def when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _maybe_when(moment: datetime | None) -> str | None:
    return None if moment is None else when(moment)


def _maybe_length(length: timedelta | None) -> str | None:
    return None if length is None else format_duration(length)


def bot(record: Bot) -> Object:
    return {
        "name": record.name,
        "id": record.id,
        "roles": list(record.roles),
        "created_at": when(record.created_at),
        "ttl": _maybe_length(record.ttl),
        "renewable_for": format_duration(record.renewable_for),
        "max_lineage_age": _maybe_length(record.max_lineage_age),
        "source_address": list(record.source_address),
    }


def bot_view(view: BotView) -> Object:
    return {**bot(view.bot), "locked": bool(view.locks), "locks": [lock(one) for one in view.locks]}


def token(record: JoinToken, bot_name: str, state: str) -> Object:
    return {
        "id": record.id,
        "bot": bot_name or None,
        "state": state,
        "uses": record.uses,
        "used": record.used,
        "created_at": when(record.created_at),
        "expires_at": when(record.expires_at),
        "revoked_at": _maybe_when(record.revoked_at),
    }


def token_view(view: TokenView) -> Object:
    return token(view.token, view.bot_name, view.state)


def instance_view(view: InstanceView) -> Object:
    record = view.instance
    return {
        "id": record.id,
        "bot": view.bot_name or None,
        "state": view.state,
        "generation": record.generation,
        "lineage_key": record.lineage_key,
        "previous_key": record.previous_key or None,
        "token": record.token_id,
        "joined_at": when(record.created_at),
        "renewed_at": when(record.renewed_at),
        "valid_until": _maybe_when(record.not_after),
        "address": record.address or None,
        "host": record.host or None,
        "boot_id": record.boot_id or None,
        "locks": [lock(one) for one in view.locks],
        "prove_asked": None if view.asked is None else event(view.asked),
    }


def lock(record: Lock) -> Object:
    return {
        "id": record.id,
        "kind": record.target.kind.value,
        "target": record.target.value,
        "reason": record.reason,
        "message": record.message,
        "created_by": record.created_by,
        "created_at": when(record.created_at),
        "expires_at": _maybe_when(record.expires_at),
        "fork": None if record.fork is None else _fork(record.fork),
    }


def _fork(record: Fork) -> Object:
    likeness = record.likeness
    return {"looks_like": likeness.code, "looks_like_text": likeness.text, **record.to_document()}


def event(stored: StoredEvent) -> Object:
    record = stored.event
    return {
        "id": stored.id,
        "timestamp": when(record.at),
        "event_type": record.type.event_name,
        "event_code": record.event_code,
        "user_name": record.actor,
        "resource_type": record.resource_type,
        "resource_name": record.resource_name,
        "client_ip": record.client_ip,
        "success": record.success,
        "reason": record.reason,
        "error_message": "" if record.success else record.message,
        "message": record.message,
        "fields": dict(record.fields),
    }


def node(record: Node) -> Object:
    return {"name": record.name, "address": record.address, "labels": dict(record.labels)}


def ca_key(record: CaKey) -> Object:
    return {"fingerprint": record.fingerprint, "text": record.text}


def _status_ca(record: StatusCa) -> Object:
    return {
        "type": record.kind,
        "state": record.state,
        "fingerprint": record.fingerprint,
        "created_at": when(record.created_at),
    }


def restored(record: Restored) -> Object:
    return {
        "since": _maybe_when(record.since),
        "until": when(record.until),
        "first_serial": record.first_serial,
        "voided_tokens": record.voided,
        "bots": list(record.bots),
        "adopted_instances": record.adopted,
        "unknown_instances": [
            {"instance": one.instance_id, "address": one.address, "at": when(one.at)}
            for one in record.strangers
        ],
    }


_SHOWN_LOCKS = 20


def status(
    record: Status, *, clock_fault: str | None, refusals: Mapping[str, int], encrypted: bool
) -> Object:
    """*refusals* are counted by reason since the server started."""
    return {
        "cluster_name": record.cluster_name,
        "cluster_uuid": record.cluster_uuid,
        "version": record.version,
        "public_addr": record.public_addr,
        "server_time": when(record.server_time),
        "clock_fault": clock_fault,
        "counts": dict(record.counts),
        "authorities": [_status_ca(one) for one in record.authorities],
        "ca_keys_encrypted": encrypted,
        "refusals": dict(refusals),
        "active_locks": len(record.active_locks),
        "locks": [lock(one) for one in record.active_locks[:_SHOWN_LOCKS]],
        "older_copy": None if record.older is None else {
            "found_at": when(record.older.found_at), "sign": record.older.sign.code,
            "message": str(record.older),
        },
        "ahead": None if record.ahead is None else {
            "instances": list(record.ahead.instances), "last_at": when(record.ahead.last_at),
        },
        "prove_asked": [event(one) for one in record.asked],
        "reused_tokens": [event(one) for one in record.reused_tokens],
    }
