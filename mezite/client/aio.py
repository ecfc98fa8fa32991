"""Identities for asyncio programs: :class:`Identity`, which renews itself, and :func:`join`, once."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any, Unpack

import txaio.aio

from mezite.client.base import DEFAULT_PATIENCE, Keeper, Lasting, Settings
from mezite.client.credential import Credential
from mezite.client.logs import tell_logging


class _OnAsyncio(Keeper):
    def _framework(self) -> tuple[asyncio.AbstractEventLoop, Any]:
        tell_logging()
        loop = asyncio.get_running_loop()
        return loop, txaio.aio.with_config(loop=loop)


class Identity(_OnAsyncio, Lasting):
    """An identity whose state lies in *directory*, renewed until it is stopped.

    ``async with Identity(...) as identity`` starts and stops it; inside,
    ``identity.current`` is always the newest credential.  ``on_renewal`` is
    called in the loop with each that replaces another.
    """

    async def start(self, within: timedelta | None = DEFAULT_PATIENCE) -> Credential:
        """The first credential: that of the state, or one that a join or renewal brings.

        Raises what stood in the way when there is none *within* that time
        (``None``: however long it takes), or as soon as there can be none; all
        is stopped then.
        """
        return await self._start(within)

    async def renew(self) -> Credential:
        """The credential of a renewal that begins now, or is under way; raises as it fails."""
        return await self._renew()

    async def ended(self) -> None:
        """Returns when the identity was stopped; raises when it is over for good, by then or already."""
        await self._ended()

    async def stop(self) -> None:
        """Nothing of it is left: no timer, no connection, no lock.  The state stays, for the next start."""
        await self._stop()

    async def leave(self) -> None:
        """It is over: the server has ended it, and nothing of it is left in its directory.

        It is stopped first, and so it stays, also where this fails; the state is
        kept then, and :func:`leave` does it later.  Certificates that are out are
        refused by Mezite's own nodes at once, by a plain sshd when they end.
        """
        await self._leave()

    async def __aenter__(self) -> Identity:
        await self._start(DEFAULT_PATIENCE)
        return self


async def join(
    directory: str | os.PathLike[str] | None = None, **settings: Unpack[Settings]
) -> Credential:
    """A credential, by redeeming the token, or by one renewal of the identity in *directory*.

    Without a *directory* all is in memory: no renewal is possible, and a token
    whose answer is lost with the process is used up.
    """
    once = _OnAsyncio(directory, one_shot=True, **settings)
    credential = await once._start(None)
    await once._stop()
    return credential


async def leave(
    directory: str | os.PathLike[str],
    *,
    auth_server: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> None:
    """The identity in *directory*, which nobody runs, is over, there and at its server.

    *auth_server* and *ca_file* are known from the state.  Raises as
    :meth:`Identity.renew` does, and nothing is removed then; done again after a
    lost answer it does no harm.
    """
    await _OnAsyncio(directory, one_shot=True, auth_server=auth_server, ca_file=ca_file)._leave_stopped()
