"""protobuf ↔ core records.  Decoding returns a valid record or raises ``InvalidInput``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.message import DecodeError

from mezite.core.audit import plain
from mezite.core.model import Node, host_port
from mezite.core.request import (
    MAX_BLOB,
    MAX_KEY_ROLES,
    MAX_SSH_KEYS,
    MAX_WISH,
    Issued,
    JoinRequest,
    LeaveRequest,
    RenewRequest,
    Signed,
    SshKey,
    Trust,
    Wishes,
)
from mezite.errors import InvalidInput
from mezite.proto.mezite.v1 import identity_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["IdentityService"].full_name
MAX_GENERATION = 2**63 - 1
_MAX_WISH_S = MAX_WISH // timedelta(seconds=1)
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN_ID = re.compile(r"tok-bot-[0-9a-f]{12}")
_MAX_UNIX_MS = 253402300799_000
"""The last second that a datetime can hold."""


def to_unix_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def from_unix_ms(milliseconds: int, path: str) -> datetime:
    if not 0 <= milliseconds <= _MAX_UNIX_MS:
        raise InvalidInput(f"{milliseconds} is no time in milliseconds since 1970", path)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _blob(value: bytes, path: str) -> bytes:
    if not 0 < len(value) <= MAX_BLOB:
        raise InvalidInput(f"expected 1 to {MAX_BLOB} bytes, found {len(value)}", path)
    return value


def _uuid(value: str, path: str) -> str:
    if _CANONICAL_UUID.fullmatch(value):
        return value
    try:
        return str(UUID(value))
    except ValueError:
        raise InvalidInput("not a UUID", path) from None


def _seconds(value: int, path: str) -> timedelta | None:
    if value > _MAX_WISH_S:
        raise InvalidInput(f"{value} seconds is more than a year", path)
    return timedelta(seconds=value) if value else None


def _ssh_keys(messages: Iterable[pb.SshKey]) -> tuple[SshKey, ...]:
    keys = tuple(map(_ssh_key, messages))
    if not 0 < len(keys) <= MAX_SSH_KEYS:
        raise InvalidInput(f"expected 1 to {MAX_SSH_KEYS} keys, found {len(keys)}", "ssh_keys")
    for key in keys:
        if not 0 < len(key.output) <= 64 or not key.output.isprintable():
            raise InvalidInput("expected 1 to 64 printable characters", "ssh_keys.output")
    if len({key.output for key in keys}) != len(keys):
        raise InvalidInput("one key for each output", "ssh_keys.output")
    return keys


def _ssh_key(message: pb.SshKey) -> SshKey:
    roles = tuple(dict.fromkeys(message.roles))
    if len(roles) > MAX_KEY_ROLES or not all(0 < len(role) <= 64 for role in roles):
        raise InvalidInput(f"expected at most {MAX_KEY_ROLES} names of roles", "ssh_keys.roles")
    return SshKey(
        message.output,
        _blob(message.public_key, "ssh_keys.public_key"),
        roles or None,
        _seconds(message.certificate_ttl_seconds, "ssh_keys.certificate_ttl_seconds"),
    )


def _ssh_key_message(key: SshKey) -> pb.SshKey:
    return pb.SshKey(
        output=key.output,
        public_key=key.blob,
        roles=key.roles,
        certificate_ttl_seconds=int(key.ttl.total_seconds()) if key.ttl else 0,
    )


def _wishes(message: pb.Wishes) -> Wishes:
    return Wishes(
        ttl=_seconds(message.certificate_ttl_seconds, "wishes.certificate_ttl_seconds"),
        interval=_seconds(message.renewal_interval_seconds, "wishes.renewal_interval_seconds"),
        client_time=from_unix_ms(message.client_time_unix_ms, "wishes.client_time_unix_ms"),
        host=plain(message.host, 128),
        boot_id=plain(message.boot_id, 64),
    )


def _wishes_message(wishes: Wishes) -> pb.Wishes:
    return pb.Wishes(
        certificate_ttl_seconds=int(wishes.ttl.total_seconds()) if wishes.ttl else 0,
        renewal_interval_seconds=int(wishes.interval.total_seconds()) if wishes.interval else 0,
        client_time_unix_ms=to_unix_ms(wishes.client_time),
        host=wishes.host,
        boot_id=wishes.boot_id,
    )


# --- requests ------------------------------------------------------------------------------


def signed_from(message: pb.SignedRequest) -> Signed:
    if not 0 < len(message.signature) <= 1024:
        raise InvalidInput("expected 1 to 1024 bytes", "signature")
    if len(message.nonce) > 64:
        raise InvalidInput("expected at most 64 bytes", "nonce")
    return Signed(message.body, message.signature, message.nonce)


def signed_message(signed: Signed) -> pb.SignedRequest:
    return pb.SignedRequest(body=signed.body, signature=signed.signature, nonce=signed.nonce)


def join_request_from(body: bytes) -> JoinRequest:
    try:
        message = pb.JoinBody.FromString(body)
    except DecodeError:
        raise InvalidInput("not a JoinBody", "body") from None
    if message.WhichOneof("admission") != "token":
        raise InvalidInput("no proof of admission that this server knows; update it", "admission")
    # What is no id may be a whole token: it is not shown, nor kept as what the request was about.
    if not _TOKEN_ID.fullmatch(message.token.id):
        raise InvalidInput("expected tok-bot-<12 hex>", "token.id")
    if len(message.token.secret) > 64:
        raise InvalidInput("too long", "token.secret")
    return JoinRequest(
        token_id=message.token.id,
        token_secret=message.token.secret,
        lineage_key=_blob(message.lineage_key, "lineage_key"),
        ssh_keys=_ssh_keys(message.ssh_keys),
        wishes=_wishes(message.wishes),
    )


def join_body(request: JoinRequest) -> bytes:
    return pb.JoinBody(
        token=pb.JoinToken(id=request.token_id, secret=request.token_secret),
        lineage_key=request.lineage_key,
        ssh_keys=[_ssh_key_message(key) for key in request.ssh_keys],
        wishes=_wishes_message(request.wishes),
    ).SerializeToString()


def _place(message: pb.RenewBody | pb.LeaveBody) -> tuple[str, int]:
    """The instance and the generation that a request comes from."""
    if not 1 <= message.generation <= MAX_GENERATION:
        raise InvalidInput(f"{message.generation} is out of bounds", "generation")
    return _uuid(message.instance_id, "instance_id"), message.generation


def leave_request_from(body: bytes) -> LeaveRequest:
    try:
        message = pb.LeaveBody.FromString(body)
    except DecodeError:
        raise InvalidInput("not a LeaveBody", "body") from None
    instance_id, generation = _place(message)
    return LeaveRequest(
        instance_id=instance_id,
        generation=generation,
        lineage_key=_blob(message.lineage_key, "lineage_key"),
        certificate=_blob(message.certificate, "certificate"),
    )


def leave_body(request: LeaveRequest) -> bytes:
    return pb.LeaveBody(
        instance_id=request.instance_id,
        generation=request.generation,
        lineage_key=request.lineage_key,
        certificate=request.certificate,
    ).SerializeToString()


def renew_request_from(body: bytes) -> RenewRequest:
    try:
        message = pb.RenewBody.FromString(body)
    except DecodeError:
        raise InvalidInput("not a RenewBody", "body") from None
    instance_id, generation = _place(message)
    return RenewRequest(
        instance_id=instance_id,
        generation=generation,
        lineage_key=_blob(message.lineage_key, "lineage_key"),
        certificate=_blob(message.certificate, "certificate"),
        new_lineage_key=_blob(message.new_lineage_key, "new_lineage_key"),
        ssh_keys=_ssh_keys(message.ssh_keys),
        wishes=_wishes(message.wishes),
    )


def renew_body(request: RenewRequest) -> bytes:
    return pb.RenewBody(
        instance_id=request.instance_id,
        generation=request.generation,
        lineage_key=request.lineage_key,
        certificate=request.certificate,
        new_lineage_key=request.new_lineage_key,
        ssh_keys=[_ssh_key_message(key) for key in request.ssh_keys],
        wishes=_wishes_message(request.wishes),
    ).SerializeToString()


# --- answers -------------------------------------------------------------------------------


def trust_message(trust: Trust) -> pb.Trust:
    nodes = []
    for node in trust.nodes:
        host, _, port = node.address.rpartition(":")
        nodes.append(pb.Node(name=node.name, host=host.strip("[]"), port=int(port)))
    return pb.Trust(
        cluster_name=trust.cluster_name,
        cluster_uuid=trust.cluster_uuid,
        host_cas=trust.host_cas,
        user_cas=trust.user_cas,
        server_cas=trust.server_cas,
        nodes=nodes,
    )


def trust_from(message: pb.Trust) -> Trust:
    return Trust(
        cluster_name=plain(message.cluster_name, 128),
        cluster_uuid=message.cluster_uuid,
        host_cas=tuple(message.host_cas),
        user_cas=tuple(message.user_cas),
        server_cas=tuple(message.server_cas),
        nodes=tuple(Node(node.name, host_port(node.host, node.port)) for node in message.nodes),
    )


def issued_message(issued: Issued) -> pb.IssueResponse:
    return pb.IssueResponse(
        instance_id=issued.instance_id,
        generation=issued.generation,
        certificates=issued.certificates,
        trust=trust_message(issued.trust),
        server_time_unix_ms=to_unix_ms(issued.server_time),
        certificate_ttl_seconds=int(issued.ttl.total_seconds()),
        renew_after_ms=int(issued.renew_after.total_seconds() * 1000),
        bot=issued.bot,
    )


def issued_from(message: pb.IssueResponse) -> Issued:
    return Issued(
        instance_id=message.instance_id,
        bot=message.bot,
        generation=message.generation,
        certificates=tuple(message.certificates),
        trust=trust_from(message.trust),
        server_time=from_unix_ms(message.server_time_unix_ms, "server_time_unix_ms"),
        ttl=timedelta(seconds=message.certificate_ttl_seconds),
        renew_after=timedelta(milliseconds=message.renew_after_ms),
    )
