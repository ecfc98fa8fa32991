"""One peer, in memory: framing, order, limits, who may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from mezite.admin.caller import Allowed, Caller
from mezite.admin.connection import Connection, Connections, Method
from mezite.admin.jsonrpc import MAX_LINE
from mezite.errors import NotFound

OWNER = Caller(uid=1000, gid=1000, pid=42, name="ann", groups=frozenset({1000}))
ALLOWED = Allowed(owner_uid=1000, group_id=300)


class Peer:
    """The other end of a connection, and the methods that it calls."""

    def __init__(self, connections: Connections) -> None:
        self.transport = StringTransport()
        self.connection: Connection = connections.buildProtocol(None)
        self.connection.makeConnection(self.transport)

    def send(self, *requests: Any) -> None:
        self.connection.dataReceived(b"".join(json.dumps(one).encode() + b"\n" for one in requests))

    def answers(self) -> list[Any]:
        """Those that have come since the last time."""
        written = self.transport.value()
        self.transport.clear()
        assert not written or written.endswith(b"\n")
        return [json.loads(line) for line in written.splitlines()]

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))

    @property
    def is_reading(self) -> bool:
        return self.transport.producerState == "producing"

    @property
    def is_closed(self) -> bool:
        return self.transport.disconnecting or self.transport.disconnected


class Server:
    """Connections with a clock and some methods; a waiting one is answered by hand."""

    def __init__(self, caller: Caller = OWNER, **settings: Any) -> None:
        self.clock = Clock()
        self.waiting: list[Deferred[Any]] = []
        self.begun: list[Mapping[str, Any]] = []
        methods: dict[str, Method] = {
            "echo": lambda caller, params: {"who": str(caller), **params},
            "wait": self._wait,
            "coroutine": self._coroutine,
            "missing": self._missing,
            "broken": self._broken,
            "unencodable": lambda caller, params: object(),
            "large": lambda caller, params: "x" * MAX_LINE,
        }
        self.connections = Connections(
            self.clock, methods, ALLOWED, identify=lambda transport: caller, **settings
        )

    def peer(self) -> Peer:
        return Peer(self.connections)

    def _wait(self, caller: Caller, params: Mapping[str, Any]) -> Deferred[Any]:
        self.begun.append(params)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    async def _coroutine(self, caller: Caller, params: Mapping[str, Any]) -> Any:
        return [await self._wait(caller, params)]

    def _missing(self, caller: Caller, params: Mapping[str, Any]) -> Any:
        raise NotFound("there is no bot 'x'")

    def _broken(self, caller: Caller, params: Mapping[str, Any]) -> Any:
        raise RuntimeError("the\nsecret plan")


def request(method: str = "echo", request_id: object = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def result(value: Any, request_id: object = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def test_a_method_answers_its_caller() -> None:
    peer = Server().peer()
    peer.send(request(a=[1, {"b": None}]))
    assert peer.answers() == [result({"who": "uid:1000(ann)", "a": [1, {"b": None}]})]


def test_a_line_may_come_in_pieces_and_with_others() -> None:
    peer = Server().peer()
    data = b"".join(json.dumps(request(request_id=number)).encode() + b"\n" for number in range(3))
    for start in range(0, len(data), 7):
        peer.connection.dataReceived(data[start : start + 7])
    assert [answer["id"] for answer in peer.answers()] == [0, 1, 2]


@pytest.mark.parametrize("method", ["wait", "coroutine"])
def test_requests_are_answered_in_order_one_at_a_time(method: str) -> None:
    """The second one does not begin before the first is answered, and nothing is read meanwhile."""
    server = Server()
    peer = server.peer()
    peer.send(request(method, "a"), request("echo", "b"), request(method, "c"))
    assert len(server.begun) == 1
    assert not peer.is_reading
    assert peer.answers() == []
    server.waiting[0].callback(5)
    assert [answer["id"] for answer in peer.answers()] == ["a", "b"]
    assert len(server.begun) == 2
    server.waiting[1].callback(6)
    assert [answer["id"] for answer in peer.answers()] == ["c"]
    assert peer.is_reading


def test_errors_of_ours_are_told_and_the_connection_goes_on() -> None:
    peer = Server().peer()
    peer.send(request("missing"), request("echo", 2))
    error = {"code": -32004, "message": "there is no bot 'x'", "data": {"code": "not_found"}}
    assert peer.answers() == [
        {"jsonrpc": "2.0", "id": 1, "error": error},
        result({"who": "uid:1000(ann)"}, 2),
    ]


@pytest.mark.parametrize("method", ["broken", "unencodable"])
def test_faults_of_ours_are_logged_and_told_in_one_plain_line(method: str) -> None:
    peer = Server().peer()
    with capturedLogs() as logged:
        peer.send(request(method), request("echo", 2))
    first, second = peer.answers()
    assert first["error"] == {
        "code": -32603,
        "message": "internal error; the server's log says more",
        "data": {"code": "internal"},
    }
    assert second["id"] == 2
    assert [event["log_failure"].type for event in logged if "log_failure" in event] == [
        RuntimeError if method == "broken" else TypeError
    ]


def test_a_fault_that_comes_late_is_told_the_same_way() -> None:
    server = Server()
    peer = server.peer()
    peer.send(request("wait"))
    with capturedLogs() as logged:
        server.waiting[0].errback(Failure(RuntimeError("secret plan")))
    assert peer.answers()[0]["error"]["data"] == {"code": "internal"}
    assert any("log_failure" in event for event in logged)


def test_an_unknown_method_is_told() -> None:
    peer = Server().peer()
    peer.send(request("no\x1bsuch"))
    assert peer.answers()[0]["error"] == {
        "code": -32601, "message": "there is no method no\\x1bsuch", "data": {"code": "method_not_found"}
    }


def test_an_answer_too_large_is_an_error() -> None:
    peer = Server().peer()
    peer.send(request("large"))
    assert peer.answers()[0]["error"]["data"] == {"code": "too_large"}


def test_malformed_lines_are_answered_and_the_connection_goes_on() -> None:
    peer = Server().peer()
    peer.connection.dataReceived(b"\xff\n\n{}\n[]\n" + b"[" * 200_000 + b"\n")
    peer.send(request())
    assert [answer.get("error", {}).get("code") for answer in peer.answers()] == [
        -32700, -32700, -32600, -32600, -32700, None
    ]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_an_oversize_line_is_answered_and_the_connection_closed(end: bytes) -> None:
    """Whether or not its end has come, and after the answers before it."""
    peer = Server().peer()
    peer.send(request())
    peer.connection.dataReceived(b"x" * (MAX_LINE + 1) + end)
    peer.connection.dataReceived(b"y" * 100)
    first, second = peer.answers()
    assert first["id"] == 1
    assert second["error"]["data"] == {"code": "too_large"}
    assert second["id"] is None
    assert peer.is_closed


def test_a_line_of_exactly_the_limit_is_read() -> None:
    peer = Server().peer()
    line = json.dumps(request(text="")).encode()
    room = MAX_LINE - 1 - len(line)
    peer.send(request(text="x" * room))
    assert len(peer.answers()[0]["result"]["text"]) == room


def test_a_peer_that_does_not_read_gets_no_further_request_begun() -> None:
    """The transport says when its buffer is full; then nothing is read either."""
    server = Server()
    peer = server.peer()
    peer.connection.pauseProducing()
    peer.send(request("wait"), request("wait", 2))
    assert server.begun == []
    assert not peer.is_reading
    peer.connection.resumeProducing()
    assert len(server.begun) == 1


def test_many_small_lines_do_not_pile_up_on_the_stack() -> None:
    peer = Server().peer()
    peer.connection.dataReceived(b"x\n" * 20_000)
    assert len(peer.answers()) == 20_000


STRANGER = Caller(uid=1001, gid=1001, pid=43, name="eve", groups=frozenset({1001}))
WHO_MAY = [
    (OWNER, True),
    (Caller(0, 0, 1, "root", frozenset({0})), True),
    (Caller(1002, 1002, 1, "bob", frozenset({1002, 300})), True),
    (STRANGER, False),
    (Caller(1003, 1000, 1, "owner's group only", frozenset({1000})), False),
]


@pytest.mark.parametrize(("caller", "may"), WHO_MAY)
def test_root_the_owner_and_the_group_may_call(caller: Caller, may: bool) -> None:
    peer = Server(caller).peer()
    if may:
        peer.send(request())
        assert "result" in peer.answers()[0]
    else:
        error = peer.answers()[0]["error"]
        assert error["data"] == {"code": "permission_denied"}
        assert peer.is_closed


def test_a_stranger_is_logged_and_his_requests_are_not_looked_at() -> None:
    server = Server(STRANGER)
    with capturedLogs() as logged:
        peer = server.peer()
    peer.send(request("wait"))
    assert server.begun == []
    assert [str(event["caller"]) for event in logged] == ["uid:1001(eve)"]


def test_a_peer_whom_the_kernel_does_not_name_is_cut_off() -> None:
    def fail(transport: object) -> Caller:
        raise OSError("no such option")

    server = Server()
    server.connections.identify = fail
    with capturedLogs() as logged:
        peer = server.peer()
    assert peer.transport.disconnected
    assert peer.answers() == []
    assert [str(event["error"]) for event in logged] == ["no such option"]


def test_a_connection_too_many_is_told() -> None:
    server = Server(max_connections=2)
    peers = [server.peer(), server.peer()]
    third = server.peer()
    assert third.answers()[0]["error"]["data"] == {"code": "busy"}
    assert third.is_closed
    third.lose()
    peers[0].lose()
    fourth = server.peer()
    fourth.send(request())
    assert "result" in fourth.answers()[0]


def test_a_silent_connection_is_closed() -> None:
    """A piece of a line does not count as an answer to silence."""
    server = Server(idle_seconds=60)
    peer = server.peer()
    server.clock.advance(59)
    peer.connection.dataReceived(b"{")
    assert not peer.is_closed
    server.clock.advance(2)
    assert peer.is_closed


def test_a_request_in_hand_is_no_silence() -> None:
    server = Server(idle_seconds=60)
    peer = server.peer()
    peer.send(request("wait"))
    server.clock.advance(600)
    assert not peer.is_closed
    server.waiting[0].callback(None)
    server.clock.advance(59)
    assert not peer.is_closed
    server.clock.advance(1)
    assert peer.is_closed


def test_a_lost_connection_leaves_no_timer_and_drops_its_answer() -> None:
    server = Server()
    peer = server.peer()
    peer.send(request("wait"), request("wait", 2))
    peer.lose()
    server.waiting[0].callback(None)
    assert peer.answers() == []
    assert len(server.begun) == 1
    assert server.clock.getDelayedCalls() == []


def test_closing_lets_the_request_in_hand_end() -> None:
    server = Server()
    idle, busy = server.peer(), server.peer()
    busy.send(request("wait"), request("wait", 2))
    closed = server.connections.close_all()
    assert idle.is_closed
    assert not busy.is_closed
    idle.lose()
    server.waiting[0].callback("done")
    assert busy.answers() == [result("done")]
    assert busy.is_closed
    assert not closed.called
    busy.lose()
    assert closed.called
    assert len(server.begun) == 1
    assert server.clock.getDelayedCalls() == []


def test_closing_cuts_what_takes_too_long() -> None:
    server = Server()
    peer = server.peer()
    peer.send(request("wait"))
    closed = server.connections.close_all()
    server.clock.advance(5)
    assert peer.is_closed
    peer.lose()
    assert closed.called
    assert server.clock.getDelayedCalls() == []


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_in_any_pieces_are_answered_line_by_line(pieces: list[bytes]) -> None:
    """As many answers as lines, each one line of JSON, and nothing raised."""
    peer = Server().peer()
    for piece in pieces:
        peer.connection.dataReceived(piece)
    answers = peer.answers()
    assert len(answers) == b"".join(pieces).count(b"\n")
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert not peer.is_closed
