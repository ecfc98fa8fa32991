"""A real gRPC server over TLS in front of the use cases, for the client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from mezite.certs import keys
from mezite.certs.x509 import create_server_ca, issue_leaf, spki_pin
from mezite.core.request import Issued
from mezite.errors import Refused
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.proto.mezite.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)
from mezite.rpc import messages
from mezite.rpc.status import REFUSAL_TRAILER, STATUS_OF, refusal_bytes
from tests.harness import Auth

NOW = datetime.now(UTC)


@dataclass
class Ca:
    """A CA that can issue TLS leaves."""

    key: Any = field(default_factory=keys.generate_key)
    name: str = "example"
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        uuid = "5a7f0f5e-7a4c-4f4e-9c55-0d8a3c5b1f00"
        self.certificate = create_server_ca(self.key, self.name, uuid, now=NOW, serial=7)

    @property
    def pin(self) -> str:
        return spki_pin(self.certificate)

    def leaf(self, *names: str, start: timedelta = timedelta(0), ttl: timedelta = timedelta(hours=1)
             ) -> tuple[bytes, bytes]:
        return issue_leaf(self.key, self.certificate, names, now=NOW + start, ttl=ttl, serial=8)


class Servicer(IdentityServiceServicer):
    """Decodes, calls the use case, encodes: as the real one, without its edges.

    ``mode`` breaks it: ``hang``, ``garbage`` (an answer that cannot be read), ``internal``.
    """

    def __init__(self, auth: Auth, mode: str = "") -> None:
        self.auth = auth
        self.mode = mode
        self.bodies: list[bytes] = []

    async def GetCluster(self, request: Any, context: Any) -> Any:
        cluster = self.auth.context.cluster
        return pb.GetClusterResponse(
            cluster_name=cluster.name,
            cluster_uuid=cluster.uuid,
            server_time_unix_ms=messages.to_unix_ms(self.auth.now),
        )

    async def Join(self, request: Any, context: Any) -> Any:
        signed = messages.signed_from(request)
        return await self._answer(
            signed.body, context, lambda: self.auth.join(messages.join_request_from(signed.body), signed)
        )

    async def Renew(self, request: Any, context: Any) -> Any:
        signed = messages.signed_from(request)
        return await self._answer(
            signed.body, context, lambda: self.auth.renew(messages.renew_request_from(signed.body), signed)
        )

    async def Leave(self, request: Any, context: Any) -> Any:
        signed = messages.signed_from(request)
        return await self._answer(
            signed.body, context, lambda: self.auth.leave(messages.leave_request_from(signed.body), signed)
        )

    async def _answer(self, body: bytes, context: Any, use_case: Any) -> Any:
        self.bodies.append(body)
        if self.mode == "hang":
            await asyncio.Event().wait()
        if self.mode == "internal":
            await context.abort(grpc.StatusCode.INTERNAL, "oh\nno")
        if self.mode == "garbage":
            return pb.IssueResponse(server_time_unix_ms=-5)
        outcome: Issued | Refused | None = use_case()
        if isinstance(outcome, Refused):
            context.set_trailing_metadata(((REFUSAL_TRAILER, refusal_bytes(outcome)),))
            await context.abort(STATUS_OF[outcome.reason], str(outcome))
        return pb.LeaveResponse() if outcome is None else messages.issued_message(outcome)


@asynccontextmanager
async def serving(
    servicer: Servicer, leaf: tuple[bytes, bytes], *, address: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """The port where *servicer* is served with *leaf* (key, chain; PEM)."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_IdentityServiceServicer_to_server(servicer, server)
    port = server.add_secure_port(f"{address}:0", grpc.ssl_server_credentials([leaf]))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
