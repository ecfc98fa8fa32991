"""Durable state ↔ JSON, as it stands in a state slot (see state.py)."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from mezite.core.model import Node
from mezite.core.request import Trust
from mezite.errors import InvalidInput
from mezite.identity.records import (
    OUTPUT,
    Durable,
    GenerationKeys,
    Held,
    KeyPair,
    PendingJoin,
    SshPair,
    Wanted,
)

MAX_NODES_BYTES = 64 * 1024
"""Of the known nodes so many are kept; the state must fit its slot in any case."""


def encode(durable: Durable) -> bytes:
    held = durable.held
    document = {
        "server": durable.server,
        "redeemed": list(durable.redeemed),
        "held": None if held is None else _held_document(held),
        "pending": None if durable.pending is None else _keys_document(durable.pending),
        "joins": [
            {"token_id": join.token_id, "keys": _keys_document(join.keys)} for join in durable.joins
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode(data: bytes) -> Durable:
    """Raises :class:`InvalidInput` for what :func:`encode` did not write."""
    try:
        document = json.loads(data)
        held, pending = document["held"], document["pending"]
        return Durable(
            server=_text(document["server"]),
            redeemed=tuple(_text(token) for token in document["redeemed"]),
            held=None if held is None else _held(held),
            pending=None if pending is None else _keys(pending),
            joins=tuple(
                PendingJoin(_text(join["token_id"]), _keys(join["keys"])) for join in document["joins"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"not a state of this program ({type(error).__name__})") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value


def _bytes_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _keys_document(keys: GenerationKeys) -> dict[str, Any]:
    return {
        "lineage": _pair_document(keys.lineage),
        "ssh": [{"output": key.output, "key": _pair_document(key.pair)} for key in keys.ssh],
    }


def _keys(document: dict[str, Any]) -> GenerationKeys:
    return GenerationKeys(
        _pair(document["lineage"]),
        tuple(SshPair(_text(key["output"]), _pair(key["key"])) for key in document["ssh"]),
    )


def _pair_document(pair: KeyPair) -> dict[str, str]:
    return {"private": pair.private_pem.decode("ascii"), "public": _bytes_text(pair.public)}


def _pair(document: dict[str, str]) -> KeyPair:
    return KeyPair(document["private"].encode("ascii"), _bytes(document["public"]))


def _held_document(held: Held) -> dict[str, Any]:
    return {
        "instance_id": held.instance_id,
        "bot": held.bot,
        "generation": held.generation,
        "keys": _keys_document(held.keys),
        "certificates": [_bytes_text(blob) for blob in held.certificates],
        "trust": _trust_document(held.trust),
        "principals": list(held.principals),
        "roles": list(held.roles),
        "valid_before_unix": held.valid_before_unix,
        "ttl_ms": _ms(held.ttl),
        "renew_after_ms": _ms(held.renew_after),
        "received_at_unix_ms": _unix_ms(held.received_at),
        "server_time_unix_ms": _unix_ms(held.server_time),
        "asked_ttl_ms": None if held.asked_ttl is None else _ms(held.asked_ttl),
        "asked_interval_ms": None if held.asked_interval is None else _ms(held.asked_interval),
        "asked_outputs": [
            [one.output, one.roles and list(one.roles), one.ttl and _ms(one.ttl)]
            for one in held.asked_outputs
        ],
    }


def _held(document: dict[str, Any]) -> Held:
    asked_ttl, asked_interval = document["asked_ttl_ms"], document["asked_interval_ms"]
    return Held(
        instance_id=_text(document["instance_id"]),
        bot=_text(document["bot"]),
        generation=int(document["generation"]),
        keys=_keys(document["keys"]),
        certificates=tuple(_bytes(blob) for blob in document["certificates"]),
        trust=_trust(document["trust"]),
        principals=tuple(_text(name) for name in document["principals"]),
        roles=tuple(_text(name) for name in document["roles"]),
        valid_before_unix=int(document["valid_before_unix"]),
        ttl=timedelta(milliseconds=document["ttl_ms"]),
        renew_after=timedelta(milliseconds=document["renew_after_ms"]),
        received_at=_moment(document["received_at_unix_ms"]),
        server_time=_moment(document["server_time_unix_ms"]),
        asked_ttl=None if asked_ttl is None else timedelta(milliseconds=asked_ttl),
        asked_interval=None if asked_interval is None else timedelta(milliseconds=asked_interval),
        # A state of an older mezd has none.
        asked_outputs=tuple(_wanted(*one) for one in document.get("asked_outputs", [[OUTPUT, None, None]])),
    )


def _wanted(output: object, roles: list[object] | None, ttl_ms: int | None) -> Wanted:
    return Wanted(
        _text(output),
        None if roles is None else tuple(_text(role) for role in roles),
        None if ttl_ms is None else timedelta(milliseconds=ttl_ms),
    )


def _trust_document(trust: Trust) -> dict[str, Any]:
    nodes: list[tuple[str, str]] = []
    room = MAX_NODES_BYTES
    for node in trust.nodes:
        room -= len(json.dumps((node.name, node.address))) + 1
        if room < 0:
            break
        nodes.append((node.name, node.address))
    return {
        "cluster_name": trust.cluster_name,
        "cluster_uuid": trust.cluster_uuid,
        "host_cas": [_bytes_text(blob) for blob in trust.host_cas],
        "user_cas": [_bytes_text(blob) for blob in trust.user_cas],
        "server_cas": [_bytes_text(blob) for blob in trust.server_cas],
        "nodes": nodes,
    }


def _trust(document: dict[str, Any]) -> Trust:
    return Trust(
        cluster_name=_text(document["cluster_name"]),
        cluster_uuid=_text(document["cluster_uuid"]),
        host_cas=tuple(_bytes(blob) for blob in document["host_cas"]),
        user_cas=tuple(_bytes(blob) for blob in document["user_cas"]),
        server_cas=tuple(_bytes(blob) for blob in document["server_cas"]),
        nodes=tuple(Node(_text(name), _text(address)) for name, address in document["nodes"]),
    )


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _unix_ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=unix_ms)
