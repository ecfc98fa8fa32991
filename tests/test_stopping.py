"""SIGTERM and Ctrl-C before, while and after a reactor begins to run: it ends by the latter alone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from datetime import timedelta
from twisted.internet import asyncioreactor
asyncioreactor.install(asyncio.new_event_loop())
from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver
from mezite.stopping import StopSignal

def tell():
    os.kill(os.getpid(), number)

when, times, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
stop = StopSignal(timedelta(seconds=5))
stop.watch()
for _ in range(times):
    if when == "before":
        tell()
    elif when == "while":
        reactor.callWhenRunning(tell)  # Twisted's own handler has it
stop.hand_over(reactor)
for _ in range(times):
    if when == "at once":
        reactor.callWhenRunning(tell)
    elif when == "after":
        reactor.callLater(0, tell)
reactor.callLater(30, os._exit, 7)
reactor.run()
print("exits by", reactor._exitSignal)
"""


def told(when: str, times: int, number: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, when, str(times), str(int(number))]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("when", "times"), [("before", 1), ("before", 2), ("while", 1), ("at once", 1), ("after", 2)]
)
def test_whenever_it_comes_the_reactor_stops_once(when: str, times: int) -> None:
    """twistd ends the process by the signal that the reactor says it was ended by."""
    done = told(when, times, signal.SIGTERM)
    lines = [line for line in done.stdout.splitlines() if "Received SIGTERM" not in line]  # Twisted's own
    assert done.returncode == 0, done
    assert len(lines) == 2, done.stdout
    assert "told to stop (SIGTERM)" in lines[0]
    assert ("while starting" in lines[0]) == (when in ("before", "while"))
    assert lines[1] == "exits by None"


@pytest.mark.parametrize(("when", "times"), [("before", 1), ("before", 2), ("while", 1), ("after", 1)])
def test_ctrl_c_stops_it_too_and_ends_it_by_that_signal(when: str, times: int) -> None:
    done = told(when, times, signal.SIGINT)
    assert done.returncode == 0, done
    assert ("told to stop (SIGINT) while starting" in done.stdout) == (when != "after"), done.stdout
    assert done.stdout.splitlines()[-1] == "exits by 2"
    assert "KeyboardInterrupt" not in done.stderr
