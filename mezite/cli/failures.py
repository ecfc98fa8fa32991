"""Errors as a person at a terminal sees them: one line, and an exit code.

0 done; 1 failed, and worth trying again; 2 asked wrongly; 3 refused.
"""

from __future__ import annotations

import re
import sys

from mezite.cli import streams
from mezite.cli.terminal import BAD, paint
from mezite.errors import (
    Conflict,
    InvalidInput,
    MeziteError,
    NotFound,
    PermissionDenied,
    Reason,
    Refused,
    UntrustedServer,
    UsageError,
)

DONE = 0
FAILED = 1
USAGE = 2
REFUSED = 3

_CODES: tuple[tuple[type[MeziteError], int], ...] = (
    (UsageError, USAGE),
    (InvalidInput, USAGE),
    (NotFound, REFUSED),
    (Conflict, REFUSED),
    (PermissionDenied, REFUSED),
    (UntrustedServer, REFUSED),
    (Refused, REFUSED),
)

_TOKEN = re.compile(r"(tok-bot-[0-9a-f]{12})-[0-9a-f-]+")

_REASONS = {
    Reason.UNAVAILABLE: FAILED,
    Reason.SERVER_CLOCK: FAILED,
    Reason.DATABASE_RESTORED: FAILED,
    Reason.TOO_OFTEN: FAILED,
    Reason.PROVE: FAILED,
    Reason.INTERVAL_TOO_LONG: USAGE,
}
"""Those that are not simply REFUSED."""


def exit_code(error: MeziteError) -> int:
    """What a program that ends with *error* exits with."""
    if isinstance(error, Refused) and error.reason in _REASONS:
        return _REASONS[error.reason]
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def line(program: str, error: MeziteError) -> str:
    """``mezctl: what is wrong; the way out (code)``, on one line, safe for a terminal.

    Of a join token only the id is shown: an argument in the wrong place is
    repeated by whoever complains of it, and a job's log keeps that.
    """
    message = _TOKEN.sub(r"\1-…", " ".join(str(error).split()))
    code = "" if error.code in message.split() else f" ({error.code})"
    return f"{program}: {safe(message)}{code}"


def report(program: str, error: MeziteError) -> int:
    """The line is on standard error, if that can be written to; the exit code."""
    told = line(program, error).removeprefix(program)
    streams.say(paint(program, BAD, sys.stderr) + told)
    return exit_code(error)


def safe(text: str) -> str:
    """*text* without what a terminal would act on: control and format characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
