"""errors ↔ gRPC status: one table for both directions.

A refusal travels as a status with the trailer ``mezite-refusal-bin``, a
serialized ``mezite.v1.Refusal``.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError

from mezite.core.audit import plain
from mezite.errors import MeziteError, NoAnswer, Reason, Refused, Unreachable
from mezite.proto.mezite.v1 import identity_pb2 as pb

REFUSAL_TRAILER = "mezite-refusal-bin"

STATUS_OF: dict[Reason, grpc.StatusCode] = {
    Reason.TOKEN_UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_USED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_ROTATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PROVE: grpc.StatusCode.UNAUTHENTICATED,
    Reason.BAD_PROOF: grpc.StatusCode.UNAUTHENTICATED,
    Reason.INSTANCE_UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
    Reason.GENERATION_MISMATCH: grpc.StatusCode.PERMISSION_DENIED,
    Reason.EXPIRED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.LOCKED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.BOT_GONE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ROLE_GONE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ROLE_UNFIT: grpc.StatusCode.PERMISSION_DENIED,
    Reason.NO_LOGINS: grpc.StatusCode.PERMISSION_DENIED,
    Reason.INTERVAL_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CLOCK_SKEW: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SERVER_CLOCK: grpc.StatusCode.UNAVAILABLE,
    Reason.DATABASE_RESTORED: grpc.StatusCode.UNAVAILABLE,
    Reason.TOO_OFTEN: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


_LAST_UNIX_MS = 253402300799_000
"""The last second that a datetime can hold."""


def _time(milliseconds: int) -> int:
    """0 for what is no time: the refusal stands without it."""
    return milliseconds if 0 <= milliseconds <= _LAST_UNIX_MS else 0


def refusal_bytes(refused: Refused) -> bytes:
    return pb.Refusal(
        reason=refused.reason.code,
        reason_class=refused.reason.reason_class.value,
        message=str(refused),
        nonce=refused.nonce,
        server_time_unix_ms=refused.server_time_unix_ms,
        retry_after_ms=refused.retry_after_ms,
    ).SerializeToString()


_TOO_MUCH = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})


def error_from_status(
    code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]]
) -> MeziteError:
    """The error that a failed call means to the client.

    A status without our trailer comes from below the server's use cases (the
    connection, a proxy, an overloaded server): what became of the call is unknown.
    """
    for key, value in trailers:
        if key == REFUSAL_TRAILER and isinstance(value, bytes):
            try:
                refusal = pb.Refusal.FromString(value)
                reason = Reason.from_code(refusal.reason)
            except (DecodeError, KeyError):
                break
            return Refused(
                reason,
                plain(refusal.message),
                nonce=refusal.nonce,
                server_time_unix_ms=_time(refusal.server_time_unix_ms),
                retry_after_ms=refusal.retry_after_ms,
            )
    kind = NoAnswer if code in _TOO_MUCH else Unreachable
    return kind(f"the server did not answer ({code.name.lower()}: {plain(details, 200)})")
