"""The daemon's private state: two preallocated slots, written in place.

``<destination>/.mezite/state.0`` and ``state.1`` each hold one whole state.  A
save goes over the older one and is forced to the disk; the newest whole slot
is the state.  So a crash while saving leaves the state before it, and a full
disk stops no save: the blocks are there since the slots were made.

A slot: magic (8 bytes), version (u32), sequence (u64), length of the payload
(u32), SHA-256 over all of these and the payload (32 bytes), payload.  Numbers
are big-endian.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from mezite.errors import Conflict, InvalidInput, StateFailure
from mezite.identity import codec
from mezite.identity.records import Durable
from mezite.lockfile import LockFile

DIRECTORY = ".mezite"
LOCK = "lock"
SLOTS = ("state.0", "state.1")
SLOT_SIZE = 256 * 1024
VERSION = 1

_MAGIC = b"MEZSTATE"
_FIELDS = struct.Struct(">8sIQI")
_HEADER_SIZE = _FIELDS.size + 32


def slot_bytes(sequence: int, payload: bytes, version: int = VERSION) -> bytes:
    fields = _FIELDS.pack(_MAGIC, version, sequence, len(payload))
    return fields + hashlib.sha256(fields + payload).digest() + payload


class _Slot(Struct, frozen=True):
    number: int
    sequence: int
    durable: Durable


class _Damaged(Exception):
    """The slot does not hold what was written, with the reason."""


def parse_slot(data: bytes, path: Path) -> tuple[int, Durable]:
    """Sequence and state of one slot's *data*.

    Raises :class:`_Damaged` for one that was not written to its end, and
    :class:`StateFailure` for one of a newer version: falling back to the other
    slot would then undo what the newer program did.
    """
    if len(data) < _HEADER_SIZE:
        raise _Damaged("it is cut short")
    magic, version, sequence, length = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        raise _Damaged("it is not a state file of mezd")
    if version > VERSION:
        raise StateFailure(f"{path} was written by a newer mezd (format {version}); install that version")
    payload = data[_HEADER_SIZE : _HEADER_SIZE + length]
    if len(payload) != length or data[:_HEADER_SIZE] + payload != slot_bytes(sequence, payload, version):
        raise _Damaged("its checksum does not fit")
    try:
        return sequence, codec.decode(payload)
    except InvalidInput as error:
        raise _Damaged(str(error)) from None


def peek(destination: Path) -> Durable | None:
    """The newest whole state there, whoever holds it; ``None`` where there is none.

    For looking only: a daemon may write meanwhile, and what is read may be the
    state before.  Raises :class:`StateFailure`.
    """
    found: list[tuple[int, Durable]] = []
    damage = ""
    for name in SLOTS:
        path = destination / DIRECTORY / name
        try:
            found.append(parse_slot(path.read_bytes()[:SLOT_SIZE], path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StateFailure(f"cannot read {path}: {error.strerror}; see to its owner and mode") from None
        except _Damaged as error:
            damage = f"{path}: {error}"
    if damage and not found:
        raise StateFailure(f"the state of this identity is damaged ({damage})")
    return max(found, key=lambda one: one[0])[1] if found else None


def is_there(destination: Path) -> bool:
    """Whether there is, or was, an identity; raises :class:`StateFailure` where that cannot be seen."""
    try:
        return (destination / DIRECTORY).is_dir()
    except OSError as error:
        raise StateFailure(
            f"cannot look into {destination}: {error.strerror}; run this as the account that runs mezd there"
        ) from None


class Keeps(Protocol):
    """What saving is to those who need no more of a :class:`StateFile`."""

    def save(self, durable: Durable) -> None: ...

    def missing(self) -> Sequence[str]:
        """The directory, where a file of the state was removed from it; else nothing."""


class StateFile:
    """The state under *directory*; :meth:`load` first, then any number of :meth:`save`.

    No other process holds it until :meth:`release`.  Every error is a
    :class:`StateFailure` of one line, that of a destination in use among them.
    """

    def __init__(self, destination: Path) -> None:
        self.directory = destination / DIRECTORY
        private_directory(self.directory)
        self._lock = self._locked()
        self._paths = tuple(self.directory / name for name in SLOTS)
        self._sequence = 0
        self._older = 1
        self._newest = Durable()
        self.damaged: str = ""
        """What was wrong with the slot that :meth:`load` passed over, if one was."""

    def _locked(self) -> LockFile:
        try:
            return LockFile(self.directory / LOCK, f"the destination {self.directory.parent}")
        except Conflict as error:
            raise StateFailure(str(error)) from None
        except OSError as error:
            raise self._failure("cannot lock", error) from None

    def load(self) -> Durable:
        """The newest whole state; an empty one where there never was any."""
        try:
            return self._load()
        except OSError as error:
            raise self._failure("cannot read", error) from None

    def _load(self) -> Durable:
        found, missing, damaged = self._slots()
        if damaged and not found:
            raise StateFailure(
                f"the state of this identity is damaged ({'; '.join(damaged)}); restore {self.directory} "
                "from where it was, or remove it and join again with a new token"
            )
        self.damaged = "; ".join(damaged)
        newest = max(found, key=lambda slot: slot.sequence, default=_Slot(0, 0, Durable()))
        for path in missing:
            # A slot comes to be whole, by a rename: one that is there was once valid.
            try:
                self._create(path, newest.durable)
            except OSError as error:
                raise self._failure("cannot make", error, path) from None
        self._sequence, self._older, self._newest = newest.sequence, 1 - newest.number, newest.durable
        return newest.durable

    def _slots(self) -> tuple[list[_Slot], list[Path], list[str]]:
        """Those that are whole, those that are missing, and what is wrong with the others."""
        found: list[_Slot] = []
        missing: list[Path] = []
        damaged: list[str] = []
        for number, path in enumerate(self._paths):
            try:
                with path.open("rb") as file:
                    data = file.read(SLOT_SIZE)
            except FileNotFoundError:
                missing.append(path)
                continue
            try:
                found.append(_Slot(number, *parse_slot(data, path)))
            except _Damaged as error:
                damaged.append(f"{path}: {error}")
        return found, missing, damaged

    def _create(self, path: Path, durable: Durable, sequence: int = 0) -> None:
        new = path.with_suffix(path.suffix + ".new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _allocate(descriptor)
            os.pwrite(descriptor, slot_bytes(sequence, codec.encode(durable)), 0)
            os.fsync(descriptor)
        except OSError:
            new.unlink()
            raise
        finally:
            os.close(descriptor)
        new.rename(path)
        sync_directory(self.directory)

    def save(self, durable: Durable) -> None:
        """*durable* is on the disk, in place of the older of the two slots."""
        sequence = self._sequence + 1
        data = slot_bytes(sequence, codec.encode(durable))
        if len(data) > SLOT_SIZE:
            raise StateFailure(f"the state is too large for its file ({len(data)} bytes)")
        path = self._paths[self._older]
        try:
            self._stay()
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size < SLOT_SIZE:
                    _allocate(descriptor)
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], written)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._failure("cannot write", error) from None
        self._sequence, self._older, self._newest = sequence, 1 - self._older, durable

    def missing(self) -> Sequence[str]:
        files = (self.directory / LOCK, *self._paths)
        # Never an error, as of Path.exists: what cannot be seen is told when it is written.
        is_whole = all(os.path.exists(path) for path in files)  # noqa: PTH110
        return () if is_whole else (str(self.directory),)

    def _stay(self) -> None:
        """The directory is the one that we have locked, with both slots: what somebody has
        removed is made anew, and what he has put in its place is not ours to write to."""
        try:
            is_held = os.path.samestat((self.directory / LOCK).stat(), os.fstat(self._lock.descriptor))
        except FileNotFoundError:
            self._return()
        else:
            # There are file systems on which a file's number is not always the same.
            if not is_held and not self._is_ours(self._newest_slot()):
                raise self._replaced()
        for number, path in enumerate(self._paths):
            if not path.exists():
                self._create(path, self._newest, 0 if number == self._older else self._sequence)

    def _return(self) -> None:
        self.directory.parent.mkdir(mode=0o700, exist_ok=True)
        private_directory(self.directory)
        lock = self._locked()
        try:
            found = self._newest_slot()
            if found is not None and not self._is_ours(found):
                raise self._replaced()
        except BaseException:
            lock.release()
            raise
        self._lock.release()
        self._lock = lock

    def _newest_slot(self) -> _Slot | None:
        return max(self._slots()[0], key=lambda slot: slot.sequence, default=None)

    def _is_ours(self, slot: _Slot | None) -> bool:
        return slot is not None and (slot.sequence, slot.durable) == (self._sequence, self._newest)

    def _replaced(self) -> StateFailure:
        return StateFailure(
            f"{self.directory} was put in the place of the one that this process had; stop this mezd, "
            "and start it again if the identity that is there now is meant"
        )

    def erase(self) -> None:
        """No key of this identity is left; the lock's file stays, as it must."""
        try:
            for path in (*self._paths, *self.directory.glob("on-renew.*")):
                path.unlink(missing_ok=True)
            sync_directory(self.directory)
        except OSError as error:
            raise self._failure("cannot remove", error) from None

    def release(self) -> None:
        """Another process may have it."""
        self._lock.release()

    def _failure(self, what: str, error: OSError, path: Path | None = None) -> StateFailure:
        hint = {
            errno.ENOSPC: "make room on that file system",
            errno.EDQUOT: "make room within the quota",
            errno.EROFS: "the file system is read-only",
            errno.ENOENT: "it was removed; make it anew",
        }.get(error.errno or 0, "see to its owner and mode")
        where = path or error.filename or self.directory
        return StateFailure(f"{what} {where}: {error.strerror}; {hint}")


def _allocate(descriptor: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, SLOT_SIZE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # A file system without preallocation: written zeros are the nearest thing.
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, bytes(SLOT_SIZE - size), size)


def sync_directory(path: Path) -> None:
    """The names in the directory at *path* are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> None:
    """*path* is a directory of this user that nobody else can enter.

    Raises :class:`StateFailure` when it is somebody else's or no directory.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise StateFailure(f"{path} is not a directory; move it away")
        if found.st_uid != os.geteuid():
            raise StateFailure(f"{path} belongs to another user (uid {found.st_uid}); run mezd as that user")
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StateFailure(f"cannot use {path}: {error.strerror}") from None
