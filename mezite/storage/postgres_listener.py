"""Hears what other servers on the same database have changed.

A commit that changes roles, bots, locks or authorities notifies a channel
(NOTIFY is part of the transaction).  Nothing depends on hearing it: a connection
that is away has missed what it has missed, so whenever it goes, and every second
until it is back, everything is told to have changed, and caches read again.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from mezite.errors import StorageFailure
from mezite.storage.interface import SHARED_TOPICS
from mezite.storage.postgres_link import Server

CHANNEL = "mezite"
TOPICS = SHARED_TOPICS
"""What others hear of.  Not of instances: a NOTIFY takes a lock over all commits of
the cluster (postgres/src/backend/commands/async.c), and each renewal would."""
PROOF_EVERY_S = 1.0
"""How often the connection proves that it is there still: bounds how stale a cache may be."""

_log = logging.getLogger(__name__)


class Listener:
    """A thread that tells topics to *told* until it is closed; what *own* notified is not news."""

    def __init__(self, server: Server, own: str, told: Callable[[frozenset[str]], None]) -> None:
        self._server = server
        self._own = own
        self._told = told
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._was_away = False
        # Before anybody can subscribe, so that nothing is missed.
        self._connection: psycopg.Connection[Any] | None = self._connected()
        self.thread = threading.Thread(target=self._run, name="mezite-storage-listener", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """The thread is gone."""
        if self._wake_write >= 0:
            self._stopping.set()
            os.write(self._wake_write, b"x")
        if self.thread is threading.current_thread():
            return
        self.thread.join()
        if self._wake_write >= 0:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._listen()
                except Exception as error:
                    if not self._was_away:
                        _log.warning("changes by other servers are not heard, caches are not kept: %s",
                                     " ".join(str(error).split()),
                                     extra={"event": "database.changes_unheard"})
                    self._was_away = True
                self._hang_up()
                if not self._stopping.is_set():
                    self._told(TOPICS)
                    self._stopping.wait(PROOF_EVERY_S)
        finally:
            self._hang_up()

    def _connected(self) -> psycopg.Connection[Any]:
        connection = self._server.connect()
        try:
            # It waits for seconds where the network swallows everything; a commit may take longer.
            connection.execute(f"set statement_timeout = {int(PROOF_EVERY_S * 2000)}")
            connection.execute(f"listen {CHANNEL}")
        except psycopg.Error as error:
            connection.close()
            raise StorageFailure(" ".join(str(error).split())) from None
        return connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _listen(self) -> None:
        """Returns when it is to stop; raises when the connection goes."""
        if self._connection is None:
            self._connection = self._connected()
            if self._was_away:
                _log.warning("changes by other servers are heard again",
                             extra={"event": "database.changes_heard"})
            self._was_away = False
            # What was committed before it listened was not heard.
            self._told(TOPICS)
        connection = self._connection
        # Not select(2), which knows no descriptor above 1023.
        waiting = select.poll()
        for one in (connection.fileno(), self._wake_read):
            waiting.register(one, select.POLLIN)
        named: list[str] = []
        # psycopg takes notifications with the answer to any statement, and has them nowhere else.
        connection.add_notify_handler(lambda notify: named.append(notify.payload))
        while not self._stopping.is_set():
            if any(ready == self._wake_read for ready, _ in waiting.poll(PROOF_EVERY_S * 1000)):
                return
            connection.execute("select 1")
            self._tell(named)
            named.clear()

    def _tell(self, named: Sequence[str]) -> None:
        topics: set[str] = set()
        for payload in named:
            sender, _, changed = payload.partition(" ")
            if sender != self._own:
                topics |= TOPICS.intersection(changed.split(","))
        if topics:
            self._told(frozenset(topics))
