"""The processes of one session, found in /proc: for signals, and so that none is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")


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


def _member(pid: int) -> Member | None:
    fields = _stat(pid)
    return Member(pid, int(fields[2]), int(fields[3])) if len(fields) > 3 else None


def _members(leader: int) -> Iterator[Member]:
    """The processes of the session that *leader* leads."""
    try:
        pids = [int(name) for name in os.listdir(PROC) if name.isdigit()]  # noqa: PTH208  # many: no Path each
    except OSError:
        return
    for pid in pids:
        member = _member(pid)
        if member is not None and member.session == leader:
            yield member


def others_live(leader: int) -> bool:
    """Whether anything still runs in the session of *leader* besides it."""
    return any(
        member.pid != leader and _stat(member.pid)[:1] not in ([], [b"Z"]) for member in _members(leader)
    )


def kill_session(leader: int) -> None:
    """Kills the whole session of *leader*, groups in its background too.

    The leader must not have been reaped: its number is its session's for so
    long.  Twice, for what was started meanwhile.
    """
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
        for member in _members(leader):
            _signal(member, signal.SIGKILL, None)


def signal_group(leader: int, number: int, uid: int) -> None:
    """Sends *number* to the group of *leader*, with no more rights than *uid* has (kill(2)).

    A program that the user has started with more rights (``sudo``) is not his
    to stop.
    """
    if os.geteuid() == uid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)
        return
    for member in _members(leader):
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
