"""The agent's socket: there while its process runs, and never a moment longer."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from mezite.admin import socketfile
from mezite.admin.caller import Allowed
from mezite.admin.listener import Listener
from mezite.agent.connection import AgentConnections
from mezite.agent.identities import Identities
from mezite.errors import MeziteError


class AgentSocket:
    """Serves *identities* on the unix socket at *path*, to this account and root.

    Another account and a group may be let in, too.  *now* is a monotonic time.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        path: Path,
        *,
        now: Callable[[], timedelta],
        owner_id: int | None = None,
        group_id: int | None = None,
    ) -> None:
        self.path = path
        self.identities = Identities()
        self._owner_id = os.geteuid() if owner_id is None else owner_id
        self._group_id = group_id
        allowed = Allowed(self._owner_id, group_id)
        self.connections = AgentConnections(reactor, self.identities, allowed, now=now)
        self._reactor = reactor
        self._file: socketfile.SocketFile | None = None
        self._listener: Listener | None = None

    def listen(self) -> None:
        """It listens, where it did not; a socket whose file was taken away is made anew.

        Raises as :func:`mezite.admin.socketfile.listen`.
        """
        if self._file is not None:
            if self._file.is_there():
                return
            self._log.warn(
                "{path} was removed; making it anew", event="agent.socket_remade", path=str(self.path),
            )
            self._close()
        self._file = socketfile.listen(self.path, self._group_id)
        if self._owner_id != os.geteuid():
            os.chown(self.path, self._owner_id, -1)
        self._listener = Listener(self._reactor, self._file.socket, self.connections)
        self._listener.start()

    def tidy(self, now: timedelta) -> None:
        self.identities.tidy(now)
        if self._file is not None and not self._file.is_there():
            try:
                self.listen()
            except MeziteError as error:
                self.connections.tell("{why}", why=str(error))

    def stop(self) -> None:
        """No file, no connection and no key is left."""
        self._close()
        self.connections.close_all()
        self.identities.forget()

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        file, self._file = self._file, None
        if listener is not None:
            listener.stop()
        if file is not None:
            try:
                file.remove()
            except OSError as error:
                self._log.warn(
                    "{path}: cannot be removed: {error}",
                    event="agent.socket_left", path=str(self.path), error=error,
                )
