"""Identities for programs on Twisted's asyncio reactor: :class:`Identity`, and :func:`join`, once."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from typing import Any, Unpack

import txaio.tx
from twisted.internet.defer import Deferred

from mezite.client.base import DEFAULT_PATIENCE, Keeper, Lasting, Settings
from mezite.client.credential import Credential
from mezite.errors import UsageError


class _OnTwisted(Keeper):
    def _framework(self) -> tuple[asyncio.AbstractEventLoop, Any]:
        reactor = sys.modules.get("twisted.internet.reactor")
        loop = getattr(reactor, "_asyncioEventloop", None)
        if loop is None:
            which = "none is installed" if reactor is None else f"this is {type(reactor).__name__}"
            raise UsageError(
                f"mezite.client.tx needs Twisted's asyncio reactor, on which gRPC runs, and {which}; call "
                "twisted.internet.asyncioreactor.install() before anything imports twisted.internet.reactor, "
                "or start twist or trial with --reactor=asyncio"
            )
        return loop, txaio.tx.with_config(loop=reactor)


class Identity(_OnTwisted, Lasting):
    """An identity whose state lies in *directory*, renewed until it is stopped.

    In a coroutine ``async with Identity(...) as identity`` starts and stops it;
    inside, ``identity.current`` is always the newest credential.
    ``on_renewal`` is called in the reactor with each that replaces another.
    """

    def start(self, within: timedelta | None = DEFAULT_PATIENCE) -> Deferred[Credential]:
        """The first credential: that of the state, or one that a join or renewal brings.

        Fails with what stood in the way when there is none *within* that time
        (``None``: however long it takes), or as soon as there can be none; all
        is stopped then.
        """
        return Deferred.fromCoroutine(self._start(within))

    def renew(self) -> Deferred[Credential]:
        """The credential of a renewal that begins now, or is under way; fails as it does."""
        return Deferred.fromCoroutine(self._renew())

    def ended(self) -> Deferred[None]:
        """Fires when the identity was stopped; fails when it is over for good, by then or already."""
        return Deferred.fromCoroutine(self._ended())

    def stop(self) -> Deferred[None]:
        """Nothing of it is left: no timer, no connection, no lock.  The state stays, for the next start."""
        return Deferred.fromCoroutine(self._stop())

    def leave(self) -> Deferred[None]:
        """It is over: the server has ended it, and nothing of it is left in its directory.

        It is stopped first, and so it stays, also where this fails; the state is
        kept then, and :func:`leave` does it later.  Certificates that are out are
        refused by Mezite's own nodes at once, by a plain sshd when they end.
        """
        return Deferred.fromCoroutine(self._leave())

    async def __aenter__(self) -> Identity:
        await self._start(DEFAULT_PATIENCE)
        return self


def join(
    directory: str | os.PathLike[str] | None = None, **settings: Unpack[Settings]
) -> Deferred[Credential]:
    """As :func:`mezite.client.aio.join`."""
    return Deferred.fromCoroutine(_join(directory, settings))


def leave(
    directory: str | os.PathLike[str],
    *,
    auth_server: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> Deferred[None]:
    """As :func:`mezite.client.aio.leave`."""
    return Deferred.fromCoroutine(_leave(directory, auth_server, ca_file))


async def _leave(
    directory: str | os.PathLike[str], auth_server: str | None, ca_file: str | os.PathLike[str] | None
) -> None:
    await _OnTwisted(directory, one_shot=True, auth_server=auth_server, ca_file=ca_file)._leave_stopped()


async def _join(directory: str | os.PathLike[str] | None, settings: Settings) -> Credential:
    once = _OnTwisted(directory, one_shot=True, **settings)
    credential = await once._start(None)
    await once._stop()
    return credential
