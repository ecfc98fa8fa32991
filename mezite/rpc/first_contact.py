"""Fetches the certificates that a server presents, without trusting them.

gRPC can neither show a chain nor pin a key.  So a client that knows a server
by a pin alone looks at the chain first, on a connection of its own over which
nothing is said, and then gives gRPC the pinned CA as its only root.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import timedelta
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mezite.certs.x509 import find_pinned
from mezite.core.audit import plain
from mezite.errors import NoAnswer, Unreachable


@implementer(IOpenSSLClientConnectionCreator)
class _TrustNothingYet:
    """TLS 1.3 with no verification; only for a connection over which nothing is said."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._context.set_verify(SSL.VERIFY_NONE)
        self._context.set_alpn_protos([b"h2"])

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@implementer(IHandshakeListener)
class _ChainReader(Protocol):
    def __init__(self) -> None:
        self.chain: Deferred[list[x509.Certificate]] = Deferred(self._cancelled)

    def _cancelled(self, chain: Deferred[list[x509.Certificate]]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # a TLS transport

    def handshakeCompleted(self) -> None:
        connection = self.transport.getHandle()  # type: ignore[union-attr]  # a TLS transport
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        self.transport.abortConnection()  # type: ignore[union-attr]
        if not self.chain.called:
            self.chain.callback(chain)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.chain.called:
            self.chain.errback(reason)


async def fetch_chain(reactor: Any, host: str, port: int, within: timedelta) -> list[x509.Certificate]:
    """The chain that the server at *host*:*port* presents, its own certificate first.

    Nothing is verified.  Raises :class:`Unreachable` when no TLS 1.3 handshake
    was completed within *within*.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    seconds = within.total_seconds()
    try:
        endpoint = wrapClientTLS(_TrustNothingYet(host), HostnameEndpoint(reactor, host, port, seconds))
        connecting: Deferred[_ChainReader] = connectProtocol(
            endpoint, _ChainReader()
        )
        reader = await connecting.addTimeout(seconds, reactor)
        chain = await reader.chain.addTimeout(seconds, reactor)
    except DNSLookupError:
        raise Unreachable(
            f"cannot reach the auth server at {where}: no address is known for {host}; check --auth-server"
        ) from None
    except TimeoutError:
        raise NoAnswer(
            f"cannot reach the auth server at {where}: no answer within {seconds:g} s"
        ) from None
    except ConnectError as error:
        raise Unreachable(
            f"cannot reach the auth server at {where}: {_plainly(error)}; is it running, "
            "and is --auth-server right?"
        ) from None
    except (SSL.Error, ConnectionDone, ConnectionLost):
        raise Unreachable(
            f"{where} broke off the TLS 1.3 handshake; is --auth-server the auth server's port?"
        ) from None
    except Exception as error:
        # Whatever else a connection ends with: it gave no chain.
        raise Unreachable(f"the first contact with {where} failed: {plain(str(error), 200)}") from None
    return chain


def _plainly(error: ConnectError) -> str:
    number = getattr(error, "osError", None)
    text = os.strerror(number) if isinstance(number, int) else plain(str(error), 200)
    return text[:1].lower() + text[1:].rstrip(".")


async def pinned_ca(reactor: Any, host: str, port: int, pin: str, within: timedelta) -> x509.Certificate:
    """The CA with the pinned key that the server presents.

    Raises :class:`Unreachable`, and :class:`~mezite.errors.UntrustedServer`
    when it presents another.
    """
    return find_pinned(await fetch_chain(reactor, host, port, within), pin)
