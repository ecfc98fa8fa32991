"""Clients that hold on to what they are given: the server stays within its means, and still stops."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.rpc.service_process import FILES

ROOT = Path(__file__).parents[2]
NAME = "auth.mezite.internal"
TIMEOUT = 30.0


class Served:
    """The service's process, and clients to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rpc.service_process"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        told = self._read()
        self.port, self.chain = told["port"], told["chain"]

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def open_files(self) -> int:
        self.process.send_signal(signal.SIGUSR1)
        return int(self._read())

    def answers(self, timeout: float = TIMEOUT) -> bool:
        """Whether an honest client is served, at the first attempt."""
        options = (("grpc.ssl_target_name_override", NAME),)
        credentials = grpc.ssl_channel_credentials(self.chain.encode())
        with grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            try:
                channel.unary_unary("/mezite.v1.IdentityService/GetCluster")(b"", timeout=timeout)
            except grpc.RpcError:
                return False
        return True

    def answers_within(self, seconds: float, in_a_row: int = 1) -> bool:
        """Whether one is that asks again when it is turned away."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(self.answers(5) for _ in range(in_a_row)):
                return True
        return False

    def raw(self) -> ssl.SSLSocket:
        """A TLS connection on which HTTP/2 frames can be said by hand."""
        context = ssl.create_default_context(cadata=self.chain)
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), TIMEOUT), server_hostname=NAME
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def served() -> Iterator[Served]:
    one = Served()
    yield one
    one.process.kill()
    one.process.wait(TIMEOUT)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 §4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header as a literal without indexing (RFC 7541 §6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def preface(window: int) -> bytes:
    """The client takes *window* bytes on each stream, and no more."""
    settings = (4).to_bytes(2, "big") + window.to_bytes(4, "big")
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings)


def call(path: bytes, stream: int = 1) -> bytes:
    headers = (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", path),
        (b":authority", NAME.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return frame(1, 4, stream, b"".join(field(name, value) for name, value in headers))


def test_connections_that_say_nothing_leave_room_for_the_rest(served: Served) -> None:
    """A third of the files at most, and each for a few seconds only."""
    with ExitStack() as held:
        for _ in range(FILES + 50):
            held.enter_context(socket.create_connection(("127.0.0.1", served.port), TIMEOUT))
        assert served.open_files() < FILES // 2
        assert served.answers_within(TIMEOUT)
    assert served.stop() == 0


def test_a_watcher_that_reads_nothing_does_not_keep_the_server_from_stopping(served: Served) -> None:
    with served.raw() as watcher:
        watcher.sendall(preface(0) + call(b"/grpc.health.v1.Health/Watch") + frame(0, 1, 1, bytes(5)))
        assert served.answers()
        assert served.stop() == 0


def test_calls_that_are_never_finished_keep_nobody_out(served: Served) -> None:
    """As many as a connection may have, on many connections, each half a message."""
    half = (64 * 1024).to_bytes(5, "big") + bytes(1000)
    with ExitStack() as held:
        for _ in range(20):
            connection = held.enter_context(served.raw())
            streams = range(1, 257, 2)
            join = b"/mezite.v1.IdentityService/Join"
            calls = (call(join, one) + frame(0, 0, one, half) for one in streams)
            connection.sendall(preface(65535) + b"".join(calls))
        # While this burst is taken in, a fraction of a second, grpc turns away calls
        # by lot: more than 1,000 wait for it.  Afterwards they are held, and cost nothing.
        assert served.answers_within(TIMEOUT, in_a_row=5)
        assert served.stop() == 0


def test_health_is_told_and_watched(served: Served) -> None:
    """Up, and down as soon as the server begins to stop; unknown names are no service."""
    from grpc_health.v1 import health_pb2 as pb
    from grpc_health.v1.health_pb2_grpc import HealthStub

    options = (("grpc.ssl_target_name_override", NAME),)
    credentials = grpc.ssl_channel_credentials(served.chain.encode())
    with grpc.secure_channel(f"127.0.0.1:{served.port}", credentials, options) as channel:
        health = HealthStub(channel)
        for name in ("", "mezite.v1.IdentityService"):
            answer = health.Check(pb.HealthCheckRequest(service=name), timeout=TIMEOUT)
            assert answer.status == pb.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health.Check(pb.HealthCheckRequest(service="x"), timeout=TIMEOUT)
        assert set(health.List(pb.HealthListRequest(), timeout=TIMEOUT).statuses) == {
            "", "mezite.v1.IdentityService"
        }
        unknown = health.Watch(pb.HealthCheckRequest(service="x"), timeout=TIMEOUT)
        assert next(unknown).status == pb.HealthCheckResponse.SERVICE_UNKNOWN
        watched = health.Watch(pb.HealthCheckRequest(), timeout=TIMEOUT)
        assert next(watched).status == pb.HealthCheckResponse.SERVING
        served.process.send_signal(signal.SIGTERM)
        assert next(watched).status == pb.HealthCheckResponse.NOT_SERVING
    assert served.process.wait(TIMEOUT) == 0
