"""Who may call which method, and the gate that enforces it.

Machines authenticate inside their messages (a signature by the lineage key),
because grpc can require client certificates or ignore them, never take them
as they come.  So every method of ours is open to anybody who speaks TLS 1.3,
and a method that is not in the table is open to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mezite.errors import Reason, Refused
from mezite.rpc.status import REFUSAL_TRAILER, STATUS_OF, refusal_bytes

ANYBODY = "anybody"
"""May call without a proof; answers only what is public."""
PROVEN = "proven"
"""The use case demands a proof in the message."""

METHODS: dict[str, str] = {
    "/mezite.v1.IdentityService/GetCluster": ANYBODY,
    "/mezite.v1.IdentityService/Join": PROVEN,
    "/mezite.v1.IdentityService/Renew": PROVEN,
    "/mezite.v1.IdentityService/Leave": PROVEN,
    "/grpc.health.v1.Health/Check": ANYBODY,
    "/grpc.health.v1.Health/List": ANYBODY,
    "/grpc.health.v1.Health/Watch": ANYBODY,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANYBODY,
}

_TLS13 = [b"TLSv1.3"]

def _deny(code: grpc.StatusCode, details: str) -> grpc.RpcMethodHandler:
    async def refuse(_request: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, details)

    return grpc.unary_unary_rpc_method_handler(refuse)


_UNKNOWN = _deny(grpc.StatusCode.UNIMPLEMENTED, "no such method")


def _strict(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """*handler*, with a typed refusal of bytes that are no message of its method:
    grpc itself would answer UNKNOWN, with the text of a Python exception."""
    parse: Any = handler.request_deserializer
    answer: Any = handler.unary_unary

    def read(data: bytes) -> object:
        try:
            return parse(data)
        except DecodeError:
            return None

    async def answer_or_refuse(request: object, context: grpc.aio.ServicerContext) -> Any:
        if request is not None:
            return await answer(request, context)
        refused = Refused(Reason.INVALID_REQUEST, "the bytes sent are no message of this method")
        context.set_trailing_metadata(((REFUSAL_TRAILER, refusal_bytes(refused)),))
        await context.abort(STATUS_OF[refused.reason], f"{refused.code}: {refused}")
        raise AssertionError("abort always raises")

    return grpc.unary_unary_rpc_method_handler(answer_or_refuse, read, handler.response_serializer)


class Gate(grpc.GenericRpcHandler):
    """Lets through what the table knows, and can be read.

    Services are added to it in place of the server, which asks it for every
    call: an interceptor would decide the same anew, and cost each call a
    coroutine and a wrapper.
    """

    def __init__(self) -> None:
        self._services: list[grpc.GenericRpcHandler] = []
        self._found: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, services: Iterable[grpc.GenericRpcHandler]) -> None:
        """What generated code calls."""
        self._services += services

    def add_registered_method_handlers(self, service_name: str, handlers: object) -> None:
        """Of the same handlers once more: nothing that is let in by itself."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        return self._found.get(method) or self._look_up(method, handler_call_details)

    def _look_up(self, method: str, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if method not in METHODS:
            return _UNKNOWN
        for service in self._services:
            handler = service.service(details)
            if handler is not None:
                self._found[method] = handler if handler.unary_unary is None else _strict(handler)
                return self._found[method]
        return _UNKNOWN


def speaks_tls13(context: grpc.aio.ServicerContext) -> bool:
    """Whether this call came over TLS 1.3.

    grpc has no option for a least version, so a call over TLS 1.2 has been
    sent by the time it can be refused; our clients speak 1.3 only.
    """
    return bool(context.auth_context().get("ssl_tls_version") == _TLS13)
