"""Fetches the certificates that a server presents, without trusting them.

gRPC can neither show a chain nor pin a key.  So a client that knows a server
by a pin alone looks at the chain first, on a connection of its own over which
nothing is said, and then gives gRPC the pinned CA as its only root.  The ssl
module of Python 3.11 shows the server's own certificate only; pyOpenSSL shows
the chain, and speaks TLS into memory, so that the loop's streams carry it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
from datetime import timedelta

from cryptography import x509
from OpenSSL import SSL

from mezite.certs.x509 import find_pinned
from mezite.core.audit import plain
from mezite.core.model import host_port
from mezite.errors import NoAnswer, Unreachable

_NEXT_ADDRESS_AFTER_S = 0.25
"""Addresses of one name are tried side by side (RFC 8305)."""
_PIECE = 16 * 1024
_NUMBER = re.compile(r"\[Errno (\d+)\]")


class _HungUp(Exception):
    """The connection ended before the handshake did."""


def _trusting_nothing_yet(host: str) -> SSL.Connection:
    """TLS 1.3 with no verification; only for a connection over which nothing is said."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    connection = SSL.Connection(context, None)
    if not _is_address(host):
        connection.set_tlsext_host_name(host.encode("idna"))
    connection.set_connect_state()
    return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _handshake(
    tls: SSL.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> list[x509.Certificate]:
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            _pass_on(tls, writer)
            await writer.drain()
            data = await reader.read(_PIECE)
            if not data:
                raise _HungUp from None
            tls.bio_write(data)
        else:
            return tls.get_peer_cert_chain(as_cryptography=True) or []


def _pass_on(tls: SSL.Connection, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            writer.write(tls.bio_read(_PIECE))
        except SSL.WantReadError:
            return


async def _look(host: str, port: int) -> list[x509.Certificate]:
    tls = _trusting_nothing_yet(host)
    reader, writer = await asyncio.open_connection(
        host, port, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S
    )
    try:
        return await _handshake(tls, reader, writer)
    finally:
        writer.transport.abort()


async def fetch_chain(host: str, port: int, within: timedelta) -> list[x509.Certificate]:
    """The chain that the server at *host*:*port* presents, its own certificate first.

    Nothing is verified.  Raises :class:`Unreachable` when no TLS 1.3 handshake
    was completed within *within*.
    """
    where = host_port(host, port)
    seconds = within.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            return await _look(host, port)
    except (socket.gaierror, UnicodeError):
        raise Unreachable(
            f"cannot reach the auth server at {where}: no address is known for {host}; is it spelled right?"
        ) from None
    except TimeoutError:
        raise NoAnswer(
            f"cannot reach the auth server at {where}: no answer within {seconds:g} s"
        ) from None
    except (SSL.Error, _HungUp, ConnectionResetError, BrokenPipeError):
        raise Unreachable(
            f"{where} broke off the TLS 1.3 handshake; is that the auth server's port?"
        ) from None
    except OSError as error:
        raise Unreachable(
            f"cannot reach the auth server at {where}: {_plainly(error)}; is it running, "
            "and is the address right?"
        ) from None
    except Exception as error:
        # Whatever else a connection ends with: it gave no chain.
        raise Unreachable(f"the first contact with {where} failed: {plain(str(error), 200)}") from None


def _plainly(error: OSError) -> str:
    """Of several addresses asyncio tells all failures in one text, which has the only numbers: the first."""
    number = error.errno or next(map(int, _NUMBER.findall(str(error))), 0)
    text = os.strerror(number) if number else plain(str(error), 200)
    return text[:1].lower() + text[1:].rstrip(".")


async def pinned_ca(host: str, port: int, pin: str, within: timedelta) -> x509.Certificate:
    """The CA with the pinned key that the server presents.

    Raises :class:`Unreachable`, and :class:`~mezite.errors.UntrustedServer`
    when it presents another.
    """
    return find_pinned(await fetch_chain(host, port, within), pin)
