"""The account of the operating system that a login runs as."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class NoAccount(Exception):
    """Why a login cannot run here, in one sentence."""


def find_account(name: str) -> Account:
    """The account called *name*, with its supplementary groups; else :class:`NoAccount`."""
    try:
        entry = pwd.getpwnam(name)
        groups = os.getgrouplist(name, entry.pw_gid)
    except (KeyError, ValueError, OSError):
        raise NoAccount(f"no account is called {name!r}") from None
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(groups), entry.pw_dir or "/")


def account_for(login: str, run_as: str | None) -> Account:
    """The account that *login* runs as: *run_as* where it is set, else its own.

    A server without root's rights can run as itself only; :class:`NoAccount`
    for every other account, and where none exists.
    """
    account = find_account(run_as or login)
    own = os.geteuid()
    if own not in (0, account.uid):
        raise NoAccount(
            f"this node runs without root's rights and cannot become {account.name!r}; "
            "set ssh.run_as to its own account"
        )
    return account
