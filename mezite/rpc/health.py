"""``grpc.health.v1.Health``: whether the server takes calls.

In place of grpcio's own, which writes to a watcher while it holds the lock
that every other watcher, and the server's stop, waits for: one client that
reads nothing would keep the server from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer


class Health(HealthServicer):
    """Tells the same of every service in *names*; not serving until told otherwise."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._is_serving = False
        self._changed = asyncio.Event()

    def set_serving(self, is_serving: bool) -> None:
        """Every watcher hears of it; at once and without waiting for one."""
        self._is_serving = is_serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _answer(self, service: str) -> pb.HealthCheckResponse:
        if service not in self._names:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        serving, not_serving = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=serving if self._is_serving else not_serving)

    # gRPC's names.

    async def Check(self, request: pb.HealthCheckRequest, context: ServicerContext) -> pb.HealthCheckResponse:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return self._answer(request.service)

    async def List(self, request: pb.HealthListRequest, context: ServicerContext) -> pb.HealthListResponse:
        return pb.HealthListResponse(statuses={name: self._answer(name) for name in self._names})

    async def Watch(self, request: pb.HealthCheckRequest, context: ServicerContext) -> None:
        told: pb.HealthCheckResponse | None = None
        while True:
            changed, answer = self._changed, self._answer(request.service)
            if answer != told:
                await context.write(answer)
                told = answer
            await changed.wait()
