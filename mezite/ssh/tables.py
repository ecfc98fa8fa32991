"""Tables of principals in files, one for each login (sshd's ``AuthorizedPrincipalsFile``)."""

from __future__ import annotations

import os
import re
import stat

from twisted.logger import Logger

from mezite.core.audit import plain

MAX_TABLE = 1024 * 1024
_TOKEN = re.compile(r"%([u%])")


class PrincipalTables:
    """Finds and reads a login's table, anew at every login.

    *pattern* is an absolute path; ``%u`` in it stands for the login, ``%%`` for a
    percent sign.
    """

    _log = Logger()

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __call__(self, login: str) -> bytes:
        """The table of *login*; empty where there is none that can be trusted."""
        if not login or "/" in login or "\0" in login or login in (".", ".."):
            return b""
        path = _TOKEN.sub(lambda token: login if token[1] == "u" else "%", self._pattern)
        try:
            return _read(path)
        except OSError as error:
            self._log.info("the table of principals {path} is not used: {why}",
                           event="node.principals_unused",
                           path=plain(path, 300), why=error.strerror)
            return b""


def _read(path: str) -> bytes:
    # A pipe in its place must not hold up the whole node.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise OSError(0, "others than root and this account may write it")
        if found.st_size > MAX_TABLE:
            raise OSError(0, f"it is longer than {MAX_TABLE >> 20} MiB")
        return file.read(MAX_TABLE)
