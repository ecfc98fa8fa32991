"""Who is at the other end of a unix socket, as the kernel says, and who may."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from functools import lru_cache

from msgspec import Struct

from mezite.errors import UsageError

_SO_PEERGROUPS = 59
"""Linux 4.13: the groups the peer had when it connected; Python has no name for it."""
_GROUPS_BYTES = 1024
"""256 groups: Python asks for no more."""
_CREDENTIALS = struct.Struct("iII")


class Caller(Struct, frozen=True):
    """A process that connected, and the account it ran as at that moment."""

    uid: int
    gid: int
    pid: int
    name: str
    """The account's name, or its number where it has none."""
    groups: frozenset[int] = frozenset()
    """All its groups, the primary one among them."""

    def __str__(self) -> str:
        return f"uid:{self.uid}({self.name})"


class Allowed(Struct, frozen=True):
    """Root, the account that listens, and the members of one group."""

    owner_uid: int
    group_id: int | None = None

    def admits(self, caller: Caller) -> bool:
        if caller.uid in (0, self.owner_uid):
            return True
        return self.group_id is not None and self.group_id in caller.groups


def caller_of(peer: socket.socket) -> Caller:
    """Who connected *peer*, by SO_PEERCRED: nothing that the peer could say."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    name = account_name(uid)
    return Caller(uid, gid, pid, name, _groups(peer, name, gid))


def _groups(peer: socket.socket, name: str, gid: int) -> frozenset[int]:
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        # An older kernel, or more groups: what the group database says is the next best.
        try:
            return frozenset((gid, *os.getgrouplist(name, gid)))
        except OSError:
            return frozenset((gid,))
    return frozenset((gid, *struct.unpack(f"{len(raw) // 4}I", raw)))


@lru_cache(maxsize=256)
def account_name(uid: int) -> str:
    """Kept, because a lookup may ask a directory server while everybody waits."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_id(name: str) -> int:
    """The number of the group *name*; :class:`UsageError` when there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            f"admin_group: there is no group {name} on this machine; create it "
            f"(groupadd --system {name}) or name another one"
        ) from None
