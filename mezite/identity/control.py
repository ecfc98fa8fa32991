"""The daemon's control socket: what `mezctl identity …` may ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mezite.admin.protocol import Caller, Method, SocketService
from mezite.errors import InvalidInput
from mezite.identity.service import IdentityService


def control_service(reactor: Any, path: Path, service: IdentityService) -> SocketService:
    """Lets root and this user ask *service*, on the unix socket at *path*."""
    return SocketService(reactor, path, methods(service))


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
