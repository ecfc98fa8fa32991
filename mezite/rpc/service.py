"""The gRPC server as a Twisted service: binds, serves, and ends in order."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mezite.errors import Conflict
from mezite.metering import RequestMeter
from mezite.proto.mezite.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from mezite.rpc.auth_api import AuthApi
from mezite.rpc.health import Health
from mezite.rpc.messages import SERVICE_NAME
from mezite.rpc.policy import Gate

_log = Logger()

MAX_MESSAGE = 64 * 1024
"""Bytes; a renewal with one SSH key has about 1,200."""

MAX_CONNECTIONS = 4096
"""At most; and never more than a third of the files that the process may have open,
so that strangers leave room for the database, the operators and the node."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
    # What is said fits into the smallest window: nothing is gained by pings that measure the line.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # A client that connects and says nothing, or is gone without a word.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Streams that are never finished end with their connection; a client in good
    # order is told to make a new one, and loses no call.
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
)


def _options(is_shared: bool) -> list[tuple[str, Any]]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 3)
    # Not for one server alone: a second one would bind the same port in silence.
    shared = ("grpc.so_reuseport", int(is_shared))
    return [*_OPTIONS, shared, ("grpc.max_allowed_incoming_connections", room)]


class LeafSource:
    """The TLS leaf to present now; *current* gives (private key PEM, chain PEM).

    grpc asks once for each connection, in a thread of its own.
    """

    def __init__(self, current: Callable[[], tuple[bytes, bytes]]) -> None:
        self._current = current
        self._given: tuple[bytes, bytes] | None = None

    def configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration, or ``None`` where it is the one given last."""
        pair = self._current()
        if pair == self._given:
            return None
        self._given = pair
        return grpc.ssl_server_certificate_configuration([pair])

    def credentials(self) -> grpc.ServerCredentials:
        first = self._current()
        self._given = first
        return grpc.dynamic_ssl_server_credentials(
            grpc.ssl_server_certificate_configuration([first]),
            self.configuration,  # type: ignore[arg-type]  # the stubs forget that None means unchanged
            require_client_authentication=False,
        )


class AuthRpcService(Service):
    """Serves *api* on *host*:*port* with TLS.

    Bound in ``privilegedStartService``, so that a port in use reaches whoever
    started us; no grpc object is made before that, because twistd forks first.
    Calls in flight get *grace* to end when the service stops.  *serving* is
    called once machines are served.  *refusals* and *meter* are what *api* counts; with
    *is_shared*, other processes of ours listen on the port, too.
    """

    def __init__(
        self,
        reactor: Any,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        *,
        api: AuthApi,
        leaf: LeafSource,
        grace: timedelta,
        serving: Callable[[], None] = lambda: None,
        refusals: Mapping[str, int] = MappingProxyType({}),
        meter: RequestMeter | None = None,
        is_shared: bool = False,
    ) -> None:
        self._reactor = reactor
        self._loop = loop
        self._host = host
        self._port = port
        self._api = api
        self._leaf = leaf
        self._grace = grace
        self._serving = serving
        self._is_shared = is_shared
        self.refusals = refusals
        self.meter = meter or RequestMeter()
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self.bound_port = 0
        self.is_serving = False

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return self._api.waiting

    def privilegedStartService(self) -> None:
        """Raises :class:`Conflict` when the address is taken."""
        super().privilegedStartService()
        asyncio.set_event_loop(self._loop)
        server, gate = grpc.aio.server(options=_options(self._is_shared)), Gate()
        add_IdentityServiceServicer_to_server(self._api, gate)
        self._health = Health(("", SERVICE_NAME))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, gate)
        names = (SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                 reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(service_names=names),  # type: ignore[attr-defined]  # stubs
            gate,
        )
        server.add_generic_rpc_handlers((gate,))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.bound_port = server.add_secure_port(f"{host}:{self._port}", self._leaf.credentials())
        except RuntimeError:
            self.bound_port = 0
        if not self.bound_port:
            raise Conflict(
                f"cannot listen on {host}:{self._port}: the port is taken or the address is not ours; "
                "stop the other server or set auth.listen_addr"
            )
        self._server = server

    def startService(self) -> None:
        super().startService()
        self._reactor.callWhenRunning(self._serve)

    def _serve(self) -> None:
        started = Deferred.fromCoroutine(self._start())
        started.addErrback(self._failed)

    async def _start(self) -> None:
        if self._server is None or self._health is None:
            return
        await _awaited(self._server.start(), self._loop)
        self._health.set_serving(True)
        self.is_serving = True
        _log.info(
            "machines are served on {host}:{port}",
            event="machines.listening", host=self._host, port=self.bound_port,
        )
        self._serving()

    def _failed(self, failure: Any) -> None:
        _log.failure("the gRPC server did not start", failure, event="machines.not_started")
        self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        server, self._server = self._server, None
        self.is_serving = False
        if server is None:
            return
        if self._health is not None:
            self._health.set_serving(False)
        await _awaited(server.stop(self._grace.total_seconds()), self._loop)


def _awaited(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Deferred[Any]:
    return Deferred.fromFuture(asyncio.ensure_future(coroutine, loop=loop))


def tls_names(public_host: str, listen_host: str, host_name: str) -> Sequence[str]:
    """The names in the server's leaf, besides the one that our clients ask for."""
    wild = ("0.0.0.0", "::")
    names = [public_host, host_name, "localhost", "127.0.0.1", "::1"]
    if listen_host not in wild:
        names.append(listen_host)
    return tuple(dict.fromkeys(name for name in names if name))
