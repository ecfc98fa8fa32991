"""The service with a real reactor, a real socket and the real client."""

from __future__ import annotations

import grp
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mezite.admin import client
from mezite.errors import Unreachable
from tests.system.processes import ask, wait_for

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that listens on the path given."""
    running = []

    def started(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.admin.service_process", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_answers_and_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    process = start(path)
    assert first_line(process) == "ready"
    asked = client.connect([path], remedy="")
    assert asked.call("who").startswith(f"uid:{os.geteuid()}(")
    told, _ = process.communicate(timeout=30)
    assert told == "left False 0\n"
    with pytest.raises(Unreachable, match="the server is gone; whether it was done is not known"):
        asked.call("who")
    asked.close()


def test_a_request_in_hand_is_answered_before_it_stops(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    process = start(path)
    assert first_line(process) == "ready"
    asked = client.connect([path], remedy="")
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(asked.call("slow")))
    thread.start()
    assert first_line(process) == "slow begins"
    told, _ = process.communicate(timeout=30)
    thread.join(30)
    asked.close()
    assert answers == ["slow"]
    assert told == "left False 0\n"


def test_a_second_server_is_told_and_the_first_goes_on(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    assert first_line(start(path)) == "ready"
    second = start(path)
    told, _ = second.communicate(timeout=30)
    assert second.returncode == 1
    assert told == f"{path}: another server already listens there; stop it first\n"
    asked = client.connect([path], remedy="")
    asked.call("who")
    asked.close()


def test_a_killed_server_does_not_stop_the_next(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    killed = start(path)
    assert first_line(killed) == "ready"
    killed.kill()
    killed.wait(30)
    assert path.is_socket()
    with pytest.raises(Unreachable, match="nobody listens there any more; start it"):
        client.connect([path], remedy="start it")
    assert first_line(start(path)) == "ready"


def test_a_group_that_does_not_exist_ends_it_in_one_line(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "admin.sock", "no-such-group")
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert told.startswith("admin_group: there is no group no-such-group")
    assert told.count("\n") == 1


STRANGER = """
import os, sys
from mezite.admin import client
import grp, pwd
os.setgroups([int(group) for group in sys.argv[2:]])
os.setgid(12345)
os.setuid(12345)
try:
    print(client.connect([sys.argv[1]], remedy="").call("who"))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_stranger_is_refused_even_where_the_files_mode_lets_him_in(start: Start) -> None:
    """By the kernel first, and behind it by who the kernel says he is."""
    group = grp.getgrall()[-1]

    def ask(*groups: int) -> str:
        told = subprocess.run(
            [sys.executable, "-c", STRANGER, str(path), *map(str, groups)],
            stdout=subprocess.PIPE, text=True, timeout=30, check=True,
        )
        return told.stdout.strip()

    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o711)
        path = Path(above) / "run" / "admin.sock"
        process = start(path, group.gr_name)
        assert first_line(process) == "ready"
        remedy = f"become root or a member of the group {group.gr_name}"
        assert ask() == f"PermissionDenied {path}: you may not use this socket; {remedy}"
        assert ask(group.gr_gid) == "uid:12345(12345)"
        path.chmod(0o666)
        path.parent.chmod(0o755)
        assert ask() == f"PermissionDenied uid:12345(12345) may not use this socket; {remedy}"
        process.communicate(timeout=30)


def test_who_is_connected_stays_so_when_its_file_is_made_anew(start: Start, tmp_path: Path) -> None:
    """As by a command that tidies up old files in /run or /tmp."""
    path = tmp_path / "run" / "admin.sock"
    process = start(path)
    assert first_line(process) == "ready"
    before = client.connect([path], remedy="")
    path.unlink()
    path.parent.rmdir()
    wait_for(lambda: ask(path, "who"), "socket made anew")
    after = client.connect([path], remedy="")
    for asked in (before, after):
        assert asked.call("who").startswith(f"uid:{os.geteuid()}(")
        asked.close()
    told, _ = process.communicate(timeout=30)
    assert told == "left False 0\n"
