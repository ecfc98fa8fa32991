"""`mezctl audit ls --follow`: each event once, in order, whatever the server does meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from itertools import islice
from typing import Any

import pytest

from mezite.cli.ctl_audit import following
from mezite.errors import Unreachable
from tests.cli.conftest import Terminal


class Log:
    """A server's log, and what happens at each look after the first one."""

    def __init__(self, *looks: list[int] | Unreachable, begin: int = 0) -> None:
        self.ids = list(range(1, begin + 1))
        self.looks = list(looks)
        self.waits = 0

    def call(self, *, limit: int, after: str | None = None) -> dict[str, Any]:
        found = sorted((one for one in self.ids if after is None or one < int(after)), reverse=True)[:limit]
        return {
            "events": [{"id": one} for one in found],
            "next": str(found[-1]) if len(found) == limit else None,
        }

    def look(self, *, limit: int, after: str | None = None) -> dict[str, Any]:
        if after is None and self.waits and self.looks:
            step = self.looks.pop(0)
            if isinstance(step, Unreachable):
                raise step
            self.ids += step
        return self.call(limit=limit, after=after)

    def wait(self, seconds: float) -> None:
        self.waits += 1
        assert self.waits < 100, "it goes on for ever"

    def shown(self, count: int, first: int = 10) -> list[int]:
        return [event["id"] for event in islice(following(self.look, first, self.wait), count)]


def test_the_latest_ones_first_and_then_what_comes() -> None:
    assert Log([21, 22], [], [23], begin=20).shown(13) == [*range(11, 21), 21, 22, 23]


def test_an_empty_log_is_waited_for() -> None:
    assert Log([], [1], [2]).shown(2) == [1, 2]


def test_more_than_a_page_at_once() -> None:
    assert Log(list(range(6, 406)), begin=5).shown(405) == list(range(1, 406))


def test_one_that_comes_after_a_later_one_is_shown() -> None:
    """Two servers write to one log."""
    assert Log([7, 9], [8], begin=6).shown(9) == [1, 2, 3, 4, 5, 6, 7, 9, 8]


def test_a_server_that_is_restarted_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    gone = Unreachable("no answer")
    assert Log([4], gone, gone, [5], begin=3).shown(5) == [1, 2, 3, 4, 5]
    assert capsys.readouterr().err.count("waiting for it") == 1


def test_the_command_goes_on_until_it_is_ended(terminal: Terminal) -> None:
    """As a process: lines come out at once, JSON as one object a line."""
    terminal.bot("first")
    argv = [sys.executable, "-c", "from mezite.cli.mezctl import main; main()", "--socket",
            str(terminal.server.path), "--format=json", "audit", "ls", "--follow", "--type=bot.created"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        killed = threading.Timer(60, process.kill)
        killed.start()
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["resource_name"] == "first"
            terminal.bot("second")
            assert json.loads(process.stdout.readline())["resource_name"] == "second"
        finally:
            process.terminate()
            killed.cancel()


def test_it_begins_with_the_latest(terminal: Terminal) -> None:
    code, line = terminal.failed("audit", "ls", "--follow", "--all")
    assert code == 2
    assert "--limit" in line
