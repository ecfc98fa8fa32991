"""What is a request, what is not, and how it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mezite.admin import jsonrpc
from mezite.admin.jsonrpc import Malformed, Request, parse_request
from mezite.errors import (
    Conflict,
    InvalidInput,
    MeziteError,
    NotFound,
    PermissionDenied,
    Reason,
    Refused,
    StorageFailure,
)


def line(**changes: Any) -> bytes:
    document = {"jsonrpc": "2.0", "id": 7, "method": "bots.ls", "params": {"limit": 3}, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def test_a_request_is_read() -> None:
    assert parse_request(line()) == Request(7, "bots.ls", {"limit": 3})


def test_parameters_may_be_left_out() -> None:
    assert parse_request(line(params=...)) == Request(7, "bots.ls", {})


MALFORMED = [
    (b"", -32700, None),
    (b"{", -32700, None),
    (b"\xff\xfe", -32700, None),
    (b'"\\ud800"', -32700, None),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "\\udfff"}', -32700, None),
    (b'{"\\ud800": 1}', -32700, None),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"a": NaN}}', -32700, None),
    (b'{"id": 1, "id": 2}', -32700, None),
    (b"1" * 5000, -32700, None),
    (b"[" * 100_000, -32700, None),
    (b'{"a":' * 40 + b"1" + b"}" * 40, -32700, None),
    (b"[]", -32600, None),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "x"}]', -32600, None),
    (b"null", -32600, None),
    (b"3", -32600, None),
    (b"{}", -32600, None),
    (line(id=...), -32600, None),
    (line(id=None), -32600, None),
    (line(id=True), -32600, None),
    (line(id=1.5), -32600, None),
    (line(id="x" * 129), -32600, None),
    (line(id=2**53), -32600, None),
    (line(id=[1]), -32600, None),
    (line(jsonrpc="1.0"), -32600, 7),
    (line(jsonrpc=2.0), -32600, 7),
    (line(jsonrpc=...), -32600, 7),
    (line(method=...), -32600, 7),
    (line(method=1), -32600, 7),
    (line(method=""), -32600, 7),
    (line(method="x" * 65), -32600, 7),
    (line(extra=1), -32600, 7),
    (line(params=[1]), -32602, 7),
    (line(params=None), -32602, 7),
    (line(params="x"), -32602, 7),
]


@pytest.mark.parametrize(("given", "number", "request_id"), MALFORMED)
def test_what_is_no_request_is_told_with_its_id(given: bytes, number: int, request_id: object) -> None:
    """The id is the request's where it could be read, else null."""
    with pytest.raises(Malformed) as caught:
        parse_request(given)
    answer = json.loads(caught.value.to_line())
    assert answer["error"]["code"] == number
    assert answer["id"] == request_id
    assert answer["jsonrpc"] == "2.0"
    assert "result" not in answer
    assert set(answer["error"]["data"]) == {"code"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers() | st.text() | JSON,
        "method": st.text() | JSON,
        "params": st.dictionaries(st.text(), JSON, max_size=4) | JSON,
        "more": JSON,
    },
)


@given(st.binary() | (REQUESTS | JSON).map(lambda value: json.dumps(value).encode()))
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_a_request_or_a_fault_of_one_line(data: bytes) -> None:
    """Nothing else is ever raised, and every answer is one line of JSON."""
    try:
        request = parse_request(data)
    except Malformed as fault:
        answer = fault.to_line()
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        assert "\n" not in json.loads(answer)["error"]["message"]
    else:
        assert isinstance(request.method, str)
        assert request.id is not None
        assert isinstance(request.params, dict)


@given(st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=128), st.text(min_size=1, max_size=64),
       st.dictionaries(st.text(), st.integers() | st.text()))
def test_what_is_written_as_a_request_is_read_back(request_id: Any, method: str, params: Any) -> None:
    given = line(id=request_id, method=method, params=params)
    assert parse_request(given) == Request(request_id, method, params)


ERRORS: list[tuple[MeziteError, int, dict[str, str]]] = [
    (InvalidInput("bad", "spec.allow"), -32602, {"code": "invalid", "path": "spec.allow"}),
    (InvalidInput("bad"), -32602, {"code": "invalid"}),
    (PermissionDenied("no"), -32003, {"code": "permission_denied"}),
    (NotFound("no"), -32004, {"code": "not_found"}),
    (Conflict("no"), -32009, {"code": "conflict"}),
    (StorageFailure("no"), -32000, {"code": "storage"}),
    (Refused(Reason.LOCKED, "no"), -32000, {"code": "locked"}),
]


@pytest.mark.parametrize(("error", "number", "data"), ERRORS)
def test_every_error_has_a_number_and_its_stable_code(
    error: MeziteError, number: int, data: dict[str, str]
) -> None:
    answer = json.loads(jsonrpc.failure_line("a", error))
    assert answer == {
        "jsonrpc": "2.0", "id": "a", "error": {"code": number, "message": str(error), "data": data}
    }


def test_an_answer_too_large_is_an_error_in_its_place() -> None:
    answer = json.loads(jsonrpc.result_line(1, "x" * jsonrpc.MAX_LINE))
    assert answer["error"]["data"]["code"] == "too_large"


def test_an_answer_of_exactly_the_limit_is_sent() -> None:
    around = len(jsonrpc.result_line(1, ""))
    assert len(jsonrpc.result_line(1, "x" * (jsonrpc.MAX_LINE - around))) == jsonrpc.MAX_LINE


def test_what_is_no_json_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError):
        jsonrpc.result_line(1, object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonrpc.result_line(1, float("nan"))
