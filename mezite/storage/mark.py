"""The mark: how far a database has come, in a file beside it.

Written after each commit and before its replies leave, by one small write that
waits for no disk: whatever becomes of the process, the mark is never behind what
was promised to anybody, and never ahead of what was committed.  Every half minute
it is brought to the disk, so that after a power cut it lags by that much at most.
A database that has come less far than its mark is an older copy.

Each process that writes has a slot of its own in the file; the highest counts.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from mezite.core.highwater import HighWater
from mezite.errors import StorageFailure

SLOTS = 64
"""Processes of one data directory, at most; each slot lies in a sector of its own."""
SYNC_EVERY_S = 30.0

_RECORD = struct.Struct(">8s16sQQ")
_CHECK = struct.Struct(">I")
_SLOT = 512
_MAGIC = b"mezmark1"
_log = logging.getLogger(__name__)


class MarkFile:
    """The mark in the file *path*, made 0600; what this process notes goes into *slot*.

    It only rises.  A full or failing disk leaves it behind, which hides an older
    copy and never alarms for nothing: it is logged, and noting goes on.

    Raises :class:`StorageFailure` when the file cannot be opened.
    """

    def __init__(self, path: Path, slot: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._offset = slot % SLOTS * _SLOT
        self._clock = clock
        self._cluster = bytes(16)
        self._noted = HighWater(0, 0)
        self._synced_at = clock()
        self._failed = False
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailure(f"{path} cannot be opened: {error.strerror}; make room or give this account "
                                 "write access there") from error

    def read(self, cluster_uuid: str) -> HighWater | None:
        """How far the database of this cluster has come by all slots; ``None``
        where nothing is noted of it.  Notes are of this cluster from now on."""
        cluster = UUID(cluster_uuid).bytes
        found = [one for one in map(self._slot, range(SLOTS)) if one is not None and one[0] == cluster]
        with self._lock:
            self._cluster = cluster
            if found:
                self._noted = HighWater(
                    max(one[1].events for one in found), max(one[1].serials for one in found)
                )
        return self._noted if found else None

    @property
    def noted(self) -> HighWater:
        """The highest that was read or noted here."""
        return self._noted

    def _slot(self, number: int) -> tuple[bytes, HighWater] | None:
        """Cluster and height; ``None`` for an empty or torn slot."""
        raw = os.pread(self._descriptor, _RECORD.size + _CHECK.size, number * _SLOT)
        if len(raw) < _RECORD.size + _CHECK.size:
            return None
        record = raw[: _RECORD.size]
        magic, cluster, events, serials = _RECORD.unpack(record)
        if magic != _MAGIC or _CHECK.unpack(raw[_RECORD.size :])[0] != zlib.crc32(record):
            return None
        return cluster, HighWater(events, serials)

    def note(self, events: int, serials: int) -> None:
        """The database has come so far; called after each commit, from the thread that made it."""
        with self._lock:
            noted = HighWater(max(events, self._noted.events), max(serials, self._noted.serials))
            if self._descriptor < 0 or not any(self._cluster):
                return
            try:
                if noted != self._noted:
                    record = _RECORD.pack(_MAGIC, self._cluster, noted.events, noted.serials)
                    os.pwrite(self._descriptor, record + _CHECK.pack(zlib.crc32(record)), self._offset)
                    self._noted = noted
                if self._clock() - self._synced_at >= SYNC_EVERY_S:
                    self._synced_at = self._clock()
                    os.fdatasync(self._descriptor)
                self._failed = False
            except OSError as error:
                if not self._failed:
                    _log.warning("%s: the mark could not be written: %s", self._path, error.strerror,
                                 extra={"event": "database.mark_unwritten"})
                self._failed = True

    def close(self) -> None:
        """What was noted is on the disk, if it can be."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            try:
                os.fsync(descriptor)
            except OSError as error:
                _log.warning("%s: the mark could not be written: %s", self._path, error.strerror,
                             extra={"event": "database.mark_unwritten"})
            finally:
                os.close(descriptor)
