"""Revocation lists in files, read again when they change (sshd's ``RevokedKeys``)."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from mezite.certs.krl import MAX_LIST, Revocations, parse_revocations
from mezite.errors import CertificateRejected, InvalidInput

UNREADABLE = "revocations_unreadable"
_SETTLED_NS = 2 * 10**9
"""A file changed more recently may change once more without its times showing it."""

_Stamp = tuple[int, ...]


class RevocationFiles:
    """KRLs and lists of public keys, as they lie on disk at the moment they are asked for.

    A file that is missing or has a fault in it makes every answer a refusal, as
    with sshd: nobody can say then who is revoked.
    """

    _log = Logger()

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_File(path) for path in paths]

    def __call__(self) -> Sequence[Revocations]:
        """What is revoked now.  Raises :class:`CertificateRejected` with
        :data:`UNREADABLE` where that cannot be known."""
        return [file.current(self._log) for file in self._files]

    def look(self) -> None:
        """Reads all files, so that a fault is in the log at once."""
        for file in self._files:
            with contextlib.suppress(CertificateRejected):
                file.current(self._log)


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._found: Revocations | None = None
        self._fault = ""

    def current(self, log: Logger) -> Revocations:
        if self._stamp is None or self._stamp != _stamp_of(self._path):
            self._read(log)
        if self._found is None:
            raise CertificateRejected(UNREADABLE, self._fault)
        return self._found

    def _read(self, log: Logger) -> None:
        before = self._fault
        self._found, self._fault = None, ""
        try:
            data, self._stamp = _load(self._path)
            self._found = parse_revocations(data)
        except OSError as error:
            self._stamp = None
            self._fault = f"the revocation list {self._path} cannot be read: {error.strerror}"
        except InvalidInput as error:
            self._fault = f"the revocation list {self._path} is none: {error}"
        if self._fault and self._fault != before:
            log.error("{fault}; nobody is let in until this is mended", fault=self._fault)
        elif before and not self._fault:
            log.info("the revocation list {path} is readable again", path=str(self._path))


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(found: os.stat_result) -> _Stamp | None:
    if time.time_ns() - found.st_mtime_ns < _SETTLED_NS:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _load(path: Path) -> tuple[bytes, _Stamp | None]:
    # A pipe in its place must not hold up the whole node.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no file")
        return file.read(MAX_LIST + 1), _stamp(found)
