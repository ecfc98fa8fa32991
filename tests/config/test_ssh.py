"""The node's settings: files that decide logins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mezite.config.reading import Section
from mezite.config.server import ServerConfig, SshConfig
from mezite.errors import UsageError


def ssh(**settings: Any) -> SshConfig:
    document = {"ssh": {"enabled": True, **settings}}
    found = ServerConfig.from_section(Section.from_value(document, "test"), {}, 1000).ssh
    assert found is not None
    return found


def test_revoked_keys_are_absolute_paths() -> None:
    assert ssh(revoked_keys=["/a", "/b"]).revoked_keys == (Path("/a"), Path("/b"))
    assert ssh().revoked_keys == ()
    with pytest.raises(UsageError, match="absolute"):
        ssh(revoked_keys=["/a", "b"])


def test_tables_of_principals_go_with_principals() -> None:
    given = "/x/%u/100%%"
    taken = ssh(authorization="principals", authorized_principals_file=given)
    assert taken.authorized_principals_file == given
    assert ssh().authorized_principals_file is None
    with pytest.raises(UsageError, match="authorization: principals"):
        ssh(authorized_principals_file=given)


@pytest.mark.parametrize("pattern", [".ssh/principals", "/home/%h/x", "/x/%", "/x/%U", "/x/%%%t"])
def test_other_tokens_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="%u"):
        ssh(authorization="principals", authorized_principals_file=pattern)
