"""Machine identities for programs: join, keep renewing, log in (docs/client.md).

:mod:`mezite.client.aio` is for asyncio, :mod:`mezite.client.tx` for Twisted,
:func:`join` for scripts that know neither; :mod:`mezite.client.conch` logs in
with Twisted Conch.
"""

from __future__ import annotations

import os
from typing import Unpack

from mezite.client.base import Settings
from mezite.client.credential import Credential

__all__ = ["Credential", "Settings", "join"]


def join(directory: str | os.PathLike[str] | None = None, **settings: Unpack[Settings]) -> Credential:
    """As :func:`mezite.client.aio.join`, for a script without a loop: it waits here."""
    import asyncio

    from mezite.client import aio
    from mezite.errors import UsageError

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(aio.join(directory, **settings))
    raise UsageError("a loop runs in this thread; await mezite.client.aio.join, or mezite.client.tx.join")
