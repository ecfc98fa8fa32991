"""Where operators may have the server write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mezite.admin.backup_methods import _target
from mezite.admin.caller import Caller
from mezite.errors import InvalidInput, PermissionDenied, StorageFailure

MEMBER = Caller(uid=65533, gid=65533, pid=1, name="member")
OWNER = Caller(uid=os.geteuid(), gid=0, pid=1, name="owner")


def test_members_of_the_group_have_backups_put_among_the_servers_files_only(tmp_path: Path) -> None:
    """The server writes with its own rights, which may be root's."""
    own = tmp_path / "backups" / "one"
    assert _target(MEMBER, str(own), tmp_path) == own
    assert own.parent.stat().st_mode & 0o777 == 0o700
    assert _target(OWNER, "/srv/one", tmp_path) == Path("/srv/one")
    for path in ("/etc/nologin", str(tmp_path / "one"), str(own / ".." / ".." / "one"), str(own / "deeper")):
        with pytest.raises(PermissionDenied, match="only root and the server's account"):
            _target(MEMBER, path, tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("mine")
    with pytest.raises(StorageFailure, match="cannot be made: File exists"):
        _target(MEMBER, str(tmp_path / "backups" / "one"), tmp_path)


@pytest.mark.parametrize("path", ["relative", "/", "/srv/..", "/srv/a\0b"])
def test_a_backup_needs_the_name_of_a_file(path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absolute path of a file"):
        _target(OWNER, path, tmp_path)
