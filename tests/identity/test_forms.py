"""Which files a destination has, whose they are, and what its ssh_config says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.cli.mezd_outputs import form_of
from mezite.config.outputs import Extras, OutputConfig
from mezite.errors import UsageError
from mezite.identity.destination import GRACE, Directory
from mezite.identity.outputs import NAMES, Form, Outputs, ssh_config
from mezite.identity.state import StateFile, peek
from tests.identity.making import durable, held

T0 = timedelta(hours=1)
FIRST, SECOND = (Outputs.from_held(held(generation)) for generation in (1, 2))
AGENT_ONLY = Form(with_key=False, agent_socket="/d/agent.sock")


def settings(path: Path) -> list[str]:
    """What ssh makes of a configuration."""
    done = subprocess.run(["ssh", "-G", "-F", path, "web-1"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("form", "there", "missing"),
    [
        (Form(), ["identityfile {set}/ssh_key", "identitiesonly yes"], ["identityagent"]),
        (Form(agent_socket="/d/agent.sock"),
         ["identityfile {set}/ssh_key", "certificatefile {set}/ssh_key-cert.pub",
          "identityagent /d/agent.sock"],
         []),
        (AGENT_ONLY, ["identityagent /d/agent.sock", "identityfile none"], ["certificatefile"]),
    ],
    ids=["files", "files and agent", "agent"],
)
def test_ssh_understands_each_form(tmp_path: Path, form: Form, there: list[str], missing: list[str]) -> None:
    directory = Directory(tmp_path / "a b", form)
    directory.publish(FIRST, T0)
    found = settings(directory.path / "ssh_config")
    for line in (*there, "userknownhostsfile {set}/known_hosts", "stricthostkeychecking true"):
        assert line.format(set=directory.path / "sets/1") in found
    assert not [line for line in found for name in missing if line.startswith(name)]


def test_a_socket_that_ssh_could_not_name_is_refused() -> None:
    with pytest.raises(UsageError):
        ssh_config("/d", (), Form(agent_socket='/d"/agent.sock'))


def test_without_a_key_none_is_left(tmp_path: Path) -> None:
    """Its name goes with the next publishing, the set before after the grace time."""
    Directory(tmp_path).publish(FIRST, T0)
    directory = Directory(tmp_path, AGENT_ONLY)
    assert directory.publish(FIRST, T0)
    assert not os.path.lexists(tmp_path / "ssh_key")
    assert set(directory.published()) == set(NAMES) - {"ssh_key"}
    assert not directory.publish(FIRST, T0)
    directory.tidy(T0 + GRACE)
    assert list(tmp_path.rglob("ssh_key")) == []
    Directory(tmp_path).publish(SECOND, T0)
    assert (tmp_path / "ssh_key").read_bytes() == SECOND.ssh_key


def test_a_mode_that_was_changed_is_set_right(tmp_path: Path) -> None:
    directory = Directory(tmp_path, Form(key_mode=0o640, group_id=os.getegid()))
    directory.publish(FIRST, T0)
    key = tmp_path / "current" / "ssh_key"
    assert key.stat().st_mode & 0o777 == 0o640
    key.chmod(0o600)
    assert directory.publish(FIRST, T0)
    assert (tmp_path / "current" / "ssh_key").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """That of the systemd unit."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_group_reaches_the_files_whatever_the_umask(tmp_path: Path, strict_umask: None) -> None:
    """Also what a mezd has published that left its directories shut."""
    directory = Directory(tmp_path, Form(key_mode=0o640, group_id=os.getegid()))
    directory.publish(FIRST, T0)
    inside = (tmp_path, tmp_path / "sets", (tmp_path / "current").resolve())
    assert [path.stat().st_mode & 0o050 for path in inside] == [0o050] * 3
    for path in inside[1:]:
        path.chmod(0o700)
    assert directory.publish(FIRST, T0)
    inside = (tmp_path, tmp_path / "sets", (tmp_path / "current").resolve())
    assert [path.stat().st_mode & 0o050 for path in inside] == [0o050] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files away")
def test_files_that_cannot_be_given_away_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as root"):
        Directory(tmp_path, Form(owner_id=0, group_id=0)).prepare()


def test_erasing_leaves_nothing(tmp_path: Path) -> None:
    """Neither what was published nor the state; twice does no harm."""
    directory, state = Directory(tmp_path), StateFile(tmp_path)
    state.load()
    state.save(durable())
    (state.directory / "on-renew.default").write_text("i/1\n")
    directory.publish(FIRST, T0)
    for _ in range(2):
        directory.erase()
        state.erase()
    state.release()
    assert {path.name for path in tmp_path.rglob("*")} == {".mezite", "lock"}
    assert peek(tmp_path) is None


def test_looking_at_a_state_needs_no_lock_and_takes_the_newest(tmp_path: Path) -> None:
    state = StateFile(tmp_path)
    state.load()
    for generation in (1, 2, 3):
        state.save(durable(generation))
        found = peek(tmp_path)
        assert found is not None
        assert found.held is not None
        assert found.held.generation == generation
    state.release()


@pytest.mark.parametrize("name", ["nosuch", "99999999999999999999", "4294967296", "-1", "\u00b2", "\u0663"])
def test_an_owner_or_group_that_is_none_is_told(name: str) -> None:
    """Also a number that no id can be, and what only looks like one."""
    for key, part in (("owner", "account"), ("group", "group")):
        output = OutputConfig("logs", Path("/d"), extras=Extras(**{key: name}))
        with pytest.raises(UsageError, match=f"{key}: there is no {part} {name} on this machine"):
            form_of(output)
