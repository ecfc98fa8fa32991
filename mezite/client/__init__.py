"""Machine identities for programs: join, keep renewing, log in (docs/client.md).

:mod:`mezite.client.aio` is for asyncio, :mod:`mezite.client.tx` for Twisted,
:func:`join` and :func:`leave` for scripts that know neither; :mod:`mezite.client.conch` logs in
with Twisted Conch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, Unpack

from mezite.client.base import Settings
from mezite.client.credential import Credential

_T = TypeVar("_T")

__all__ = ["Credential", "Settings", "join", "leave"]


def join(directory: str | os.PathLike[str] | None = None, **settings: Unpack[Settings]) -> Credential:
    """As :func:`mezite.client.aio.join`, for a script without a loop: it waits here."""
    from mezite.client import aio

    return _alone("join", lambda: aio.join(directory, **settings))


def leave(
    directory: str | os.PathLike[str],
    *,
    auth_server: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> None:
    """As :func:`mezite.client.aio.leave`, for a script without a loop: it waits here."""
    from mezite.client import aio

    _alone("leave", lambda: aio.leave(directory, auth_server=auth_server, ca_file=ca_file))


def _alone(name: str, begin: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """What *begin*'s coroutine gives, in a loop of its own."""
    import asyncio

    from mezite.errors import UsageError

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(begin())
    raise UsageError(
        f"a loop runs in this thread; await mezite.client.aio.{name}, or mezite.client.tx.{name}"
    )
