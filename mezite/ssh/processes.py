"""The processes of one session, found in /proc: for signals, and so that none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")
LOOKING = 0.2
"""Part of the time that may go into looking at all processes."""
MAX_LOOKING = 0.3
"""Seconds of it at once."""


class Member(Struct, frozen=True):
    pid: int
    group: int
    session: int


def _stat(pid: int) -> list[bytes]:
    """proc_pid_stat(5) from the state on; the command's name may hold spaces and parentheses."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return []
    return text.rpartition(b")")[2].split()


def _member_of(pid: int, fields: list[bytes]) -> Member | None:
    return Member(pid, int(fields[2]), int(fields[3])) if len(fields) > 3 else None


def _member(pid: int) -> Member | None:
    return _member_of(pid, _stat(pid))


def is_there(pid: int) -> bool:
    """Whether there is a process of this number, also one that has ended."""
    return bool(_stat(pid))


class _Look(Struct, frozen=True):
    """What there was when all processes were looked at, from *began* to *ended*."""

    began: float
    ended: float
    sessions: dict[int, list[Member]]
    """By their leaders' numbers."""
    zombies: frozenset[int]


def _look() -> _Look:
    began = time.monotonic()
    sessions: dict[int, list[Member]] = {}
    zombies = set()
    try:
        pids = [int(name) for name in os.listdir(PROC) if name.isdigit()]  # noqa: PTH208  # many: no Path each
    except OSError:
        pids = []
    for pid in pids:
        fields = _stat(pid)
        member = _member_of(pid, fields)
        if member is not None:
            sessions.setdefault(member.session, []).append(member)
            if fields[0] == b"Z":
                zombies.add(pid)
    return _Look(began, time.monotonic(), sessions, frozenset(zombies))


class Looks:
    """Looks at all processes, which takes the longer the more there are.

    Whoever asks has one of his own, until too much of the time has gone into them;
    then the last one serves.  A client that sends signals without end, or the end of
    hundreds of sessions together, must not keep the server from everything else.
    """

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._seconds = MAX_LOOKING
        """That may go into looks now."""
        self._counted = time.monotonic()

    def take(self, after: float = 0.0) -> _Look:
        """One that began not before *after*."""
        now = time.monotonic()
        self._seconds = min(MAX_LOOKING, self._seconds + LOOKING * (now - self._counted))
        self._counted = now
        last = self._last
        if last is None or last.began < after or self._seconds > 0:
            self._last = last = _look()
            self._seconds -= last.ended - last.began
        return last


_looks = Looks()


def others_live(leader: int) -> bool:
    """Whether anything still runs in the session of *leader*, which has ended, besides it."""
    look = _looks.take()
    if leader not in look.zombies:
        # It has ended since, and may have started something before.
        look = _looks.take(time.monotonic())
    members = look.sessions.get(leader, [])
    return any(member.pid != leader and member.pid not in look.zombies for member in members)


def kill_session(leader: int, after: float = 0.0) -> float:
    """Kills the whole session of *leader*, groups in its background too; tells when.

    The leader must not have been reaped: its number is its session's for so
    long.  What is started meanwhile is found by another call, *after* this one.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for member in _looks.take(after).sessions.get(leader, []):
        _signal(member, signal.SIGKILL, None)
    return time.monotonic()


def signal_group(leader: int, number: int, uid: int) -> None:
    """Sends *number* to the group of *leader*, with no more rights than *uid* has (kill(2)).

    A program that the user has started with more rights (``sudo``) is not his
    to stop.
    """
    if os.geteuid() == uid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)
        return
    look = _looks.take()
    if leader not in look.sessions:
        look = _looks.take(time.monotonic())
    for member in look.sessions.get(leader, []):
        if member.group == leader:
            _signal(member, number, uid)


def _signal(member: Member, number: int, uid: int | None) -> None:
    """By a descriptor, looked at again once it is held: never hits a stranger
    who got the number meanwhile."""
    try:
        held = os.pidfd_open(member.pid)
    except OSError:
        return
    try:
        if _member(member.pid) == member and (uid is None or uid in _owners(member.pid)):
            signal.pidfd_send_signal(held, number)
    except OSError:
        pass
    finally:
        os.close(held)


def _owners(pid: int) -> tuple[int, ...]:
    """Real and saved user of a process, who may signal it."""
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        if line.startswith("Uid:"):
            words = line.split()
            return int(words[1]), int(words[3])
    return ()
