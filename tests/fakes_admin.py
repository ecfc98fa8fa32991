"""The operator socket without Twisted: a thread, the real methods, a storage in memory.

Supported as the real one is: what it answers comes from the same parsing, the
same table of methods and the same use cases.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mezite.admin import jsonrpc
from mezite.admin.auth_methods import auth_methods
from mezite.admin.ca_methods import ca_methods
from mezite.admin.caller import Caller
from mezite.admin.status_methods import ServerFacts, status_methods
from mezite.auth.timekeeping import ClockGuard
from mezite.errors import MeziteError
from mezite.storage.interface import Transaction
from tests.harness import Auth

T = TypeVar("T")
ROOT = Caller(uid=0, gid=0, pid=1, name="root")

Methods = Mapping[str, Callable[[Caller, Mapping[str, Any]], Any]]


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits for something")


class Admin:
    """The methods of the server, called directly."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.guard = ClockGuard(lambda: auth.now, lambda: auth.now.timestamp())
        self.refusals: Counter[str] = Counter()

        async def run(use_case: Callable[[Transaction], T], *, write: bool) -> T:
            submit = auth.storage.write if write else auth.storage.read
            return submit(use_case).result(10)

        async def not_ready_reason() -> str | None:
            return self.guard.fault()

        facts = ServerFacts(
            started_at=auth.now, workers=1, driver="sqlite", database=":memory:",
            refusals=lambda: self.refusals, is_encrypted=lambda: False, not_ready_reason=not_ready_reason,
        )
        async def reload() -> None:
            raise AssertionError("an Auth has the authorities that it was made with")

        self.methods = auth_methods(auth.context, run)
        self.methods |= ca_methods(auth.context, run, None, reload)
        self.methods |= status_methods(auth.context, run, self.guard, facts)

    def call(self, method: str, caller: Caller = ROOT, **params: Any) -> Any:
        return finish(self.methods[method](caller, params))


class FakeServer:
    """Answers *methods* on a unix socket, in a thread of its own, until closed."""

    def __init__(self, path: Path, methods: Methods) -> None:
        self.path = path
        self.methods = methods
        self.seen: list[jsonrpc.Request] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        self.path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rwb") as file:
                for line in file:
                    file.write(self._answer(line.rstrip(b"\n")))
                    file.flush()

    def _answer(self, line: bytes) -> bytes:
        try:
            request = jsonrpc.parse_request(line)
        except jsonrpc.Malformed as malformed:
            return malformed.to_line()
        self.seen.append(request)
        if request.method not in self.methods:
            return jsonrpc.error_line(
                request.id, jsonrpc.METHOD_NOT_FOUND, "method_not_found", f"no method {request.method!r} here"
            )
        try:
            result = self.methods[request.method](ROOT, request.params)
            if isinstance(result, Coroutine):
                result = finish(result)
            return jsonrpc.result_line(request.id, result)
        except MeziteError as error:
            return jsonrpc.failure_line(request.id, error)
