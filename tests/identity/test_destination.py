"""What a destination promises, kept by the directory and by its stand-in alike."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.core.model import Node
from mezite.errors import StateFailure, UsageError
from mezite.identity import outputs
from mezite.identity.destination import GRACE, Destination, Directory, Memory
from mezite.identity.outputs import NAMES, Outputs, ssh_config
from tests.identity.limits import no_file_may_grow
from tests.identity.making import held

T0 = timedelta(hours=1)
FIRST, SECOND, THIRD = (Outputs.from_held(held(generation)) for generation in (1, 2, 3))


@pytest.fixture(params=["directory", "memory"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return Directory(tmp_path / "certs") if request.param == "directory" else Memory()


def test_what_is_published_is_found(destination: Destination) -> None:
    assert destination.published() == {}
    assert destination.publish(FIRST, T0)
    found = destination.published()
    assert set(NAMES) == set(found)
    assert FIRST.certificate == found["ssh_key-cert.pub"]
    assert FIRST.known_hosts == found["known_hosts"]
    assert b"OPENSSH PRIVATE KEY" in found["ssh_key"]


def test_the_newest_set_replaces_all_of_the_last(destination: Destination) -> None:
    destination.publish(FIRST, T0)
    destination.publish(SECOND, T0)
    found = destination.published()
    assert (SECOND.certificate, SECOND.ssh_key) == (found["ssh_key-cert.pub"], found["ssh_key"])


def test_the_same_is_not_written_again(destination: Destination) -> None:
    """Also when its private key was packed anew, with other random parts."""
    identity = held()
    destination.publish(Outputs.from_held(identity), T0)
    before = destination.published()
    assert not destination.publish(Outputs.from_held(identity), T0)
    assert before == destination.published()


def test_check_leaves_no_trace(destination: Destination) -> None:
    destination.check()
    assert destination.published() == {}


# --- the directory -------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "certs")


def test_modes_and_links(directory: Directory) -> None:
    directory.publish(FIRST, T0)
    path = directory.path
    assert str((path / "current").readlink()) == "sets/1"
    assert str((path / "ssh_key").readlink()) == "current/ssh_key"
    modes = {name: (path / "sets/1" / name).stat().st_mode & 0o777 for name in NAMES}
    expected = {"ssh_key": 0o600, "ssh_key-cert.pub": 0o644, "known_hosts": 0o644, "ssh_config": 0o644}
    assert expected == modes
    assert not [left for left in path.rglob(".*") if left.name != ".mezite"]


def test_ssh_reads_the_files(directory: Directory) -> None:
    """OpenSSH's own tools take the key, the certificate and the configuration."""
    directory.publish(FIRST, T0)
    path = directory.path
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", path / "ssh_key"], check=True, capture_output=True, text=True
    )
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", path / "ssh_key-cert.pub"], check=True, capture_output=True, text=True
    )
    assert public.stdout.startswith("ecdsa-sha2-nistp256 ")
    assert "deploy" in shown.stdout
    settings = parsed_config(path / "ssh_config", "web-1")
    assert tuple(
        settings[key] for key in ("hostname", "port", "hostkeyalias")
    ) == ("192.0.2.4", "3022", "web-1")
    assert str(path / "sets/1/ssh_key") == settings["identityfile"]


def parsed_config(path: Path, host: str) -> dict[str, str]:
    """As ssh understands it."""
    done = subprocess.run(["ssh", "-G", "-F", path, host], check=True, capture_output=True, text=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("name", ["with space", "100%", "a'b", "ü", "%h", "#x", "~x", "$HOME"])
def test_paths_that_ssh_config_must_quote(tmp_path: Path, name: str) -> None:
    directory = Directory(tmp_path / name)
    directory.publish(FIRST, T0)
    settings = parsed_config(directory.path / "ssh_config", "anything")
    for key, file in (("certificatefile", "ssh_key-cert.pub"), ("userknownhostsfile", "known_hosts")):
        # `-G` shows it before %-tokens are expanded.
        assert str(directory.path / "sets/1" / file) == settings[key].replace("%%", "%")


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "${HOME}"])
def test_paths_that_ssh_cannot_take_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="ssh cannot take"):
        Directory(tmp_path / name)


@pytest.mark.parametrize(
    "node",
    [
        Node("evil\n  ProxyCommand touch /tmp/x", "192.0.2.1:22"),
        Node("*", "192.0.2.1:22"),
        Node("ok", "192.0.2.1 -oProxyCommand=x:22"),
        Node("ok", "-oProxyCommand=x:22"),
        Node("ok", "host:22\nProxyCommand x"),
        Node("ok", "host"),
        Node("!ok", "host:22"),
    ],
)
def test_nodes_that_could_say_more_than_a_node_are_left_out(node: Node) -> None:
    assert ssh_config("/d", [node]) == ssh_config("/d", [])


def test_the_last_set_stays_for_the_grace_time(directory: Directory) -> None:
    directory.publish(FIRST, T0)
    directory.publish(SECOND, T0)
    old = directory.path / "sets/1"
    directory.tidy(T0 + GRACE - timedelta(seconds=1))
    assert (old / "ssh_key").exists()
    directory.tidy(T0 + GRACE)
    assert not old.exists()
    assert set(NAMES) == set(directory.published())


def test_sets_of_an_earlier_process_are_cleaned_up(directory: Directory) -> None:
    directory.publish(FIRST, T0)
    directory.publish(SECOND, T0)
    (directory.path / "sets/.new-3").mkdir()
    (directory.path / "sets/.new-3/ssh_key").write_text("half")
    (directory.path / ".probe").write_text("")
    later = Directory(directory.path)
    later.clean_up(T0)
    assert not (directory.path / "sets/.new-3").exists()
    assert not (directory.path / ".probe").exists()
    later.tidy(T0 + GRACE)
    assert [path.name for path in (directory.path / "sets").iterdir()] == ["2"]


def test_sets_replaced_long_ago_go_at_once(directory: Directory) -> None:
    directory.publish(FIRST, T0)
    directory.publish(SECOND, T0)
    later = Directory(directory.path)
    later.note_switched_before(timedelta(hours=5), T0)
    later.clean_up(T0)
    assert [path.name for path in (directory.path / "sets").iterdir()] == ["2"]



def test_a_set_is_repaired(directory: Directory) -> None:
    """A file of the published set that somebody changed is not left so."""
    identity = Outputs.from_held(held())
    directory.publish(identity, T0)
    (directory.path / "known_hosts").write_text("")
    assert directory.publish(identity, T0)
    assert identity.known_hosts == directory.published()["known_hosts"]


def test_rights_of_the_key_are_repaired(directory: Directory) -> None:
    identity = Outputs.from_held(held())
    directory.publish(identity, T0)
    (directory.path / "ssh_key").chmod(0o644)
    assert directory.publish(identity, T0)
    assert (directory.path / "ssh_key").stat().st_mode & 0o777 == 0o600


def test_a_missing_link_is_made_again(directory: Directory) -> None:
    identity = Outputs.from_held(held())
    directory.publish(identity, T0)
    (directory.path / "ssh_key").unlink()
    assert not directory.publish(identity, T0)
    assert (directory.path / "ssh_key").is_symlink()


@pytest.mark.parametrize("name", [*NAMES, "current", "sets/1/ssh_key", "sets", "."])
def test_what_was_removed_is_seen(directory: Directory, name: str) -> None:
    identity = Outputs.from_held(held())
    assert not directory.is_there()
    directory.publish(identity, T0)
    assert directory.is_there()
    gone = directory.path / name
    shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
    assert not directory.is_there()
    directory.publish(identity, T0)
    assert directory.is_there()


@pytest.mark.parametrize("name", NAMES)
def test_foreign_files_are_never_overwritten(directory: Directory, name: str) -> None:
    directory.path.mkdir()
    (directory.path / name).write_text("mine")
    for attempt in (directory.prepare, directory.check, lambda: directory.publish(FIRST, T0)):
        with pytest.raises(UsageError, match=name):
            attempt()
    assert (directory.path / name).read_text() == "mine"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/tmp")], ids=["file", "link"])
def test_foreign_current_is_refused(directory: Directory, make: Callable[[Path], None]) -> None:
    directory.path.mkdir()
    make(directory.path / "current")
    with pytest.raises(UsageError, match="current"):
        directory.prepare()


def test_a_file_as_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a directory"):
        Directory(tmp_path / "file").prepare()
    with pytest.raises(UsageError, match="below a file"):
        Directory(tmp_path / "file/below").prepare()


def test_no_room_is_one_line_and_nothing_is_lost(directory: Directory) -> None:
    """Every write that could fail for lack of room is found before the link is switched."""
    directory.publish(FIRST, T0)
    with no_file_may_grow(beyond=100):
        with pytest.raises(StateFailure) as caught:
            directory.publish(SECOND, T0)
        with pytest.raises(StateFailure):
            directory.check()
    assert "\n" not in str(caught.value)
    assert FIRST.certificate == directory.published()["ssh_key-cert.pub"]
    assert [path.name for path in (directory.path / "sets").iterdir()] == ["1"]
    assert directory.publish(SECOND, T0)


def test_memory_without_room_keeps_what_it_has() -> None:
    memory = Memory()
    memory.publish(FIRST, T0)
    memory.has_room = False
    with pytest.raises(StateFailure):
        memory.publish(SECOND, T0)
    assert FIRST.certificate == memory.published()["ssh_key-cert.pub"]
    memory.has_room = True
    memory.publish(THIRD, T0)
    assert len(memory.replaced) == 1
    memory.tidy(T0 + GRACE)
    assert memory.replaced == []


def test_private_keys_are_not_in_the_repr() -> None:
    assert "PRIVATE" not in repr(FIRST)
    assert outputs.SSH_KEY in FIRST.files("/d")
