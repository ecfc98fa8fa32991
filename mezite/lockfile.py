"""A file that one process at a time holds, freed by the kernel when it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from mezite.errors import Conflict


class LockFile:
    """An exclusive ``flock`` on *path* (created 0600, never a link), held until :meth:`release`.

    Raises :class:`Conflict` naming *path* and, where it can be read, the
    holder's process id.  The file itself stays: removing it would let two
    processes hold locks on two files of one name.
    """

    def __init__(self, path: Path, what: str) -> None:
        # Who may write to the directory must not choose which file we write our id into.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            by = f" (process {holder})" if holder.isdigit() else ""
            raise Conflict(f"{what} is already in use by another process{by}; stop it first") from None
        self.note_holder()

    @property
    def descriptor(self) -> int:
        """A process that inherits it holds the lock, too."""
        return self._descriptor

    def note_holder(self) -> None:
        """This process's id stands in the file, for whoever finds it taken.

        A courtesy: on a full disk the lock holds without it.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, b"%-19d\n" % os.getpid(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
