"""The auth server as the daemon sees it: one request, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred

from mezite.core.model import host_port
from mezite.core.request import Issued, JoinRequest, RenewRequest, Trust
from mezite.errors import UntrustedServer
from mezite.rpc.client import AuthClient, ServerTrust, Sign, pinned_ca

FIRST_CONTACT = timedelta(seconds=10)


class Known(Struct, frozen=True):
    """What the daemon has to prove the server by, besides what a person named."""

    trust: Trust | None = None
    """That of the identity held, where there is one."""
    pin: str | None = None
    """That of the token, where it is not redeemed yet."""


class Remote(Protocol):
    """Carries requests to the auth server; knows nothing of what they mean."""

    address: str

    def ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Deferred[Issued]:
        """The answer to *request*.

        Fails with :class:`~mezite.errors.Refused`, :class:`UntrustedServer`,
        :class:`~mezite.errors.Unreachable` or :class:`~mezite.errors.InvalidInput`;
        when it is cancelled, what became of the request is unknown.
        """


_Source = Callable[[], Awaitable[ServerTrust]]


class GrpcRemote:
    """The real one, over a connection of its own for each request.

    A renewal trusts the server CAs that came with the identity.  A join trusts
    the CA that the token's pin names.  *ca* or *ca_pin*, named by a person,
    stand in the place of the token's pin.  Where one does not prove the server
    the next one may: a new token vouches for a server that was set up anew.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        *,
        ca: ServerTrust | None = None,
        ca_pin: str | None = None,
    ) -> None:
        self.address = host_port(host, port)
        self._loop = loop
        self._host, self._port = host, port
        self._ca, self._ca_pin = ca, ca_pin

    def ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Deferred[Issued]:
        asking = asyncio.ensure_future(self._ask(request, sign, known, nonce), loop=self._loop)
        return Deferred.fromFuture(asking)

    async def _ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Issued:
        first: UntrustedServer | None = None
        for source in self._sources(known):
            try:
                return await self._ask_trusting(await source(), request, sign, known, nonce)
            except UntrustedServer as error:
                first = first or error
        raise first or UntrustedServer(
            "nothing proves the server: give the whole token, the pin of its CA, or a CA file"
        )

    async def _ask_trusting(
        self,
        trust: ServerTrust,
        request: JoinRequest | RenewRequest,
        sign: Sign,
        known: Known,
        nonce: bytes,
    ) -> Issued:
        async with AuthClient(self.address, trust) as client:
            if isinstance(request, RenewRequest):
                assert known.trust is not None
                return await client.renew(request, sign, known.trust.cluster_uuid, nonce)
            cluster = await client.get_cluster()
            return await client.join(request, sign, cluster.uuid, nonce)

    def _sources(self, known: Known) -> list[_Source]:
        sources: list[_Source] = []
        if self._ca is not None:
            sources.append(_Given(self._ca))
        if known.trust is not None:
            sources.append(_Given(ServerTrust.from_der(known.trust.server_cas)))
        if self._ca is None:
            pin = self._ca_pin or known.pin
            if pin is not None:
                sources.append(_Pinned(self._host, self._port, pin))
        return sources


class _Given(Struct, frozen=True):
    trust: ServerTrust

    async def __call__(self) -> ServerTrust:
        return self.trust


class _Pinned(Struct, frozen=True):
    host: str
    port: int
    pin: str

    async def __call__(self) -> ServerTrust:
        return ServerTrust.from_cas([await pinned_ca(self.host, self.port, self.pin, FIRST_CONTACT)])
