"""What a worker tells its head never holds the worker up, and nothing that matters is left out."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from mezite.worker import Reports


class Head:
    """The other end of the pipe."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.counted = 0
        self.reports = Reports(self.loop, self.writing, lambda: {"serving": True, "waiting": self.counted})
        self._rest = b""

    def read(self) -> list[Any]:
        """What has come, in whole lines."""
        data = self._rest
        while True:
            try:
                data += os.read(self.reading, 65536)
            except BlockingIOError:
                break
            # What the worker wrote when there was room.
            self.loop.run_until_complete(asyncio.sleep(0))
        *lines, self._rest = data.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self.loop.remove_writer(self.writing)
        self.loop.close()
        os.close(self.reading)
        os.close(self.writing)


@pytest.fixture
def head() -> Iterator[Head]:
    made = Head()
    yield made
    made.close()


def topics(lines: list[Any]) -> list[list[str]]:
    return [line["topics"] for line in lines if "topics" in line]


def test_what_others_keep_is_told_at_once_and_renewals_are_not(head: Head) -> None:
    head.reports.changed(frozenset({"instances"}))
    assert head.read() == []
    head.reports.changed(frozenset({"instances", "locks"}))
    assert head.read() == [{"topics": ["locks"]}]


def test_facts_are_told_when_they_have_changed(head: Head) -> None:
    head.reports.tell()
    head.reports.tell()
    head.counted = 1
    head.reports.tell()
    assert [line["waiting"] for line in head.read()] == [0, 1]


def test_a_head_that_does_not_read_holds_nobody_up_and_misses_no_topic(head: Head) -> None:
    """It is stopped until the pipe is full: then it hears of all that has changed, in whole lines,
    and of the newest facts."""
    for number in range(10_000):
        head.counted = number
        head.reports.tell()
        head.reports.changed(frozenset({"roles"}))
    head.reports.changed(frozenset({"locks"}))
    head.reports.changed(frozenset({"authorities"}))
    lines = head.read()
    assert len(lines) < 10_000
    assert topics(lines)[-1] == ["authorities", "locks", "roles"]
    assert [line for line in lines if "waiting" in line][-1]["waiting"] == 9_999
    head.reports.changed(frozenset({"bots"}))
    assert topics(head.read()) == [["bots"]]


def test_a_head_that_is_gone_is_no_failure(head: Head) -> None:
    os.close(head.reading)
    head.reports.changed(frozenset({"locks"}))
    head.reports.tell()
    head.reading = os.open(os.devnull, os.O_RDONLY)
