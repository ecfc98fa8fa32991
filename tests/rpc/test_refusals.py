"""Refusals are counted always and written seldom; every reason has a status of its own table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from mezite.errors import Reason, ReasonClass, Refused, Unreachable
from mezite.rpc.refusals import STRANGERS_PER_MINUTE, RefusalLog
from mezite.rpc.status import REFUSAL_TRAILER, STATUS_OF, error_from_status, refusal_bytes

NOW = datetime(2026, 3, 24, 14, tzinfo=UTC)


def test_when_to_come_again_is_carried_over() -> None:
    refused = Refused(Reason.UNAVAILABLE, "too much to do", retry_after_ms=7250)
    told = error_from_status(
        grpc.StatusCode.UNAVAILABLE, "", ((REFUSAL_TRAILER, refusal_bytes(refused)),)
    )
    assert isinstance(told, Refused)
    assert (told.reason, told.retry_after_ms) == (Reason.UNAVAILABLE, 7250)


def test_strangers_leave_a_few_rows_a_minute() -> None:
    log = RefusalLog()
    rows = [log.is_worth_a_row(Reason.TOKEN_UNKNOWN, f"tok-{n}", NOW) for n in range(1000)]
    assert sum(rows) == STRANGERS_PER_MINUTE
    assert log.counts["token_unknown"] == 1000
    assert log.is_worth_a_row(Reason.BAD_PROOF, "", NOW + timedelta(minutes=1))


def test_a_locked_machine_leaves_one_row_in_ten_minutes_for_each_reason() -> None:
    log = RefusalLog()
    assert [log.is_worth_a_row(Reason.LOCKED, "i1", NOW + timedelta(minutes=n)) for n in range(12)] == [
        n % 10 == 0 for n in range(12)
    ]
    assert log.is_worth_a_row(Reason.EXPIRED, "i1", NOW)
    assert log.is_worth_a_row(Reason.LOCKED, "i2", NOW)
    # A clock set back hides nothing.
    assert log.is_worth_a_row(Reason.LOCKED, "i1", NOW - timedelta(hours=1))


def test_what_one_exchange_asks_and_answers_leaves_no_row() -> None:
    assert not RefusalLog().is_worth_a_row(Reason.PROVE, "i1", NOW)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_arrives_as_it_was_sent(reason: Reason) -> None:
    sent = Refused(reason, f"because of {reason.code}", nonce=b"n" * 40, server_time_unix_ms=1_800_000_123)
    got = error_from_status(STATUS_OF[reason], "details", [(REFUSAL_TRAILER, refusal_bytes(sent))])
    assert isinstance(got, Refused)
    assert (got.reason, str(got), got.nonce, got.server_time_unix_ms) == (
        reason, str(sent), sent.nonce, sent.server_time_unix_ms
    )


def test_only_what_nobody_can_get_round_stops_a_machine() -> None:
    """What may pass by itself is in the class retry, with a status that clients may retry."""
    retried = {reason for reason, code in STATUS_OF.items() if code is grpc.StatusCode.UNAVAILABLE}
    assert {reason.reason_class for reason in retried} == {ReasonClass.RETRY}
    assert set(STATUS_OF) == set(Reason)


@pytest.mark.parametrize(
    "trailers", [[], [(REFUSAL_TRAILER, b"\xff\xff")], [(REFUSAL_TRAILER, "text")], [("other", b"x")]]
)
def test_a_status_without_a_readable_refusal_is_no_answer(trailers: list[tuple[str, str | bytes]]) -> None:
    assert isinstance(error_from_status(grpc.StatusCode.PERMISSION_DENIED, "no", trailers), Unreachable)
