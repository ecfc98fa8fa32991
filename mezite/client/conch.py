"""Logins by Twisted Conch, with the certificate of an identity."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from twisted.conch.ssh.connection import SSHConnection
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint

from mezite.client.credential import Credential
from mezite.errors import NoAnswer
from mezite.ssh.client import CertificateClient

WITHIN = timedelta(seconds=30)


def connect(
    reactor: Any,
    endpoint: IStreamClientEndpoint,
    credential: Credential,
    *,
    login: str,
    host: str,
    within: timedelta = WITHIN,
) -> Deferred[SSHConnection]:
    """A connection, logged in as *login*, for any number of channels.

    ``twisted.conch.endpoints.SSHCommandClientEndpoint.existingConnection`` runs
    commands on it; ``connection.transport.loseConnection()`` ends it.  *host* is
    the name that the host's certificate must have, one that a Host CA of the
    cluster signed.

    Fails with :class:`~mezite.errors.CertificateRejected` (not that host: nothing
    was said to it), :class:`~mezite.errors.PermissionDenied` (it refuses the
    login), :class:`~mezite.errors.Unreachable`, or as *endpoint* does.
    """
    return Deferred.fromCoroutine(_connect(reactor, endpoint, credential, login, host, within))


async def _connect(
    reactor: Any, endpoint: IStreamClientEndpoint, credential: Credential, login: str, host: str,
    within: timedelta,
) -> SSHConnection:
    begun = reactor.seconds()
    client = CertificateClient(credential, login, host)
    try:
        connecting = cast("Deferred[CertificateClient]", connectProtocol(endpoint, client))
        await connecting.addTimeout(within.total_seconds(), reactor)
        left = max(0.0, within.total_seconds() - (reactor.seconds() - begun))
        return await client.opened.addTimeout(left, reactor)
    except (TimeoutError, ConnectingCancelledError):
        if reactor.seconds() - begun < within.total_seconds():
            raise  # whoever called has cancelled it
        raise NoAnswer(f"{host} did not let {login} in within {within.total_seconds():g} s") from None
