"""A listening unix socket that nobody else can reach before its rights are set."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from mezite.errors import Conflict, StateFailure, UsageError

MAX_PATH = 107
"""Bytes: Linux's sun_path has 108, the last one a NUL."""
_BACKLOG = 64


class SocketFile(Struct):
    """A bound and listening socket, and the file that leads to it."""

    socket: socket.socket
    path: Path
    inode: tuple[int, int]

    def is_there(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            return _inode(self.path) == self.inode
        except OSError:
            return False

    def remove(self) -> None:
        """The socket is closed and its file gone, unless another server's stands there by now."""
        try:
            # While it is open, its inode is no other's, and another server that starts leaves the file alone.
            if self.socket.fileno() >= 0 and self.is_there():
                self.path.unlink(missing_ok=True)
        finally:
            self.socket.close()


def listen(path: Path, group_id: int | None = None, *, makes_directory: bool = True) -> SocketFile:
    """A listening, non-blocking socket at *path*: mode 0600, or 0660 and the group's.

    Its directory is made if missing (0700, or 0750 and the group's), unless
    *makes_directory* is false; one that others may write to is refused, as they
    could put their own socket there.
    A stale socket is replaced; a live one, and any other file, is a
    :class:`Conflict`.  Raises :class:`UsageError` for a path that cannot be a
    socket's and :class:`StateFailure` where rights are missing.
    """
    path = path.absolute()
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise UsageError(
            f"{path}: a socket's path has at most {MAX_PATH} bytes, this one has {size}; choose a shorter one"
        )
    try:
        if not makes_directory:
            path.parent.stat()
        _make_directory(path.parent, group_id)
        with _sole(path.parent, path):
            _clear(path)
            return _bind(path, group_id)
    except OSError as error:
        raise StateFailure(f"{path}: cannot listen there: {error.strerror or error}") from None


def _make_directory(directory: Path, group_id: int | None) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        mode = directory.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StateFailure(
                f"{directory}: everybody may write there and so replace the socket; chmod o-w it"
            ) from None
        return
    except FileNotFoundError:
        raise StateFailure(f"{directory.parent}: no such directory; create it first") from None
    if group_id is not None:
        _give(directory, group_id, 0o750)


def shuts_out(directory: Path, group_id: int) -> bool:
    """Whether the mode of *directory* keeps the group's members from what is in it."""
    status = directory.stat()
    is_theirs = status.st_gid == group_id and status.st_mode & stat.S_IXGRP
    return not (is_theirs or status.st_mode & stat.S_IXOTH)


def _give(path: Path, group_id: int, mode: int) -> None:
    """*path* is the group's; the mode comes second, so that no other group gets it."""
    try:
        os.chown(path, -1, group_id)
    except PermissionError:
        raise StateFailure(
            f"{path}: this account may not give it to the group {group_id}; "
            "run the server as root or as a member of admin_group"
        ) from None
    path.chmod(mode)


@contextmanager
def _sole(directory: Path, path: Path) -> Iterator[None]:
    """Two servers that start at once do not remove each other's new socket."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"{path}: another server is just starting there") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path}: a file that is no socket stands there; move it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise Conflict(f"{path}: another server already listens there; stop it first")


def _bind(path: Path, group_id: int | None) -> SocketFile:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    # Created 0600 whatever the umask was; and until listen() nobody connects anyway.
    mask = os.umask(0o177)
    try:
        try:
            listener.bind(os.fspath(path))
            bound = True
        finally:
            os.umask(mask)
        if group_id is not None:
            _give(path, group_id, 0o660)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return SocketFile(listener, path, _inode(path))
    except BaseException as error:
        listener.close()
        if bound:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise Conflict(f"{path}: another server already listens there; stop it first") from None
        raise


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
