"""Over HTTP, for whatever restarts, routes or watches: ``/healthz``, ``/readyz`` and ``/metrics``.

Both programs serve it where they are told to, on loopback if they are wise: it
asks nobody who he is, and its answers name bots and instances.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.web.http import INTERNAL_SERVER_ERROR, NOT_ALLOWED, NOT_FOUND, OK, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from mezite.errors import Conflict

NotReady = Callable[[], Any]
"""Why the program is not ready (a text), or ``None``; or a Deferred with that."""

Collect = Callable[[], Any]
"""The metrics in Prometheus's text format (bytes), or a Deferred with them."""

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_IDLE_S = 15
_MAX_BODY = 64 * 1024
_log = Logger()


class DiagnosticsService(Service):
    """Serves ``/healthz`` (200 while the program runs at all), ``/readyz`` (200,
    or 503 with the reason) and ``/metrics``."""

    def __init__(self, reactor: Any, host: str, port: int, not_ready: NotReady, collect: Collect) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._not_ready = not_ready
        self._collect = collect
        self._listening: Any = None

    def privilegedStartService(self) -> None:
        """Raises :class:`Conflict` when the address cannot be had."""
        super().privilegedStartService()
        root = _Root(self._not_ready, self._collect)
        site = _Site(root, requestFactory=_Request, timeout=_IDLE_S, reactor=self._reactor)
        try:
            self._listening = self._reactor.listenTCP(self._port, site, backlog=16, interface=self._host)
        except CannotListenError as error:
            raise Conflict(
                f"cannot listen on {self._host}:{self._port} for diagnostics ({error.socketError}); stop "
                "what is there or choose another address"
            ) from None
        _log.info("diagnostics on http://{host}:{port}/readyz", event="diagnostics.listening",
                  host=self._host, port=self._listening.getHost().port)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        listening, self._listening = self._listening, None
        return None if listening is None else maybeDeferred(listening.stopListening)


class _Site(Site):
    displayTracebacks = False

    def log(self, request: Any) -> None:
        """A probe every few seconds is no news."""


class _Request(Request):
    """Its body, which nothing here asks for, goes nowhere: Twisted would put it into a file."""

    _body = 0

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        before, self._body = self._body, self._body + len(data)
        if before <= _MAX_BODY < self._body:
            self.channel.loseConnection()


class _Root(Resource):
    isLeaf = True

    def __init__(self, not_ready: NotReady, collect: Collect) -> None:
        super().__init__()
        self._not_ready = not_ready
        self._collect = collect

    def render(self, request: Request) -> Any:
        """Twisted's name for it."""
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _answer(request, NOT_ALLOWED, "only GET and HEAD are served here")
        if request.path == b"/healthz":
            return _answer(request, OK, "ok")
        if request.path == b"/readyz":
            return self._later(request, self._not_ready, _readiness, "readiness could not be found out")
        if request.path == b"/metrics":
            return self._later(request, self._collect, _metrics, "the metrics could not be collected")
        return _answer(request, NOT_FOUND, "there are /healthz, /readyz and /metrics")

    def _later(
        self, request: Request, find: Callable[[], Any], show: Callable[[Request, Any], bytes], trouble: str
    ) -> Any:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def found(what: Any) -> None:
            if not gone:
                request.write(show(request, what))
                request.finish()

        def failed(failure: Any) -> None:
            _log.failure(trouble, failure, event="diagnostics.failed")
            if not gone:
                request.write(_answer(request, INTERNAL_SERVER_ERROR, trouble))
                request.finish()

        finding: Deferred[Any] = maybeDeferred(find)
        finding.addCallback(found).addErrback(failed)
        return NOT_DONE_YET


def _metrics(request: Request, text: bytes) -> bytes:
    return _whole(request, OK, _METRICS_TYPE, text)


def _readiness(request: Request, reason: str | None) -> bytes:
    if reason is None:
        return _answer(request, OK, "ready")
    return _answer(request, SERVICE_UNAVAILABLE, f"not ready: {reason}")


def _answer(request: Request, code: int, text: str) -> bytes:
    return _whole(request, code, b"text/plain; charset=utf-8", f"{text}\n".encode())


def _whole(request: Request, code: int, kind: bytes, body: bytes) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", kind)
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"content-length", b"%d" % len(body))
    return body
