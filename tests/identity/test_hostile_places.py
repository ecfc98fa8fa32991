"""A destination that others can reach into, and file systems that misbehave: nothing leaks, nothing stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.cli.mezd_outputs import LOCK, OutputParts
from mezite.cli.mezd_start import _note_last
from mezite.config import paths
from mezite.config.daemon import from_keywords
from mezite.errors import StateFailure, UsageError
from mezite.identity.destination import Directory
from mezite.identity.events import Finish
from mezite.identity.outputs import NAMES, Outputs
from mezite.identity.state import StateFile
from tests.harness import Auth
from tests.identity.fakes import FakeRemote
from tests.identity.making import held
from tests.identity.test_service import Running

T0 = timedelta(hours=1)
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def umask_of_zero() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def running(auth: Auth, tmp_path: Path) -> Iterator[Running]:
    one = Running(auth, FakeRemote(auth), tmp_path, token=auth.add_token(auth.add_bot()))
    yield one
    one.state_file.release()


# --- who could put something else in its place ---------------------------------------------


@as_root
def test_a_destination_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could put a link in the place of anything that is written there."""
    path = tmp_path / "certs"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"belongs to another user \(uid 65534\).*directory of its own"):
        Directory(path).prepare()
    assert list(path.iterdir()) == []


def test_a_destination_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "certs"
    path.mkdir()
    path.chmod(0o1777)
    with pytest.raises(UsageError, match=r"everybody may write there.*chmod o-w"):
        Directory(path).prepare()


@as_root
def test_a_link_that_another_user_has_laid_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "certs"
    link.symlink_to(tmp_path / "etc")
    Directory(link).prepare()
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"is a link that belongs to another user"):
        Directory(link).prepare()
    assert list((tmp_path / "etc").iterdir()) == []


@as_root
def test_sets_of_another_user_are_refused(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    (tmp_path / "sets").mkdir()
    os.chown(tmp_path / "sets", NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"sets is no directory of mezd"):
        directory.publish(Outputs.from_held(held()), T0)


@as_root
def test_private_state_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".mezite").mkdir()
    os.chown(tmp_path / ".mezite", NOBODY, NOBODY)
    with pytest.raises(StateFailure, match="another user"):
        StateFile(tmp_path)


def test_a_link_as_private_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".mezite").symlink_to("elsewhere")
    with pytest.raises(StateFailure, match="not a directory"):
        StateFile(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_open_umask_opens_nothing(tmp_path: Path, umask_of_zero: None) -> None:
    """No part of the path, no directory and no file is for others to write."""
    path = tmp_path / "lib" / "mezite" / "certs"
    directory = Directory(path)
    directory.prepare()
    state = StateFile(path)
    state.save(state.load())
    directory.publish(Outputs.from_held(held()), T0)
    state.release()
    made = [tmp_path / "lib", *(tmp_path / "lib").rglob("*")]
    assert len(made) > 12
    for one in made:
        mode = one.lstat().st_mode
        if not one.is_symlink():
            assert not mode & 0o022, (one, oct(mode))
        if one.parent.name == ".mezite" or one.name in (".mezite", "ssh_key", "certs"):
            assert one.is_symlink() or not mode & 0o077, (one, oct(mode))


def test_whoever_waits_for_the_key_finds_everything(tmp_path: Path) -> None:
    """At the first publishing the names come one after the other."""

    class Watched(Directory):
        def _switch(self, link: Path, target: str) -> None:
            super()._switch(link, target)
            seen.append({name for name in NAMES if (tmp_path / name).exists()})

    seen: list[set[str]] = []
    Watched(tmp_path).publish(Outputs.from_held(held()), T0)
    assert seen[-1] == set(NAMES)
    assert all(names == set(NAMES) for names in seen if "ssh_key" in names)


# --- what must not stop the daemon ---------------------------------------------------------


def test_sets_that_cannot_be_listed_do_not_end_the_daemon(running: Running, tmp_path: Path) -> None:
    """It goes on renewing, and publishes when it can again."""
    running.start()
    sets = tmp_path / "sets"
    sets.rename(tmp_path / "away")
    sets.write_text("not a directory")
    running.advance(1800)
    assert running.finished == []
    assert running.generation == 2
    sets.unlink()
    (tmp_path / "away").rename(sets)
    running.advance(120)
    assert running.service.status()["published"]
    assert Directory(tmp_path).published()["ssh_key-cert.pub"].split()[2].endswith(b"/2")


def test_a_fault_of_its_own_ends_the_daemon_rather_than_leave_it_idle(running: Running) -> None:
    """Whoever supervises it starts it again; a silent one would let the certificate end."""
    def broken() -> None:
        raise ZeroDivisionError("our own fault")

    running.service._published = broken
    running.start()
    assert running.finished == [Finish(1)]
    assert running.clock.getDelayedCalls() == []


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b""])
def test_the_note_for_msh_is_written_over_whatever_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    note = paths.last_identity(os.environ)
    note.parent.mkdir(parents=True)
    note.write_bytes(content)
    _note_last(Path("/var/lib/mezite/identity"))
    assert note.read_text() == "/var/lib/mezite/identity\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be in the home of another account")
def test_root_notes_nothing_in_the_home_of_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sudo -E mezd identity start`: that account could write nothing below its own ~/.local after it."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, -1)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    _note_last(Path("/var/lib/mezite/identity"))
    assert list(home.iterdir()) == []
    os.chown(home, 0, -1)
    _note_last(Path("/var/lib/mezite/identity"))
    assert paths.last_identity(os.environ).read_text() == "/var/lib/mezite/identity\n"


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    """A group that may write to a destination cannot have root write elsewhere."""
    target = tmp_path / "target"
    target.write_text("somebody's")
    config = from_keywords({"destination": str(tmp_path / "certs")})
    parts = OutputParts(config)
    (config.destination / LOCK).symlink_to(target)
    with pytest.raises(StateFailure, match=r"cannot lock .*/certs/\.lock: "):
        parts.hold()
    assert target.read_text() == "somebody's"
