"""What anybody can cause is told a few times a minute."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from mezite.ssh.sampling import MAX_CAUSES, Sample
from tests.ssh.client import REQUEST, SERVICE_REQUEST, START, SUBJECT_BLOB, Wire
from tests.ssh.node import user_certificate
from tests.ssh.test_userauth import FOREIGN


def test_the_first_few_of_each_minute_are_told() -> None:
    clock = Clock()
    sample = Sample(2, clock.seconds)
    assert [sample.is_told() for _ in range(4)] == [True, True, False, False]
    clock.advance(60)
    assert (sample.is_told(), sample.left_out(), sample.left_out()) == (True, " (2 more before this one)", "")


def test_causes_are_told_apart_as_long_as_they_are_few() -> None:
    sample = Sample(1, Clock().seconds)
    assert sum(sample.is_told(number) for number in range(10 * MAX_CAUSES)) == MAX_CAUSES + 1
    assert len(sample._counts) == MAX_CAUSES + 1


def test_a_clock_that_goes_back_silences_nothing() -> None:
    times = [100.0, 100.0, 40.0]
    sample = Sample(1, lambda: times.pop(0))
    assert [sample.is_told() for _ in range(3)] == [True, False, True]


def test_strangers_write_few_lines() -> None:
    """By whatever they send: certificates of others, or what is no SSH after all."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if str(event.get("event", "")).startswith("node.") and event["log_level"] >= LogLevel.info:
            lines.append(formatEvent(event) or "")

    first = Wire()
    blob = user_certificate(SUBJECT_BLOB, FOREIGN, START)
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(12):
            connection = Wire(factory=first.factory).start_userauth()
            for _ in range(5):
                connection.send(REQUEST, connection.request(blob))
        for _ in range(60):
            connection = Wire(factory=first.factory)
            connection.send(SERVICE_REQUEST, b"")
            assert connection.client.lost
        assert len(lines) == 40
        first.clock.advance(60)
        connection = Wire(factory=first.factory).start_userauth()
        connection.send(REQUEST, connection.request(blob))
        assert lines[-1].endswith("(40 more before this one)")
    finally:
        globalLogPublisher.removeObserver(observe)
