"""A server that is told to stop or to reload while it starts: it does so in order, as one that serves."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import BIN, TIMEOUT, Cluster, Process, wait_for
from tests.system.test_workers import workers

pytestmark = pytest.mark.system

Moment = Callable[["Start"], object]


class Start:
    """A server with a process id's file, on its way up."""

    def __init__(self, root: Path, count: int) -> None:
        root.mkdir()
        self.cluster = Cluster(root, {"auth": {"workers": count}})
        self.pidfile = root / "twistd.pid"
        words: list[str | Path] = [
            BIN / "twistd", "-n", f"--pidfile={self.pidfile}", "mezite-auth", "--config", self.cluster.config
        ]
        self.server: Process = self.cluster.spawn(words, self.cluster.env, root / "server.log")

    def stop_when(self, moment: Moment) -> int:
        """Sends SIGTERM as soon as *moment* has come; the exit code."""
        self.wait_for(moment)
        return self.server.stop(signal.SIGTERM)

    def wait_for(self, moment: Moment) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not moment(self):
            assert self.server.code is None, self.server.text()
            assert time.monotonic() < deadline, self.server.text()
            time.sleep(0.001)

    def assert_nothing_is_left(self) -> None:
        data = self.cluster.data
        assert not self.pidfile.exists()
        assert not (data / "admin.sock").exists()
        with pytest.raises(ProcessLookupError):  # it led its group: no worker lives
            os.killpg(self.server.pid, 0)
        if (data / "lock").exists():
            with (data / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _exists(name: str) -> Moment:
    return lambda start: (start.cluster.data / name).exists()


MOMENTS: list[tuple[int, str, Moment]] = [
    (1, "its process id is written", lambda start: start.pidfile.exists()),
    (1, "the data directory is locked", _exists("lock")),
    (1, "the database is there", _exists("mezite.db")),
    (1, "operators' socket is bound", _exists("admin.sock")),
    (2, "its process id is written", lambda start: start.pidfile.exists()),
    (2, "operators' socket is bound", _exists("admin.sock")),
    (2, "a worker is on its way", lambda start: workers(start.server)),
]


@pytest.mark.parametrize(("count", "when", "moment"), MOMENTS, ids=[f"{n}-{when}" for n, when, _ in MOMENTS])
def test_a_stop_while_it_starts_is_in_order(tmp_path: Path, count: int, when: str, moment: Moment) -> None:
    start = Start(tmp_path / "site", count)
    try:
        assert start.stop_when(moment) == 0, start.server.text()
        text = start.server.text()
        # A worker that serves by then tells of its own end.
        lines = [line for line in text.splitlines() if "told to stop (SIGTERM)" in line]
        told = [line for line in lines if "worker" not in line]
        assert len(told) == 1, text
        assert "Traceback" not in text
        start.assert_nothing_is_left()
    finally:
        start.cluster.close()


@pytest.mark.parametrize("moment", [MOMENTS[0][2], _exists("lock"), _exists("mezite.db")])
def test_ctrl_c_while_it_starts_is_in_order(tmp_path: Path, moment: Moment) -> None:
    """As for one that serves: it ends by that signal, for the shell to see."""
    start = Start(tmp_path / "site", 1)
    try:
        start.wait_for(moment)
        assert start.server.stop(signal.SIGINT) == -signal.SIGINT
        assert "Traceback" not in start.server.text()
        assert "Server Shut Down" in start.server.text()
        start.assert_nothing_is_left()
    finally:
        start.cluster.close()


def test_before_it_knows_that_it_is_a_server_it_has_made_nothing(tmp_path: Path) -> None:
    """Python and twistd load for some tenths of a second: the signal ends them."""
    start = Start(tmp_path / "site", 1)
    try:
        if start.stop_when(lambda start: True) != 0:  # this machine may be slow to send it
            assert start.server.code == -signal.SIGTERM
            assert start.server.text() == ""
            assert not start.cluster.data.exists()
        start.assert_nothing_is_left()
    finally:
        start.cluster.close()


def test_a_start_that_was_stopped_is_made_good_by_the_next(tmp_path: Path) -> None:
    """The first one had begun to make what there is but once."""
    first = Start(tmp_path / "site", 1)
    cluster = first.cluster
    try:
        assert first.stop_when(_exists("mezite.db")) == 0, first.server.text()
        cluster.start()
        cluster.add_role()
        assert cluster.machine().once(f"--join-token={cluster.add_bot()}").code == 0
        assert cluster.server is not None
        assert cluster.server.stop() == 0
        first.assert_nothing_is_left()
    finally:
        cluster.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_reload_while_it_starts_is_made_once_it_serves(tmp_path: Path, count: int) -> None:
    """The signal by itself would end it, which a service manager takes for a clean end."""
    start = Start(tmp_path / "site", count)
    cluster, server = start.cluster, start.server
    cluster.server = server
    try:
        for moment in (MOMENTS[0][2], _exists("lock")):
            start.wait_for(moment)
            server.send(signal.SIGHUP)
        wait_for(cluster.is_serving, "server that serves")
        wait_for(lambda: "told to reload (SIGHUP)" in server.text(), "reload")
        assert server.stop() == 0, server.text()
        assert server.text().count("told to reload") == 1
        assert "Traceback" not in server.text()
        start.assert_nothing_is_left()
    finally:
        cluster.close()
