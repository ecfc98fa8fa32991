"""Who may run anything here: the account, its shell, its day of expiry."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from mezite.ssh import accounts
from mezite.ssh.accounts import NoAccount, account_for

ME = pwd.getpwuid(os.geteuid()).pw_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own: no /etc/nologin, no /etc/shadow."""
    monkeypatch.setattr(accounts, "NO_LOGINS", tmp_path / "nologin")
    monkeypatch.setattr(accounts, "SHADOW", tmp_path / "shadow")


def with_shell(monkeypatch: pytest.MonkeyPatch, shell: str, name: str = ME) -> None:
    """The account *name*, as the system would tell of it with this shell."""
    entry = pwd.getpwnam(name)
    found: Any = pwd.struct_passwd((*entry[:6], shell))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: found)


def test_an_account_runs_its_own_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    with_shell(monkeypatch, "/bin/sh")
    found = account_for(ME, None)
    assert (found.uid, found.shell) == (os.geteuid(), "/bin/sh")


@pytest.mark.parametrize("name", ["no-such-account", "", "a\0b", "x" * 5000])
def test_accounts_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(NoAccount):
        account_for(name, None)


@pytest.mark.parametrize(
    "shell", ["/usr/sbin/nologin", "/bin/false", "/no/such/shell", "/etc/passwd", "/tmp", "sh", "/bin/\0sh"]
)
def test_accounts_without_a_shell_for_logins_are_refused(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    with_shell(monkeypatch, shell)
    with pytest.raises(NoAccount, match="is not for logins"):
        account_for(ME, None)


def test_run_as_names_a_closed_account_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    with_shell(monkeypatch, "/usr/sbin/nologin")
    assert account_for("whoever", ME).shell == "/bin/sh"


@pytest.mark.parametrize(
    ("day", "is_expired"), [(b"", False), (b"99999", False), (b"1", True), (b"x", False)]
)
def test_expired_accounts_are_refused(day: bytes, is_expired: bool) -> None:
    accounts.SHADOW.write_bytes(b"other:*:1:0:9:7::1:\n" + f"{ME}:*:1:0:9:7::".encode() + day + b":\n")
    if is_expired:
        with pytest.raises(NoAccount, match="expired"):
            account_for(ME, ME)
    else:
        account_for(ME, ME)


@as_root
def test_while_nologin_exists_only_root_logs_in() -> None:
    accounts.NO_LOGINS.touch()
    assert account_for("root", "root").uid == 0
    with pytest.raises(NoAccount, match="only root"):
        account_for("nobody", "nobody")
