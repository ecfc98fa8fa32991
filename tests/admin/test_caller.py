"""Who is at the other end of a socket."""

from __future__ import annotations

import os
import pwd
import socket

import pytest

from mezite.admin.caller import account_name, caller_of, group_id
from mezite.errors import UsageError


def test_the_kernel_tells_who_connected() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        caller = caller_of(ours)
    assert (caller.uid, caller.gid, caller.pid) == (os.geteuid(), os.getegid(), os.getpid())
    assert caller.groups == {os.getegid(), *os.getgroups()}
    assert str(caller) == f"uid:{os.geteuid()}({pwd.getpwuid(os.geteuid()).pw_name})"


def test_an_account_without_a_name_is_its_number() -> None:
    assert account_name(4_000_000_001) == "4000000001"


def test_a_group_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="there is no group no-such-group on this machine; create it"):
        group_id("no-such-group")
