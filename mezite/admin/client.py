"""The operator's end of a unix socket: plain socket and JSON, nothing to wait for at start."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from mezite.errors import (
    Conflict,
    InvalidInput,
    MeziteError,
    NotFound,
    PermissionDenied,
    Reason,
    Refused,
    StateFailure,
    StorageFailure,
    Unreachable,
    UntrustedServer,
    UsageError,
)

MAX_LINE = 1024 * 1024
"""As :data:`mezite.admin.jsonrpc.MAX_LINE`."""
TIMEOUT_SECONDS = 60
PAGE = 500

_KINDS: dict[str, type[MeziteError]] = {
    kind.code: kind
    for kind in (
        Conflict, InvalidInput, NotFound, PermissionDenied, StateFailure, StorageFailure, Unreachable,
        UntrustedServer, UsageError,
    )
}


class ServerError(MeziteError):
    """The server tells of an error that has no class here; ``code`` is what it said."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self._code = code

    @property
    def code(self) -> str:  # type: ignore[override]  # per instance here
        return self._code


class Client:
    """One connection; :func:`connect` makes it."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._socket = connection
        self.path = path
        self._buffer = b""
        self._last_id = 0

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of *method*; parameters that are ``None`` are left out.

        Raises the error that the server answers, and :class:`Unreachable` when
        there is no answer: then nobody knows whether it was done.
        """
        self._last_id += 1
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": given}
        try:
            line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:
            raise UsageError("what you send is not UTF-8; write it in that encoding") from None
        if len(line) > MAX_LINE:
            raise UsageError("what you send is larger than 1 MiB")
        try:
            # Cut off while sending: it refuses us at once, and its answer says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(line, socket.MSG_NOSIGNAL)
            answer = self._read_answer()
        except TimeoutError:
            waited = f"no answer in {self._socket.gettimeout():g} s"
            raise Unreachable(f"{self.path}: {waited}; {_UNKNOWN}") from None
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror}; {_UNKNOWN}") from None
        if not isinstance(answer, dict) or answer.get("id") not in (self._last_id, None):
            raise self._foreign()
        if "error" in answer:
            raise self._error(answer["error"], method)
        return answer.get("result")

    def _foreign(self) -> MeziteError:
        return ServerError("protocol", f"{self.path}: what answers there does not speak our protocol")

    def pages(self, method: str, noun: str, params: dict[str, Any] | None = None) -> Iterator[Any]:
        """Every record of a list, page after page."""
        after: str | None = None
        while True:
            answer = self.call(method, {**(params or {}), "after": after, "limit": PAGE})
            try:
                found, after = list(answer[noun]), answer["next"]
            except (TypeError, LookupError):
                raise self._foreign() from None
            yield from found
            if after is None:
                return

    def close(self) -> None:
        self._socket.close()

    def _read_answer(self) -> Any:
        chunks = [self._buffer]
        size = len(self._buffer)
        while b"\n" not in chunks[-1]:
            if size > MAX_LINE:
                raise ServerError("too_large", f"{self.path}: the answer is larger than 1 MiB")
            chunk = self._socket.recv(256 * 1024)
            if not chunk:
                raise Unreachable(f"{self.path}: the server is gone; {_UNKNOWN}")
            chunks.append(chunk)
            size += len(chunk)
        line, _, self._buffer = b"".join(chunks).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self._foreign() from None

    def _error(self, error: Any, method: str) -> MeziteError:
        try:
            code, message = error["data"]["code"], error["message"]
        except (TypeError, LookupError):
            return self._foreign()
        if not isinstance(code, str) or not isinstance(message, str):
            return self._foreign()
        if code == "method_not_found":
            return UsageError(
                f"{self.path}: what listens there knows no {method}; a daemon's socket answers "
                "identity commands only, the server's socket all others"
            )
        if code in _KINDS:
            return _KINDS[code](message)
        try:
            return Refused(Reason.from_code(code), message)
        except KeyError:
            return ServerError(code, message)


_UNKNOWN = "whether it was done is not known, look first"


def connect(
    paths: Sequence[str | os.PathLike[str]], *, remedy: str, timeout: float = TIMEOUT_SECONDS
) -> Client:
    """A connection to the first of *paths* where somebody answers.

    Raises :class:`PermissionDenied` or :class:`Unreachable`; *remedy* ends the
    message that nobody is there.
    """
    stale: str | None = None
    forbidden: str | None = None
    # Few shells expand `~` behind an equals sign.
    candidates = [os.path.expanduser(path) for path in paths]  # noqa: PTH111  # pathlib would cost start-up time
    for path in candidates:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Not settimeout: a socket that does not block gives up at once where others wait in line.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), 0))
        try:
            connection.connect(path)
            connection.settimeout(timeout)
        except OSError as error:
            connection.close()
            if isinstance(error, PermissionError):
                forbidden = forbidden or path
            elif isinstance(error, ConnectionRefusedError):
                stale = stale or path
            elif isinstance(error, BlockingIOError):
                raise Unreachable(
                    f"{path}: too many others wait in line, no answer in {timeout:g} s; try again later"
                ) from None
            elif error.errno in (errno.ENOENT, errno.ENOTDIR):
                pass
            elif error.errno is None:
                raise UsageError(f"{path}: too long for a socket's path (at most 107 bytes)") from None
            else:
                raise Unreachable(f"{path}: {error.strerror}; {remedy}") from None
        else:
            return Client(connection, path)
    if forbidden is not None:
        raise PermissionDenied(f"{forbidden}: you may not use this socket; {_who_may(forbidden)}")
    if stale is not None and not _is_socket(stale):
        raise Unreachable(f"{stale}: that is no socket; {remedy}")
    if stale is not None:
        raise Unreachable(f"{stale}: nobody listens there any more; {remedy}")
    raise Unreachable(f"there is no socket at {' or '.join(candidates)}; {remedy}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  # pathlib would cost start-up time
    except OSError:
        return True


def _who_may(path: str) -> str:
    """What would let the caller in: its group where it has one, else its owner."""
    import grp
    import pwd

    for place in (path, os.path.dirname(path)):  # noqa: PTH120  # pathlib would cost start-up time
        try:
            status = os.stat(place)  # noqa: PTH116
        except OSError:
            continue
        if status.st_mode & 0o020 or (place != path and status.st_mode & 0o010):
            try:
                return f"become root or a member of the group {grp.getgrgid(status.st_gid).gr_name}"
            except KeyError:
                return f"become root or a member of the group {status.st_gid}"
        if status.st_uid == 0:
            break
        try:
            return f"become root or {pwd.getpwuid(status.st_uid).pw_name}"
        except KeyError:
            return f"become root or the account {status.st_uid}"
    return "become root"
