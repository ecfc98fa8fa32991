"""Durations, intervals, expiry, back-off, and a clock that cannot be trusted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.core.audit import plain
from mezite.core.duration import format_duration, parse_duration
from mezite.core.lifetime import (
    IntervalTooLong,
    clock_fault,
    renew_after,
    renewal_interval,
    retry_delay,
)
from mezite.errors import InvalidInput

NOW = datetime(2026, 3, 24, 15, tzinfo=UTC)
chances = st.floats(0, 1, exclude_max=True)
lengths = st.integers(1, 90 * 86400).map(lambda seconds: timedelta(seconds=seconds))


@given(lengths)
def test_a_duration_is_read_back_as_it_was_written(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("1h30m", 5400), ("7d", 604800), ("90m", 5400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "1", "h", "1.5h", "-1h", "+1h", "1h ", " 1h", "1m1h", "1w", "0s", "1h\n", "１h", None, 5, 1.5, True],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


@given(lengths, st.none() | lengths)
def test_the_interval_is_shorter_than_the_ttl_or_refused(ttl: timedelta, asked: timedelta | None) -> None:
    interval = renewal_interval(asked, ttl)
    if isinstance(interval, IntervalTooLong):
        assert asked is not None
        assert asked >= ttl
    else:
        assert interval == max(timedelta(seconds=1), ttl / 2 if asked is None else asked)


@given(lengths, chances)
def test_a_renewal_is_moved_earlier_never_later(interval: timedelta, chance: float) -> None:
    after = renew_after(interval, chance)
    assert max(timedelta(seconds=1), interval * 0.9) <= after <= max(timedelta(seconds=1), interval)


@given(st.integers(1, 10_000), chances, lengths)
def test_a_retry_waits_longer_each_time_up_to_its_ceiling(
    failures: int, chance: float, ceiling: timedelta
) -> None:
    delay = retry_delay(failures, chance, ceiling)
    assert timedelta(0) < delay <= ceiling
    assert delay <= retry_delay(failures + 1, chance, ceiling)


@pytest.mark.parametrize(
    ("now", "last", "elapsed", "at_fault"),
    [
        (0, None, None, False),
        (0, 0, None, False),
        (-299, 0, None, False),
        (-301, 0, None, True),
        (-301, 0, 30, True),
        # Steps by NTP, and a night asleep, are ordinary.
        (60, 0, 30, False),
        (8 * 3600, 0, 8 * 3600, False),
        (8 * 3600, 0, 30, True),
        # Since the last run: a long holiday is ordinary, another decade is not.
        (80 * 86400, 0, None, False),
        (91 * 86400, 0, None, True),
    ],
)
def test_a_clock_that_jumped_is_at_fault(
    now: int, last: int | None, elapsed: int | None, at_fault: bool
) -> None:
    fault = clock_fault(
        NOW + timedelta(seconds=now),
        None if last is None else NOW + timedelta(seconds=last),
        None if elapsed is None else timedelta(seconds=elapsed),
    )
    assert (fault is not None) == at_fault


@given(st.text() | st.binary(max_size=2000))
def test_what_goes_into_a_log_is_one_printable_line(text: str | bytes) -> None:
    shown = plain(text, 200)
    assert len(shown) <= 200
    assert shown == "" or shown.isprintable()
