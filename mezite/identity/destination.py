"""Where an identity is published: all of its files at once, or none.

``<destination>/sets/<n>/`` holds one set; ``current`` is a relative link to the
newest, and ``ssh_key`` and the others are links into ``current/``.  One rename
switches them all.  The set before stays for a grace time, for programs that
have opened half of it, and is then removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from mezite.errors import StateFailure, UsageError
from mezite.identity.outputs import FILES_ONLY, NAMES, Form, Outputs, config_path
from mezite.identity.state import sync_directory

SETS = "sets"
CURRENT = "current"
GRACE = timedelta(seconds=60)

_PROBE = ".probe"
_PROBE_SIZE = 32 * 1024
"""A set of files takes less."""


class Destination(Protocol):
    """Keeps one published set, and those before it for :data:`GRACE`."""

    def check(self) -> None:
        """Returns when a set could be written now; raises as :meth:`publish` does."""

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        """*outputs*, and nothing else, is what a reader finds from now on, also after a crash.

        *now* is a monotonic time.  False when it was so already.  Raises
        :class:`StateFailure` when it is not so (then the set before is what a
        reader finds) and :class:`UsageError` when the place is not fit at all.
        """

    def tidy(self, now: timedelta) -> None:
        """Sets that were replaced more than :data:`GRACE` before *now* are gone."""

    def is_there(self) -> bool:
        """Whether a reader finds every file of the last set that was published."""

    def published(self) -> dict[str, bytes]:
        """Name → content of what a reader finds."""


class Directory:
    """The destination in the file system; *form* says which files it has."""

    def __init__(self, path: Path, form: Form = FILES_ONLY) -> None:
        config_path(str(path))
        self.path = path
        self.form = form
        self._sets = path / SETS
        self._replaced: dict[str, timedelta] = {}
        """Name of a set → when it was replaced, or first seen to be."""

    def prepare(self) -> None:
        """The directory exists and is fit: ours to write, nothing foreign under our names."""
        try:
            for parent in reversed(self.path.parents):
                if not parent.exists():
                    parent.mkdir(mode=0o755, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"the destination {self.path} is not a directory") from None
        except NotADirectoryError:
            raise UsageError(f"the destination {self.path} lies below a file") from None
        except OSError as error:
            raise self._failure("cannot make", error) from None
        if _is_read_only(self.path):
            raise self._failure("cannot write to", OSError(errno.EROFS, os.strerror(errno.EROFS)))
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UsageError(f"the destination {self.path} is not writable; see to its owner and mode")
        self._refuse_reachable()
        self._refuse_foreign()
        self._open_to_group()

    def _refuse_reachable(self) -> None:
        """Nobody but this user and root can put something else in the place of what is published.

        As sshd's StrictModes asks of keys, for the directory itself; a group that
        may write there was let in by somebody.
        """
        link, found = self.path.lstat(), self.path.stat()
        if stat.S_ISLNK(link.st_mode) and not _is_trusted(link):
            raise UsageError(
                f"the destination {self.path} is a link that belongs to another user (uid {link.st_uid}); "
                "choose a directory of its own"
            )
        if not _is_trusted(found):
            raise UsageError(
                f"the destination {self.path} belongs to another user (uid {found.st_uid}), who could take "
                "or replace what is written there; choose a directory of its own"
            )
        if found.st_mode & stat.S_IWOTH:
            raise UsageError(
                f"the destination {self.path} is no place for keys: everybody may write there; chmod o-w it, "
                "or choose a directory of its own"
            )

    def _refuse_foreign(self) -> None:
        for name, target in self._links().items():
            link = self.path / name
            if os.path.lexists(link) and not (link.is_symlink() and _points(link, target)):
                raise UsageError(
                    f"{link} is there already and was not written by mezd; "
                    "move it away or choose another destination"
                )
        if os.path.lexists(self._sets) and not _is_own_directory(self._sets):
            raise UsageError(f"{self._sets} is no directory of mezd; move it away")

    def _links(self) -> dict[str, str]:
        return {CURRENT: SETS + "/", **{name: f"{CURRENT}/{name}" for name in NAMES}}

    def check(self) -> None:
        self.prepare()
        probe = self.path / _PROBE
        try:
            try:
                _write(probe, bytes(_PROBE_SIZE), 0o600, self.form)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure("cannot write to", error) from None

    def current_set(self) -> Path | None:
        """The directory of the published set, without links."""
        try:
            return self.path / (self.path / CURRENT).readlink()
        except OSError:
            return None

    def is_there(self) -> bool:
        return all(os.path.isfile(self.path / name) for name in self.form.names())  # noqa: PTH113 (never an error)

    def published(self) -> dict[str, bytes]:
        current = self.current_set()
        if current is None:
            return {}
        return {name: (current / name).read_bytes() for name in NAMES if (current / name).exists()}

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        self.prepare()
        try:
            current = self.current_set()
            if current is not None and self._holds(current, outputs):
                self._link_names()
                return False
            self._publish(outputs)
        except OSError as error:
            raise self._failure("cannot write to", error) from None
        if current is not None:
            self._replaced[current.name] = now
        return True

    def _holds(self, directory: Path, outputs: Outputs) -> bool:
        found: dict[str, bytes] = {}
        if not all(_is_open(one) for one in (self._sets, directory)):
            return False
        for name, (_, mode) in outputs.files(str(directory), self.form).items():
            try:
                found[name] = (directory / name).read_bytes()
                if not self._has_rights((directory / name).lstat(), mode):
                    return False
            except OSError:
                return False
        return outputs.are(found, str(directory), self.form)

    def _has_rights(self, found: os.stat_result, mode: int) -> bool:
        return (
            found.st_mode & 0o777 == mode
            and self.form.owner_id in (None, found.st_uid)
            and self.form.group_id in (None, found.st_gid)
        )

    def _open_to_group(self) -> None:
        """Who shall read the files can enter the directory; nothing in it can be replaced by them."""
        found = self.path.stat()
        if self.form.group_id is None or (found.st_gid == self.form.group_id and found.st_mode & 0o010):
            return
        try:
            os.chown(self.path, -1, self.form.group_id)
            self.path.chmod(found.st_mode & 0o707 | 0o050)
        except OSError as error:
            raise UsageError(
                f"cannot give the destination {self.path} to the group {self.form.group_id}: "
                f"{error.strerror}; run mezd as root or as a member of that group"
            ) from None

    def _publish(self, outputs: Outputs) -> None:
        _make_directory(self._sets)
        number = max((int(name) for name in self._set_names()), default=0) + 1
        final, new = self._sets / str(number), self._sets / f".new-{number}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            _make_directory(new)
            for name, (content, mode) in outputs.files(str(final), self.form).items():
                _write(new / name, content, mode, self.form)
            sync_directory(new)
            new.rename(final)
            sync_directory(self._sets)
            self._switch(self.path / CURRENT, f"{SETS}/{number}")
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if self.current_set() != final:
                shutil.rmtree(final, ignore_errors=True)
            raise
        self._link_names()

    def _link_names(self) -> None:
        # The first time they come one by one: who waits for the key then finds all.
        for name in reversed(NAMES):
            link, target = self.path / name, f"{CURRENT}/{name}"
            if name not in self.form.names():
                link.unlink(missing_ok=True)
            elif not link.is_symlink():
                self._switch(link, target)
        sync_directory(self.path)

    def _switch(self, link: Path, target: str) -> None:
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(link)
        sync_directory(self.path)

    def _set_names(self) -> list[str]:
        try:
            return [path.name for path in self._sets.iterdir() if path.name.isdigit()]
        except OSError:
            return []  # none yet, or none that can be seen now: publishing tells why

    def tidy(self, now: timedelta) -> None:
        current = self.current_set()
        for name in self._set_names():
            if current is None or name == current.name:
                continue
            # One left by an earlier process: its grace time starts when it is first seen.
            if now - self._replaced.setdefault(name, now) >= GRACE:
                shutil.rmtree(self._sets / name, ignore_errors=True)
                del self._replaced[name]

    def clean_up(self, now: timedelta) -> None:
        """What a crash left half written is gone; sets long replaced are counted as that."""
        with contextlib.suppress(OSError):
            for path in tuple(self._sets.glob(".new-*")):
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.path / _PROBE).unlink(missing_ok=True)
        self.tidy(now)

    def erase(self) -> None:
        """Nothing that was published here is left; the directory itself stays."""
        try:
            for name in (*NAMES, CURRENT):
                (self.path / name).unlink(missing_ok=True)
            if self._sets.exists():
                shutil.rmtree(self._sets)
        except OSError as error:
            raise self._failure("cannot remove files from", error) from None

    def note_switched_before(self, ago: timedelta, now: timedelta) -> None:
        """The published set has been current since *ago* before *now*, and the others replaced."""
        current = self.current_set()
        for name in self._set_names():
            if current is not None and name != current.name:
                self._replaced.setdefault(name, now - ago)

    def switched_at_unix(self) -> float | None:
        """When ``current`` was switched, by the file system's clock."""
        try:
            return os.lstat(self.path / CURRENT).st_mtime
        except OSError:
            return None

    def _failure(self, what: str, error: OSError) -> StateFailure | UsageError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return UsageError(
                f"{what} the destination {self.path}: {error.strerror}; "
                "see to its owner, mode and file system"
            )
        hint = {
            errno.ENOSPC: "; make room there",
            errno.EDQUOT: "; make room there",
            errno.EROFS: "; mount it writable, or choose another one",
        }.get(error.errno or 0, "")
        return StateFailure(f"{what} the destination {self.path}: {error.strerror}{hint}")


class Memory:
    """A destination that nobody reads, for tests and embedding; *room* can be taken away."""

    def __init__(self) -> None:
        self.has_room = True
        self._files: dict[str, bytes] = {}
        self.replaced: list[tuple[timedelta, dict[str, bytes]]] = []

    def check(self) -> None:
        if not self.has_room:
            raise StateFailure("cannot write to memory: no room; make room there")

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        if outputs.are(self._files, "/memory"):
            return False
        self.check()
        files = {name: content for name, (content, _) in outputs.files("/memory").items()}
        if self._files:
            self.replaced.append((now, self._files))
        self._files = files
        return True

    def tidy(self, now: timedelta) -> None:
        self.replaced = [(since, files) for since, files in self.replaced if now - since < GRACE]

    def is_there(self) -> bool:
        return bool(self._files)

    def published(self) -> dict[str, bytes]:
        return dict(self._files)


def _id(number: int | None) -> int:
    """For chown: -1 leaves it as it is."""
    return -1 if number is None else number


def _is_trusted(found: os.stat_result) -> bool:
    """Its owner can do nothing to us that he could not do anyway."""
    return found.st_uid in (0, os.geteuid())


def _is_read_only(path: Path) -> bool:
    """Whether its file system is."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_own_directory(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and _is_trusted(found) and not found.st_mode & stat.S_IWOTH


def _make_directory(path: Path) -> None:
    """A directory that everybody may enter who gets so far, whatever the umask: who can read
    what is below is decided by the destination's mode, and each file's."""
    path.mkdir(mode=0o700, exist_ok=True)
    if not _is_open(path):
        path.chmod(0o755)


def _is_open(path: Path) -> bool:
    try:
        return path.stat().st_mode & 0o055 == 0o055
    except OSError:
        return False


def _points(link: Path, target: str) -> bool:
    found = str(link.readlink())
    return found.startswith(target) if target.endswith("/") else found == target


def _write(path: Path, content: bytes, mode: int, form: Form) -> None:
    """A new file with *content*, on the disk; the mode is exact whatever the umask.

    It is its owner's before it holds anything, and the group's before the mode lets that in.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if form.owner_id is not None or form.group_id is not None:
            os.fchown(descriptor, _id(form.owner_id), _id(form.group_id))
        os.fchmod(descriptor, mode)
        with memoryview(content) as view:
            written = 0
            while written < len(content):
                written += os.write(descriptor, view[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
