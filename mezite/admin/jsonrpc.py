"""JSON-RPC 2.0 as the unix sockets speak it: one object a line, strictly read.

Stricter than the specification where an operator's tool gains nothing from
freedom: no batches, no notifications (an answer always comes), parameters by
name only, no member that we do not know, no key twice, no NaN, no lone
surrogate.  Standard library only; nothing here touches a socket.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from msgspec import Struct

from mezite.errors import Conflict, InvalidInput, MeziteError, NotFound, PermissionDenied

MAX_LINE = 1024 * 1024
"""Bytes of one request or answer, its line end included."""
MAX_DEPTH = 32
_MAX_ID = 128
_MAX_METHOD = 64

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
FAILED = -32000
"""Any error of ours that has no number of its own; ``data.code`` tells which."""

_NUMBERS: tuple[tuple[type[MeziteError], int], ...] = (
    (InvalidInput, INVALID_PARAMS),
    (PermissionDenied, -32003),
    (NotFound, -32004),
    (Conflict, -32009),
)

Id = str | int | None


class Malformed(Exception):
    """A line is no request; ``id`` is the request's where it could be read."""

    def __init__(self, number: int, code: str, message: str, request_id: Id = None) -> None:
        super().__init__(message)
        self.number = number
        self.code = code
        self.id = request_id

    def to_line(self) -> bytes:
        return error_line(self.id, self.number, self.code, str(self))


class Request(Struct, frozen=True):
    id: str | int
    method: str
    params: Mapping[str, Any]


def parse_request(line: bytes) -> Request:
    """The request in *line* (without its line end), or :class:`Malformed`.

    Whether the method exists and takes these parameters is not checked.
    """
    document = _load(line)
    if isinstance(document, list):
        raise _invalid("batches are not supported; send one request a line")
    if not isinstance(document, dict):
        raise _invalid("a request is a JSON object")
    request_id = document.get("id")
    if not _is_id(request_id):
        raise _invalid("id: every request needs one, a text or an integer")
    if document.get("jsonrpc") != "2.0":
        raise _invalid('jsonrpc: expected "2.0"', request_id)
    method = document.get("method")
    if not isinstance(method, str) or not 0 < len(method) <= _MAX_METHOD:
        raise _invalid(f"method: expected a text of 1 to {_MAX_METHOD} characters", request_id)
    if document.keys() - {"jsonrpc", "id", "method", "params"}:
        raise _invalid("a request has jsonrpc, id, method and params, nothing else", request_id)
    params = document.get("params", {})
    if not isinstance(params, dict):
        raise Malformed(INVALID_PARAMS, "invalid", "params: expected an object", request_id)
    return Request(request_id, method, params)


def _load(line: bytes) -> object:
    try:
        document = json.loads(
            line.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
        _check_values(document)
    except UnicodeDecodeError as error:
        raise Malformed(PARSE_ERROR, "parse_error", f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Malformed(
            PARSE_ERROR, "parse_error", f"not JSON at character {error.pos + 1}: {error.msg}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        # Ours below, and Python's limit on the digits of an integer.
        raise Malformed(PARSE_ERROR, "parse_error", f"not JSON: {str(error)[:200]}") from None
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_values(document: object) -> None:
    """Bounded depth, and texts that can be encoded again."""
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text has half of a surrogate pair") from None


def _too_deep() -> Malformed:
    return Malformed(PARSE_ERROR, "parse_error", f"nested deeper than {MAX_DEPTH} levels")


def _is_id(value: object) -> TypeGuard[str | int]:
    if isinstance(value, str):
        return len(value) <= _MAX_ID
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _invalid(message: str, request_id: Id = None) -> Malformed:
    return Malformed(INVALID_REQUEST, "invalid_request", message, request_id)


# --- answers -------------------------------------------------------------------------------


def result_line(request_id: Id, result: object) -> bytes:
    """The answer, or in its place an error when it is larger than a line may be.

    Raises ``TypeError`` or ``ValueError`` for what is no JSON: a fault of ours.
    """
    line = _line({"jsonrpc": "2.0", "id": request_id, "result": result})
    if len(line) > MAX_LINE:
        return error_line(
            request_id, FAILED, "too_large", "the answer is larger than 1 MiB; ask for fewer with limit"
        )
    return line


def error_line(
    request_id: Id, number: int, code: str, message: str, data: Mapping[str, Any] | None = None
) -> bytes:
    """An error answer; ``data.code`` is the stable code that people and scripts go by."""
    error = {"code": number, "message": message, "data": {"code": code, **(data or {})}}
    return _line({"jsonrpc": "2.0", "id": request_id, "error": error})


def failure_line(request_id: Id, error: MeziteError) -> bytes:
    """The answer that tells of *error*."""
    number = next((number for kind, number in _NUMBERS if isinstance(error, kind)), FAILED)
    data = {"path": error.path} if isinstance(error, InvalidInput) and error.path else None
    return error_line(request_id, number, error.code, str(error), data)


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"
