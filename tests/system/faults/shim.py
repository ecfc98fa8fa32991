"""Builds and steers the preloaded library of shim.c: crashes and errors at a chosen call, set clocks."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from datetime import timedelta
from enum import IntEnum, IntFlag
from pathlib import Path

VARIABLE = "MEZITE_TEST_FAULTS"
COMPILER = shutil.which("cc") or shutil.which("gcc")
_SIZE = 4096
_CLOCKS = struct.Struct("=qq")
_ARMING = struct.Struct("=iii")
_COUNTED = struct.Struct("=ii")
_ARMING_AT, _COUNTED_AT, _PREFIX_AT, _LAST_AT = 16, 28, 64, 64 + 1024


class Mode(IntEnum):
    """What becomes of the chosen call."""

    KILL_BEFORE = 1
    KILL_HALF = 2
    """A write is half done; any other call is whole."""
    KILL_AFTER = 3
    NO_SPACE = 4
    IO_ERROR = 5


class Kind(IntFlag):
    WRITE = 1
    SYNC = 2
    NAME = 4
    """Renames, links, directories made, and removals."""


EVERY = Kind.WRITE | Kind.SYNC | Kind.NAME


def build(directory: Path) -> Path:
    """The library, compiled into *directory*."""
    assert COMPILER is not None
    library = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"],
        check=True, timeout=60,
    )
    return library


class Faults:
    """The steering of one process, which must have been started with :data:`VARIABLE` = *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def watch(self, prefix: Path, kinds: Kind = EVERY) -> None:
        """Calls of *kinds* on names that begin with *prefix* count from now on."""
        self._map[_PREFIX_AT:_LAST_AT] = str(prefix).encode().ljust(_LAST_AT - _PREFIX_AT, b"\0")
        _ARMING.pack_into(self._map, _ARMING_AT, 0, 0, kinds)
        _COUNTED.pack_into(self._map, _COUNTED_AT, 0, 0)

    def arm(self, number: int, mode: Mode) -> None:
        """The call *number* from now (1 is the next) is hit."""
        kinds = _ARMING.unpack_from(self._map, _ARMING_AT)[2]
        struct.pack_into("=i", self._map, _COUNTED_AT + 4, 0)
        _ARMING.pack_into(self._map, _ARMING_AT, 0, mode, kinds)
        struct.pack_into("=i", self._map, _ARMING_AT, number)

    def disarm(self) -> None:
        struct.pack_into("=i", self._map, _ARMING_AT, 0)

    @property
    def counted(self) -> int:
        return int(_COUNTED.unpack_from(self._map, _COUNTED_AT)[0])

    @property
    def fired(self) -> bool:
        return bool(_COUNTED.unpack_from(self._map, _COUNTED_AT)[1])

    @property
    def last(self) -> str:
        """The call that was hit."""
        return bytes(self._map[_LAST_AT : _LAST_AT + 256]).split(b"\0")[0].decode(errors="replace")

    def set_clock(self, ahead: timedelta, *, slept: timedelta = timedelta(0)) -> None:
        """The wall clock is *ahead* of the real one; *slept* of that passed while suspended."""
        ns = [int(length / timedelta(microseconds=1)) * 1000 for length in (ahead, slept)]
        _CLOCKS.pack_into(self._map, 0, *ns)

    def close(self) -> None:
        self._map.close()
