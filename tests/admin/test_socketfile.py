"""A listening socket in a directory: rights, stale and live ones, what cannot be."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from mezite.admin import socketfile
from mezite.errors import Conflict, StateFailure, UsageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def stale(path: Path) -> None:
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()


@pytest.fixture(params=[0o000, 0o077])
def _umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield None
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_only_the_owner_reaches_it(tmp_path: Path) -> None:
    """Whatever the umask is, and the umask stays what it was."""
    path = tmp_path / "run" / "admin.sock"
    made = socketfile.listen(path)
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert connects(path)
    before = os.umask(0)
    os.umask(before)
    assert before in (0o000, 0o077)
    made.remove()
    assert not path.exists()


def test_with_a_group_its_members_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    made = socketfile.listen(path, os.getegid())
    assert mode(path) == 0o660
    assert mode(path.parent) == 0o750
    assert path.stat().st_gid == os.getegid()
    made.remove()


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    socketfile.listen(tmp_path / "admin.sock").remove()
    assert mode(tmp_path) == 0o755


def test_a_directory_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateFailure, match="everybody may write there"):
        socketfile.listen(tmp_path / "admin.sock")
    tmp_path.chmod(0o1777)
    socketfile.listen(tmp_path / "admin.sock").remove()


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateFailure, match=f"{tmp_path}/a: no such directory"):
        socketfile.listen(tmp_path / "a" / "b" / "admin.sock")


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    stale(path)
    assert not connects(path)
    made = socketfile.listen(path)
    assert connects(path)
    made.remove()


def test_a_live_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    made = socketfile.listen(path)
    with pytest.raises(Conflict, match="another server already listens there"):
        socketfile.listen(path)
    assert connects(path)
    made.remove()


def test_a_server_too_busy_to_accept_is_live(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(Conflict, match="already listens"):
            socketfile.listen(path)
        for client in waiting:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(Conflict, match="no socket stands there"):
        socketfile.listen(path)
    assert path.read_text() == "precious"


def test_a_link_to_a_socket_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target.sock"
    stale(target)
    (tmp_path / "admin.sock").symlink_to(target)
    with pytest.raises(Conflict, match="no socket stands there"):
        socketfile.listen(tmp_path / "admin.sock")
    assert target.is_socket()


def test_another_servers_socket_is_not_removed(tmp_path: Path) -> None:
    """Somebody removed ours by hand and started a second server."""
    path = tmp_path / "admin.sock"
    first = socketfile.listen(path)
    path.unlink()
    second = socketfile.listen(path)
    first.remove()
    assert connects(path)
    second.remove()
    second.remove()


def test_two_that_start_at_once_do_not_remove_each_others_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socketfile._sole(tmp_path, path), pytest.raises(Conflict, match="just starting"):
        socketfile.listen(path)
    socketfile.listen(path).remove()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_path_too_long_is_told_with_its_length(tmp_path: Path, extra: int) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / ("s" * (socketfile.MAX_PATH + extra - len(os.fsencode(directory)) - 1))
    if extra:
        with pytest.raises(UsageError, match="at most 107 bytes, this one has 108"):
            socketfile.listen(path)
    else:
        socketfile.listen(path).remove()


def test_a_failure_after_binding_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    path = tmp_path / "admin.sock"
    with pytest.raises(StateFailure, match="may not give it to the group"):
        socketfile.listen(path, 12345)
    assert not path.exists()


@pytest.mark.parametrize(
    ("mode", "is_theirs", "shut"),
    [(0o700, True, True), (0o710, True, False), (0o750, True, False), (0o750, False, True),
     (0o701, False, False), (0o755, False, False), (0o740, True, True)],
)
def test_a_directory_that_keeps_the_group_out_is_known(
    tmp_path: Path, mode: int, is_theirs: bool, shut: bool
) -> None:
    place = tmp_path / "run"
    place.mkdir()
    place.chmod(mode)
    group = place.stat().st_gid
    assert shut == socketfile.shuts_out(place, group if is_theirs else group + 1)
