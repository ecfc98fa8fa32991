"""The daemon's control socket: what `mezctl identity …` may ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mezite.admin.protocol import Caller, Method, SocketService
from mezite.errors import InvalidInput, MeziteError, StateFailure
from mezite.identity.service import IdentityService

LOOK_SECONDS = 10
"""So often the socket is looked for, and where it is not there made anew."""


class ControlService(SocketService):
    """Lets root and this user ask *service*, on the unix socket at *path*.

    A path that cannot be a socket's, or is somebody else's, ends the daemon
    before it has begun.  Where only the file system stands in the way (a full
    disk, say), it goes on without the socket, and tries again: the identity
    matters more.
    """

    def __init__(self, reactor: Any, path: Path, service: IdentityService) -> None:
        super().__init__(reactor, path, methods(service))
        self._is_out_of_order = False
        self._looking: Any = None

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except StateFailure as error:
            if not self._is_out_of_order:
                self._log.warn(
                    "{error}; going on without the control socket", event="admin.unavailable", error=error,
                )
            self._is_out_of_order = True

    def startService(self) -> None:
        self._start_if_there()
        self._looking = self._reactor.callLater(LOOK_SECONDS, self._look)

    def _start_if_there(self) -> None:
        self.privilegedStartService()
        if self._file is not None:
            self._is_out_of_order = False
            super().startService()

    def _look(self) -> None:
        self._looking = self._reactor.callLater(LOOK_SECONDS, self._look)
        if self._file is not None:
            if self._file.is_there():
                return
            super().stopService().addErrback(self._not_closed)
        try:
            self._start_if_there()
        except MeziteError:
            return  # somebody else's stands there by now

    def _not_closed(self, failure: Failure) -> None:
        self._log.failure("a connection could not be closed", failure, event="admin.broke")

    def stopService(self) -> Deferred[None]:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
        return super().stopService()


def methods(service: IdentityService) -> dict[str, Method]:
    """Method name → what answers it.  Neither takes parameters."""

    def status(caller: Caller, params: Mapping[str, Any]) -> dict[str, Any]:
        _no_parameters(params)
        return service.status()

    def renew(caller: Caller, params: Mapping[str, Any]) -> Deferred[dict[str, Any]]:
        _no_parameters(params)
        return service.renew()

    return {"identity.status": status, "identity.renew": renew}


def _no_parameters(params: Mapping[str, Any]) -> None:
    for name in params:
        raise InvalidInput("this method takes no parameters", name)
