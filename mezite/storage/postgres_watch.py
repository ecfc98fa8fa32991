"""Connections to a server that stands still are cut off.

PostgreSQL ends what takes too long itself, as long as it runs at all: a backend that was
stopped, or waits for a disk that never answers, keeps its connection open and says nothing.
Whoever waits for it would wait for ever, a server that is told to stop as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

import psycopg

LOOK_EVERY_S = 1.0


class Wire:
    """The socket of *connection*, to be cut off by another thread than the one that waits at it.

    A descriptor of its own: the connection's may be closed at any time, and its number
    be another file's.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self.asked_at: float | None = None
        """When an answer was asked for that has not come."""

    def cut_off(self) -> None:
        """Whoever waits for an answer gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Wires:
    """Those of all connections that are open."""

    def __init__(self) -> None:
        self._wires: set[Wire] = set()
        self._lock = threading.Lock()

    def add(self, wire: Wire) -> None:
        with self._lock:
            self._wires.add(wire)

    def drop(self, wire: Wire) -> None:
        with self._lock:
            self._wires.discard(wire)
            wire.close()

    def cut_off(self, asked_before: float) -> None:
        """Those that have waited since then."""
        with self._lock:
            for wire in self._wires:
                asked_at = wire.asked_at
                if asked_at is not None and asked_at < asked_before:
                    wire.cut_off()


class Watched(psycopg.Connection[Any]):
    """A connection whose waiting is known; see :func:`watched`."""

    wires: Wires
    _wire: Wire | None = None

    def watch(self) -> None:
        """From now on; until it is closed."""
        self._wire = Wire(self)
        self.wires.add(self._wire)

    def wait(self, *args: Any, **options: Any) -> Any:
        """psycopg's name for where it waits for any answer."""
        wire = self._wire
        if wire is None:
            return super().wait(*args, **options)
        wire.asked_at = time.monotonic()
        try:
            return super().wait(*args, **options)
        finally:
            wire.asked_at = None

    def close(self) -> None:
        super().close()
        wire, self._wire = self._wire, None
        if wire is not None:
            self.wires.drop(wire)


def watched(kind: type[psycopg.Connection[Any]], wires: Wires) -> type[Watched]:
    """Connections of *kind* that add themselves to *wires*."""
    return type("Watched", (Watched, kind), {"wires": wires})


class Watch:
    """A thread that cuts off those of *wires* that wait longer than *patience_s*, until it is closed."""

    def __init__(self, wires: Wires, patience_s: float) -> None:
        self._wires = wires
        self._patience_s = patience_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mezite-storage-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self._wires.cut_off(time.monotonic() - self._patience_s)
