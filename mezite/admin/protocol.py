"""JSON-RPC 2.0 over a unix socket.

Both programs that listen, the server and the daemon, use :class:`SocketService`
and give it a table of methods.  docs/protocol.md has the protocol for its
other users.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mezite.admin import socketfile
from mezite.admin.caller import Allowed, Caller, group_id
from mezite.admin.connection import IDLE_SECONDS, MAX_CONNECTIONS, Connections, Method
from mezite.admin.listener import Listener
from mezite.errors import MeziteError
from mezite.parts import Service

__all__ = ["LOOK_SECONDS", "Caller", "Method", "SocketService"]

LOOK_SECONDS = 10.0
"""So often the socket is looked for, and where it is not there made anew."""


class SocketService(Service):
    """Answers *methods* on the unix socket at *path* while it runs.

    Root and the account it runs as may call, and the members of *group*.  It
    binds in ``privilegedStartService`` (or ``startService``, where that is not
    called), so that a taken path ends the program in its starter's sight; see
    :func:`mezite.admin.socketfile.listen` for what that raises.  A *group* that
    does not exist raises :class:`~mezite.errors.UsageError` there, too.

    Where the socket's file is removed, as whoever tidies up old files may do, it
    is made anew, and its directory, unless that is *data_dir*, of which an empty one
    would stand in the way of the one that is put back; what others have put in its
    place is left alone.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        path: Path,
        methods: Mapping[str, Method],
        *,
        group: str | None = None,
        idle_seconds: float = IDLE_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        data_dir: Path | None = None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._methods = methods
        self._group = group
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._is_in_data_dir = path.parent == data_dir
        self._group_id: int | None = None
        self._file: socketfile.SocketFile | None = None
        self._listener: Listener | None = None
        self._connections: Connections | None = None
        self._looking: Any = None
        self._is_out_of_order = False

    def privilegedStartService(self) -> None:
        if self._file is None:
            self._group_id = group_id(self._group) if self._group else None
            self._file = socketfile.listen(self._path, self._group_id)

    def startService(self) -> None:
        self.privilegedStartService()
        super().startService()
        remedy = f"become root or a member of the group {self._group}" if self._group else "ask its owner"
        self._connections = Connections(
            self._reactor, self._methods, Allowed(os.geteuid(), self._group_id),
            where=str(self._path), remedy=remedy,
            idle_seconds=self._idle_seconds, max_connections=self._max_connections,
        )
        if self._file is not None:
            self._accept(self._file)
            self._log.info("operators reach us at {path}", event="admin.listening", path=str(self._path))
        self._looking = self._reactor.callLater(LOOK_SECONDS, self._look)

    def _accept(self, file: socketfile.SocketFile) -> None:
        assert self._connections is not None
        self._file = file
        self._listener = Listener(self._reactor, file.socket, self._connections)
        self._listener.start()
        if self._group_id is not None and socketfile.shuts_out(self._path.parent, self._group_id):
            self._log.warn(
                "{directory}: its mode keeps the group {group} out; set auth.admin_socket to a path in a "
                "directory of its own, such as /run/mezite/admin.sock", event="admin.group_shut_out",
                directory=str(self._path.parent), group=self._group,
            )

    def _look(self) -> None:
        self._looking = self._reactor.callLater(LOOK_SECONDS, self._look)
        if self._file is not None and self._file.is_there():
            self._is_out_of_order = False
            return
        try:
            # Before the old one is closed: as long as it is open nobody else's has its inode.
            file = socketfile.listen(
                self._path, self._group_id, makes_directory=not self._is_in_data_dir
            )
        except MeziteError as error:
            self._out_of_order(error)
            return
        self._is_out_of_order = False
        if self._file is None:
            self._log.info("operators reach us at {path}", event="admin.listening", path=str(self._path))
        else:
            self._log.warn(
                "{path} was removed; it is made anew", event="admin.socket_remade", path=str(self._path),
            )
            self._close()  # who is connected stays so
        self._accept(file)

    def _out_of_order(self, error: MeziteError) -> None:
        """Told once, until it works again."""
        if not self._is_out_of_order:
            self._log.warn(
                "{error}; going on without that socket, and trying again",
                event="admin.unavailable", error=error,
            )
        self._is_out_of_order = True

    def stopService(self) -> Deferred[None]:
        """Connections are cut and the socket's file is gone when it fires."""
        super().stopService()
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
        self._close()
        return succeed(None) if self._connections is None else self._connections.close_all()

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
                    event="admin.socket_left", path=str(self._path), error=error,
                )
