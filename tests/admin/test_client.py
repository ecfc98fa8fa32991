"""The operator's end of the socket: what it makes of what it meets."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mezite.admin import client
from mezite.errors import (
    Conflict,
    InvalidInput,
    MeziteError,
    NotFound,
    PermissionDenied,
    Reason,
    Refused,
    StorageFailure,
    Unreachable,
    UsageError,
)
from tests.fakes_admin import FakeServer


@contextmanager
def peer(path: Path, *answers: bytes, first: bool = False) -> Iterator[None]:
    """Somebody who says *answers*, one for each line he gets, or *first* at once, and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for answer in answers:
                if not first:
                    lines.readline()
                with suppress(OSError):  # who asked may have seen enough
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(10)
    listener.close()
    path.unlink()


def ask(path: Path, timeout: float = 10) -> object:
    asked = client.connect([path], remedy="start it", timeout=timeout)
    try:
        return asked.call("status")
    finally:
        asked.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def test_every_place_looked_at_is_named(tmp_path: Path) -> None:
    places = [tmp_path / "a.sock", tmp_path / "no" / "b.sock"]
    with pytest.raises(Unreachable) as caught:
        client.connect(places, remedy="start it")
    assert str(caught.value) == f"there is no socket at {places[0]} or {places[1]}; start it"


def test_the_first_that_answers_is_taken(tmp_path: Path) -> None:
    stale, live = tmp_path / "stale.sock", tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    server = FakeServer(live, {"status": lambda caller, params: "here"})
    asked = client.connect([tmp_path / "missing.sock", stale, live], remedy="")
    assert asked.call("status") == "here"
    asked.close()
    server.close()
    with pytest.raises(Unreachable, match=f"^{stale}: nobody listens there any more; start it$"):
        client.connect([tmp_path / "missing.sock", stale], remedy="start it")


def test_a_path_too_long_or_no_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long for a socket's path"):
        client.connect([tmp_path / ("x" * 120)], remedy="")
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(Unreachable, match="that is no socket"):
        client.connect([plain], remedy="")


WHO_MAY = [
    (0o660, 0o750, "become root or a member of the group {group}"),
    (0o600, 0o750, "become root or {owner}"),
    (0o600, 0o700, "become root or {owner}"),
]


@pytest.mark.parametrize(("mode", "above", "remedy"), WHO_MAY)
def test_who_may_is_named(path: Path, mode: int, above: int, remedy: str) -> None:
    """The socket's group where it may, else the owner."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    path.chmod(mode)
    path.parent.chmod(above)
    if os.geteuid() == 0:
        os.chown(path, 1, 1)
        os.chown(path.parent, 1, 1)
    expected = remedy.format(group=path.group(), owner=path.owner())
    assert client._who_may(str(path)) == expected


ERRORS = [
    ("not_found", NotFound),
    ("conflict", Conflict),
    ("invalid", InvalidInput),
    ("usage", UsageError),
    ("permission_denied", PermissionDenied),
    ("storage", StorageFailure),
    ("locked", Refused),
    ("internal", client.ServerError),
    ("from_the_future", client.ServerError),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
def test_errors_come_back_as_what_they_were(path: Path, code: str, kind: type[MeziteError]) -> None:
    error = {"code": -1, "message": "told so", "data": {"code": code}}
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode() + b"\n"
    with peer(path, answer), pytest.raises(kind) as caught:
        ask(path)
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.code) == ("told so", code)
    if isinstance(caught.value, Refused):
        assert caught.value.reason is Reason.LOCKED


def test_the_wrong_socket_is_told(path: Path) -> None:
    server = FakeServer(path, {})
    with pytest.raises(UsageError, match="knows no status; a daemon's socket answers identity commands"):
        ask(path)
    server.close()


STRANGE = [
    (b"", Unreachable, "the server is gone; whether it was done is not known, look first"),
    (b'{"jsonrpc": "2.0", "id": 1, "resu', Unreachable, "the server is gone; whether it was done"),
    (b"HTTP/1.1 400 Bad Request\r\n", client.ServerError, "does not speak our protocol"),
    (b"[]\n", client.ServerError, "does not speak our protocol"),
    (b'{"jsonrpc": "2.0", "id": 99, "result": 1}\n', client.ServerError, "does not speak our protocol"),
    (b"\xff\n", client.ServerError, "does not speak our protocol"),
    (b'{"id": 1, "error": null}\n', client.ServerError, "does not speak our protocol"),
    (b'{"id": 1, "error": {"data": []}}\n', client.ServerError, "does not speak our protocol"),
    (b'{"id": 1, "error": {"data": {"code": 1}, "message": "x"}}\n', client.ServerError, "does not speak"),
    (b"[" * 500_000 + b"\n", client.ServerError, "does not speak our protocol"),
    (b"x" * (client.MAX_LINE + 300_000), client.ServerError, "the answer is larger than 1 MiB"),
]


@pytest.mark.parametrize(("answer", "kind", "told"), STRANGE, ids=range(len(STRANGE)))
def test_a_strange_answer_is_told(path: Path, answer: bytes, kind: type[MeziteError], told: str) -> None:
    with peer(path, answer), pytest.raises(kind, match=told):
        ask(path)


def test_no_answer_in_time_is_told(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(Unreachable, match=r"no answer in 0\.05 s; whether it was done is not known"):
            ask(path, timeout=0.05)


def test_a_refusal_before_the_question_is_heard(path: Path) -> None:
    """The server answers a stranger at once and hangs up, while we may still be sending."""
    refusal = {"jsonrpc": "2.0", "id": None, "error": {
        "code": -32000, "message": "uid:1(x) may not use this socket", "data": {"code": "permission_denied"}}}
    with peer(path, json.dumps(refusal).encode() + b"\n", first=True):
        asked = client.connect([path], remedy="")
        with pytest.raises(PermissionDenied, match="may not use this socket"):
            asked.call("bots.add", {"roles": ["x" * 500_000]})
        asked.close()


def test_a_question_too_large_is_not_sent(path: Path) -> None:
    with peer(path):
        asked = client.connect([path], remedy="")
        with pytest.raises(UsageError, match="larger than 1 MiB"):
            asked.call("roles.put", {"document": "x" * client.MAX_LINE})
        asked.close()


def test_what_is_none_is_left_out(path: Path) -> None:
    server = FakeServer(path, {"status": lambda caller, params: dict(params)})
    asked = client.connect([path], remedy="")
    assert asked.call("status", {"a": None, "b": "\u20ac", "c": False}) == {"b": "\u20ac", "c": False}
    asked.close()
    server.close()


def test_a_list_is_followed_to_its_end(path: Path) -> None:
    following: dict[object, dict[str, object]] = {
        None: {"bots": [1, 2], "next": "b"}, "b": {"bots": [], "next": "c"}, "c": {"bots": [3], "next": None}
    }
    methods: dict[str, Callable[..., object]] = {
        "bots.ls": lambda caller, params: following[params.get("after")]
    }
    server = FakeServer(path, methods)
    asked = client.connect([path], remedy="")
    assert list(asked.pages("bots.ls", "bots", {"limit": 7})) == [1, 2, 3]
    assert {request.params["limit"] for request in server.seen} == {client.PAGE}
    asked.close()
    server.close()


@pytest.mark.parametrize("result", [None, [], {}, {"bots": None, "next": None}, {"bots": []}, 7])
def test_a_list_that_is_none_is_told(path: Path, result: object) -> None:
    answer = json.dumps({"id": 1, "result": result}).encode() + b"\n"
    with peer(path, answer), pytest.raises(client.ServerError, match="does not speak our protocol"):
        list(client.connect([path], remedy="").pages("bots.ls", "bots"))
