"""Files that decide logins, read again when they change."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from twisted.logger import Logger

from mezite.certs.keys import parse_public_line
from mezite.errors import InvalidInput

_SETTLED_NS = 2 * 10**9
"""A file changed more recently may change once more without its times showing it."""
MAX_CAS = 1024 * 1024

_Stamp = tuple[int, ...]
T = TypeVar("T")


class FollowedFile(Generic[T]):
    """What *parse* makes of a file of at most *limit* bytes, as it lies on disk when it is asked for."""

    _log = Logger()

    def __init__(self, path: Path, parse: Callable[[bytes], T], limit: int, what: str, effect: str) -> None:
        """*what* it is, and the *effect* of its being unreadable, are for the log."""
        self._path = path
        self._parse = parse
        self._limit = limit
        self._what, self._effect = what, effect
        self._stamp: _Stamp | None = None
        self._found: T | None = None
        self._fault = ""

    def current(self) -> T:
        """Raises :class:`InvalidInput` where it is missing, no file, or none of its kind."""
        if self._stamp is None or self._stamp != _stamp_of(self._path):
            self._read()
        if self._found is None:
            raise InvalidInput(self._fault)
        return self._found

    def _read(self) -> None:
        before = self._fault
        self._found, self._fault = None, ""
        try:
            data, self._stamp = _load(self._path, self._limit)
            self._found = self._parse(data)
        except OSError as error:
            self._stamp = None
            self._fault = f"the {self._what} {self._path} cannot be read: {error.strerror}"
        except InvalidInput as error:
            self._fault = f"the {self._what} {self._path} is none: {error}"
        if self._fault and self._fault != before:
            self._log.error(
                "{fault}; {effect}", event="node.file_unreadable", fault=self._fault, effect=self._effect,
            )
        elif before and not self._fault:
            self._log.info(
                "the {what} {path} is readable again",
                event="node.file_readable", what=self._what, path=str(self._path),
            )


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(found: os.stat_result) -> _Stamp | None:
    if time.time_ns() - found.st_mtime_ns < _SETTLED_NS:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _load(path: Path, limit: int) -> tuple[bytes, _Stamp | None]:
    # A pipe in its place must not hold up the whole node.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no file")
        return file.read(limit + 1), _stamp(found)


class TrustedCas:
    """The CAs in files of public keys, one a line (sshd's ``TrustedUserCAKeys``).

    Those of a file that is missing or has a fault in it are not trusted.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        effect = "its CAs are not trusted until this is mended"
        self._files = [FollowedFile(path, _cas, MAX_CAS, "list of CAs", effect) for path in paths]

    def __call__(self) -> tuple[bytes, ...]:
        """Key blobs."""
        found: list[bytes] = []
        for file in self._files:
            try:
                found += file.current()
            except InvalidInput:
                continue
        return tuple(found)


def _cas(data: bytes) -> tuple[bytes, ...]:
    if len(data) > MAX_CAS:
        raise InvalidInput(f"it is longer than {MAX_CAS >> 20} MiB")
    try:
        # By line feeds only, as sshd: other line ends may hide a CA in a comment.
        lines = [line.strip() for line in data.decode("utf-8").split("\n")]
    except UnicodeDecodeError:
        raise InvalidInput("it is no text") from None
    return tuple(parse_public_line(line) for line in lines if line and not line.startswith("#"))
