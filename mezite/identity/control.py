"""The daemon's control socket: what `mezctl identity …` may ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mezite.admin.protocol import Caller, Method, SocketService
from mezite.errors import InvalidInput, StateFailure
from mezite.identity.service import IdentityService


class ControlService(SocketService):
    """Lets root and this user ask *service*, on the unix socket at *path*.

    A path that cannot be a socket's, or is somebody else's, ends the daemon
    before it has begun.  Where only the file system stands in the way (a full
    disk, say), it goes on without the socket, and tries again: the identity
    matters more.
    """

    def __init__(self, reactor: Any, path: Path, service: IdentityService) -> None:
        super().__init__(reactor, path, methods(service))

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except StateFailure as error:
            self._out_of_order(error)


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
