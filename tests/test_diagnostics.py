"""What strangers send to the address for diagnostics, byte by byte."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock, StringTransport

from mezite.diagnostics import DiagnosticsService


@pytest.fixture
def connected() -> tuple[Any, StringTransport]:
    reactor = MemoryReactorClock()
    DiagnosticsService(reactor, "127.0.0.1", 0, lambda: None, lambda: b"metrics\n").privilegedStartService()
    protocol, transport = reactor.tcpServers[0][1].buildProtocol(None), StringTransport()
    protocol.makeConnection(transport)
    return protocol, transport


@pytest.mark.parametrize("kind", [b"Content-Length: 100000000000", b"Transfer-Encoding: chunked"])
def test_a_body_is_kept_nowhere_and_ends_the_connection(
    connected: tuple[Any, StringTransport], kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here asks for one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # whatever made a file there would fail
    protocol, transport = connected
    protocol.dataReceived(b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + kind + b"\r\n\r\n")
    chunk = b"x" * 1000 if b"Length" in kind else b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    for _ in range(60):
        protocol.dataReceived(chunk)
    assert not transport.disconnecting
    for _ in range(10):
        protocol.dataReceived(chunk)
    assert transport.disconnecting
    assert transport.value() == b""


def test_a_small_body_is_passed_over(connected: tuple[Any, StringTransport]) -> None:
    protocol, transport = connected
    post = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    protocol.dataReceived(post + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.value().startswith(b"HTTP/1.1 405 ")
    assert transport.value().endswith(b"\r\n\r\nmetrics\n")
    assert not transport.disconnecting
