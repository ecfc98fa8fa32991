"""The account of the operating system that a login runs as, and whether it may."""

from __future__ import annotations

import os
import pwd
import stat
import time
from pathlib import Path

from msgspec import Struct

DEFAULT_SHELL = "/bin/sh"
NO_LOGINS = Path("/etc/nologin")
"""While it exists, only root logs in (nologin(5))."""
SHADOW = Path("/etc/shadow")
_CLOSED_SHELLS = frozenset({"nologin", "false"})
_SECONDS_PER_DAY = 86_400


class Account(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


class NoAccount(Exception):
    """Why a login cannot run here, in one sentence."""


def find_account(name: str) -> Account:
    """The account called *name*, with its supplementary groups; else :class:`NoAccount`."""
    try:
        entry = pwd.getpwnam(name)
        groups = os.getgrouplist(name, entry.pw_gid)
    except (KeyError, ValueError, OSError):
        raise NoAccount(f"no account is called {name!r}") from None
    return Account(
        name, entry.pw_uid, entry.pw_gid, tuple(groups), entry.pw_dir or "/", entry.pw_shell or DEFAULT_SHELL
    )


def account_for(login: str, run_as: str | None) -> Account:
    """The account that *login* runs as: *run_as* where it is set, else its own.

    :class:`NoAccount` where none exists, where it is not open for logins (an
    expired one, or one whose shell is nologin, false or not in place), and, for
    a server without root's rights, for every account but its own.

    An operator who sets *run_as* names the account on purpose: a service
    account's closed shell does not keep its logins out, they run by /bin/sh.
    """
    account = find_account(run_as or login)
    own = os.geteuid()
    if own not in (0, account.uid):
        raise NoAccount(
            f"this node runs without root's rights and cannot become {account.name!r}; "
            "set ssh.run_as to its own account"
        )
    if account.uid != 0 and NO_LOGINS.exists():
        raise NoAccount(f"{NO_LOGINS} exists: only root logs in now")
    if _is_expired(account.name):
        raise NoAccount(f"the account {account.name!r} has expired")
    closed = _closed_shell(account.shell)
    if closed is None:
        return account
    if run_as is None:
        raise NoAccount(f"the account {account.name!r} is not for logins: its shell {closed}")
    return Account(account.name, account.uid, account.gid, account.groups, account.home, DEFAULT_SHELL)


def _closed_shell(shell: str) -> str | None:
    """Why *shell* lets nobody in, or ``None``."""
    if os.path.basename(shell) in _CLOSED_SHELLS:  # noqa: PTH119  # a text, not a path of ours
        return f"is {shell}"
    try:
        mode = os.stat(shell).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return f"{shell} is not there"
    if not shell.startswith("/") or not stat.S_ISREG(mode) or not mode & 0o111:
        return f"{shell} is no program"
    return None


def _is_expired(name: str) -> bool:
    """Whether *name*'s day in /etc/shadow has passed (shadow(5), field 8).

    Only root can read it; accounts of other sources are asked nothing further.
    """
    try:
        lines = SHADOW.read_bytes().splitlines()
    except OSError:
        return False
    for line in lines:
        fields = line.split(b":")
        if fields[0] == os.fsencode(name) and len(fields) > 7 and fields[7].isdigit():
            return time.time() // _SECONDS_PER_DAY >= int(fields[7])
    return False
