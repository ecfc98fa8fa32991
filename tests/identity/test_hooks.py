"""What runs after a renewal: once for each, in order, bounded, and again when it failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from mezite.identity.hook_output import LONGEST
from mezite.identity.hooks import Hook, Hooks

QUICK = (timedelta(milliseconds=20), timedelta(milliseconds=20))
SH = "/bin/sh"
OPEN = Path("/proc/self/fd")


async def until(condition: Callable[[], object], what: str) -> None:
    """Comes back when *condition* holds; fails after 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        await asyncio.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Runs:
    """Hooks whose one command appends to ``out``; *script* may do more."""

    def __init__(self, tmp_path: Path, script: str = "", timeout: float = 20) -> None:
        self.out = tmp_path / "out"
        self.directory = tmp_path
        command = (SH, "-c", f'echo "$MEZITE_GENERATION $EXTRA" >> "{self.out}"; {script}')
        self.hook = Hook("default", (command,), timedelta(seconds=timeout), {"EXTRA": "e"})

    def begin(self) -> Hooks:
        return Hooks(asyncio.get_running_loop(), [self.hook], self.directory, retries=QUICK)


def publish(hooks: Hooks, generation: int, *outputs: str) -> None:
    hooks.published(f"i/{generation}", outputs or ("default",), {"MEZITE_GENERATION": str(generation)})


def test_it_runs_once_for_each_renewal(tmp_path: Path) -> None:
    """With its own environment and no other; the same one published again runs nothing."""
    runs = Runs(tmp_path)

    async def story() -> None:
        hooks = runs.begin()
        for generation in (1, 1, 2):
            publish(hooks, generation)
            publish(hooks, generation, "other")
            await until(lambda g=generation: f"{g} e" in lines(runs.out), "run")
        await until(lambda: (tmp_path / "on-renew.default").read_text() == "i/2\n", "note")
        publish(hooks, 2)
        again = runs.begin()
        publish(again, 2)
        publish(again, 3)
        await until(lambda: "3 e" in lines(runs.out), "run after a restart")

    asyncio.run(story())
    assert lines(runs.out) == ["1 e", "2 e", "3 e"]


def test_what_was_not_run_before_the_end_runs_at_the_next_start(tmp_path: Path) -> None:
    runs = Runs(tmp_path)

    async def story() -> None:
        publish(runs.begin(), 7)
        await until(lambda: lines(runs.out), "run")

    (tmp_path / "on-renew.default").write_text("i/6\n")
    asyncio.run(story())
    assert lines(runs.out) == ["7 e"]


def test_a_failure_is_told_and_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    runs = Runs(tmp_path, "exit 3")

    async def story() -> None:
        hooks = runs.begin()
        publish(hooks, 1)
        await until(lambda: len(lines(runs.out)) == 3, "last try")
        await asyncio.gather(*hooks._running.values())
        assert "exit code 3" in hooks.failures["default"]
        assert not (tmp_path / "on-renew.default").exists()
        publish(hooks, 2)
        await until(lambda: "2 e" in lines(runs.out), "run for the next renewal")
        hooks.stop()

    asyncio.run(story())
    assert lines(runs.out)[:4] == ["1 e", "1 e", "1 e", "2 e"]


def test_a_failure_that_passes_is_forgotten(tmp_path: Path) -> None:
    runs = Runs(tmp_path, f'test "$(wc -l < {tmp_path}/out)" -ge 2')

    async def story() -> Hooks:
        hooks = runs.begin()
        publish(hooks, 1)
        await asyncio.gather(*hooks._running.values())
        return hooks

    assert asyncio.run(story()).failures == {}
    assert len(lines(runs.out)) == 2


def test_one_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:

    async def story(seconds: float) -> None:
        runs = Runs(tmp_path, f'(trap "" TERM; echo $$ > {tmp_path}/pid; sleep 300)', timeout=seconds)
        hooks = Hooks(asyncio.get_running_loop(), [runs.hook], tmp_path, retries=())
        publish(hooks, 1)
        await asyncio.gather(*hooks._running.values())
        assert "ended after" in hooks.failures["default"]

    for seconds in (0.3, 3, 30):
        begun = time.monotonic()
        asyncio.run(story(seconds))
        assert time.monotonic() - begun < seconds + 60
        if (tmp_path / "pid").exists():  # a busy machine may not have got so far
            break
    group = (tmp_path / "pid").read_text().strip()
    asyncio.run(until(lambda: not _living(group), "end of all that it has started"))


def _living(group: str) -> list[list[str]]:
    """The processes of a group; one that is killed is there until it has been its turn to run."""
    found = map(_fields, Path("/proc").glob("[0-9]*/stat"))
    return [fields for fields in found if fields[2] == group and fields[0] != "Z"]


def _fields(path: Path) -> list[str]:
    """State, parent and group of a process."""
    try:
        return path.read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return ["", "", ""]


@pytest.mark.parametrize("command", ["/nonexistent/program", "/etc/passwd"])
def test_what_cannot_be_run_is_a_failure_as_any_other(tmp_path: Path, command: str) -> None:
    async def story() -> Hooks:
        hook = Hook("default", ((command,),), timedelta(seconds=5), {})
        hooks = Hooks(asyncio.get_running_loop(), [hook], tmp_path, retries=())
        publish(hooks, 1)
        await asyncio.gather(*hooks._running.values())
        return hooks

    assert command in asyncio.run(story()).failures["default"]


def test_no_two_runs_at_once_and_the_newest_is_the_last(tmp_path: Path) -> None:
    """Renewals while one runs are run for once, together, when it is done."""
    go = tmp_path / "go"
    runs = Runs(tmp_path, f"while [ ! -e {go} ]; do sleep 0.02; done; echo done >> {tmp_path}/out")

    async def story() -> None:
        hooks = runs.begin()
        publish(hooks, 1)
        await until(lambda: lines(runs.out) == ["1 e"], "first run")
        for generation in (2, 3):
            publish(hooks, generation)
            await asyncio.sleep(0.02)
        go.touch()
        await asyncio.gather(*hooks._running.values())

    asyncio.run(story())
    assert lines(runs.out)[1::2] == ["done", "done"]
    assert lines(runs.out)[2] == "3 e"


def test_stopping_ends_what_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 300")

    async def story() -> None:
        hooks = runs.begin()
        publish(hooks, 1)
        await until(lambda: lines(tmp_path / "pid"), "start")
        task = hooks._running["default"]
        hooks.stop()
        await asyncio.wait([task])
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: _fields(Path(f"/proc/{pid}/stat"))[0] in ("", "Z"), "end")

    asyncio.run(story())


def test_one_that_leaves_a_writer_behind_does_not_hold_the_daemon(tmp_path: Path) -> None:
    """It would be read for as long as it writes, and nothing would be renewed meanwhile."""
    script = "for n in 1 2; do while :; do echo on and on; done & echo $! >> pid; done"
    hook = Hook("default", ((SH, "-c", f"cd {tmp_path}; trap '' PIPE; {script}"),), timedelta(seconds=20), {})

    async def story() -> None:
        hooks = Hooks(asyncio.get_running_loop(), [hook], tmp_path, retries=QUICK, as_events=True)
        publish(hooks, 1)
        await until((tmp_path / "on-renew.default").exists, "note")

    def end_writers() -> None:
        for pid in lines(tmp_path / "pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    killer = threading.Timer(30, end_writers)
    killer.start()
    begun = time.monotonic()
    try:
        asyncio.run(story())
    finally:
        killer.cancel()
        end_writers()
    assert len(lines(tmp_path / "pid")) == 2
    assert time.monotonic() - begun < 30, "it went on until its writers were ended"


def test_what_it_writes_is_told_line_by_line(tmp_path: Path) -> None:
    """Long lines in parts, the last one without its end too, and nothing is left open."""
    script = "echo first; printf 'x%.0s' $(seq 9000); printf '\\nlast'"
    hook = Hook("default", ((SH, "-c", script),), timedelta(seconds=20), {})
    told: list[str] = []

    def note(event: LogEvent) -> None:
        if event.get("event") == "hook.output":
            told.append(event["text"])

    async def story() -> None:
        hooks = Hooks(asyncio.get_running_loop(), [hook], tmp_path, retries=QUICK, as_events=True)
        publish(hooks, 1)
        await until((tmp_path / "on-renew.default").exists, "note")

    before = len(list(OPEN.iterdir()))
    globalLogPublisher.addObserver(note)
    try:
        asyncio.run(story())
    finally:
        globalLogPublisher.removeObserver(note)
    assert (told[0], told[-1]) == ("first", "last")
    assert "".join(told[1:-1]) == "x" * 9000
    assert max(map(len, told)) <= LONGEST
    assert len(list(OPEN.iterdir())) == before
