"""Errors as a person at a terminal sees them."""

from __future__ import annotations

import pytest

from mezite.cli import failures
from mezite.errors import (
    CertificateRejected,
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

CODES: list[tuple[MeziteError, int]] = [
    (MeziteError("x"), 1),
    (Unreachable("x"), 1),
    (StorageFailure("x"), 1),
    (StateFailure("x"), 1),
    (CertificateRejected("expired", "x"), 1),
    (UsageError("x"), 2),
    (InvalidInput("x"), 2),
    (NotFound("x"), 3),
    (Conflict("x"), 3),
    (PermissionDenied("x"), 3),
    (UntrustedServer("x"), 3),
]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_every_error_has_its_exit_code(error: MeziteError, code: int) -> None:
    assert failures.exit_code(error) == code


def test_a_refusal_is_3_but_for_a_bad_flag_and_what_may_pass() -> None:
    other = {
        Reason.UNAVAILABLE: 1, Reason.SERVER_CLOCK: 1, Reason.DATABASE_RESTORED: 1, Reason.PROVE: 1,
        Reason.TOO_OFTEN: 1,
        Reason.INTERVAL_TOO_LONG: 2,
    }
    assert {reason: failures.exit_code(Refused(reason, "x")) for reason in Reason} == {
        reason: other.get(reason, 3) for reason in Reason
    }


LINES: list[tuple[MeziteError, str]] = [
    (NotFound("there is no bot 'x'"), "mezctl: there is no bot 'x' (not_found)"),
    (Refused(Reason.TOKEN_USED, "used"), "mezctl: used (token_used)"),
    (Refused(Reason.TOKEN_USED, "it says token_used already"), "mezctl: it says token_used already"),
    (MeziteError("two\nlines\t and  blanks "), "mezctl: two lines and blanks (error)"),
    (MeziteError("\x1b[31mred\u202e"), "mezctl: \\x1b[31mred\\u202e (error)"),
]


@pytest.mark.parametrize(("error", "line"), LINES)
def test_an_error_is_one_safe_line_with_its_code(error: MeziteError, line: str) -> None:
    assert failures.line("mezctl", error) == line


def test_a_report_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report("mezd", Unreachable("nobody there")) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "mezd: nobody there (unreachable)\n")
