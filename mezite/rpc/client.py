"""The client's side of the identity protocol, typed; raises :mod:`mezite.errors` only."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message
from msgspec import Struct

from mezite.certs.x509 import SERVER_NAME
from mezite.core.audit import plain
from mezite.core.request import (
    JOIN,
    LEAVE,
    RENEW,
    Issued,
    JoinRequest,
    LeaveRequest,
    RenewRequest,
    Signed,
    signed_bytes,
)
from mezite.errors import (
    InvalidInput,
    MeziteError,
    NoAnswer,
    Unreachable,
    UntimelyServer,
    UntrustedServer,
)
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.rpc import messages
from mezite.rpc.status import error_from_status

__all__ = ["DEADLINE", "AuthClient", "Cluster", "ServerTrust", "Sign", "pinned_ca"]

Sign = Callable[[bytes], bytes]
"""Data → SSH signature blob by the lineage key."""

DEADLINE = timedelta(seconds=20)

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # A retry is the caller's decision: it must be the same request with the same keys.
    ("grpc.enable_retries", 0),
    # The first contact goes straight to the server, so this must, too.
    ("grpc.enable_http_proxy", 0),
    # Each connection is made anew: nothing is to be shared or kept between channels.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 1024 * 1024),
)

_Answer = TypeVar("_Answer", bound=Message)


class ServerTrust(Struct, frozen=True):
    """By what the server is known: the only roots, and the name it must have.

    ``roots`` is PEM.  ``name`` replaces the one in the address: every leaf of
    our own server CA carries :data:`SERVER_NAME`, so that any address of the
    server will do.
    """

    roots: bytes
    name: str | None

    @classmethod
    def from_cas(cls, cas: Iterable[x509.Certificate]) -> ServerTrust:
        """Trust in these CAs only.  One that is a cluster's server CA names its cluster's
        UUID (``urn:uuid:``); any other issues ordinary certificates, with ordinary names."""
        known = tuple(cas)
        if not known:
            raise UntrustedServer("no CA is known that could prove the server")
        own = any(_is_server_ca(ca) for ca in known)
        return cls(b"".join(ca.public_bytes(Encoding.PEM) for ca in known), SERVER_NAME if own else None)

    @classmethod
    def from_der(cls, ders: Iterable[bytes]) -> ServerTrust:
        return cls.from_cas(x509.load_der_x509_certificate(der) for der in ders)

    @classmethod
    def from_pem(cls, pem: bytes, source: str) -> ServerTrust:
        """Raises :class:`InvalidInput` that names *source*."""
        try:
            return cls.from_cas(x509.load_pem_x509_certificates(pem))
        except ValueError:
            raise InvalidInput(f"{source} holds no PEM certificate; name the CA's certificate file") from None

    @classmethod
    def of_system(cls) -> ServerTrust:
        """The publicly trusted CAs that this machine knows."""
        paths = ssl.get_default_verify_paths()
        try:
            return cls(Path(paths.cafile or paths.openssl_cafile).read_bytes(), None)
        except OSError:
            raise UntrustedServer(
                "this machine has no list of publicly trusted CAs; install ca-certificates "
                "or give the file of its CA"
            ) from None


def _is_server_ca(ca: x509.Certificate) -> bool:
    try:
        names = ca.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return any(uri.startswith("urn:uuid:") for uri in uris)


class Cluster(Struct, frozen=True):
    name: str
    uuid: str
    server_time: datetime


async def pinned_ca(host: str, port: int, pin: str, within: timedelta) -> x509.Certificate:
    """See :func:`mezite.rpc.first_contact.pinned_ca`, whose imports a renewal does without."""
    from mezite.rpc.first_contact import pinned_ca as look

    return await look(host, port, pin, within)


class AuthClient:
    """One connection to the auth server; an asynchronous context manager.

    The connection is made for the first call and not before.  A failed one
    backs off for seconds inside gRPC, so take a new client for each attempt.
    """

    def __init__(self, address: str, trust: ServerTrust, deadline: timedelta = DEADLINE) -> None:
        self.address = address
        options = list(_OPTIONS)
        if trust.name is not None:
            options.append(("grpc.ssl_target_name_override", trust.name))
        credentials = grpc.ssl_channel_credentials(root_certificates=trust.roots)
        self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._seconds = deadline.total_seconds()

    async def __aenter__(self) -> AuthClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(None)

    async def get_cluster(self) -> Cluster:
        """Who the server is; raises as :meth:`join` does."""
        answer = await self._call("GetCluster", pb.GetClusterRequest(), pb.GetClusterResponse)
        server_time = messages.from_unix_ms(answer.server_time_unix_ms, "server_time_unix_ms")
        return Cluster(plain(answer.cluster_name, 128), answer.cluster_uuid, server_time)

    async def join(
        self, request: JoinRequest, sign: Sign, cluster_uuid: str, nonce: bytes = b""
    ) -> Issued:
        """What the server issues for *request*, signed by the new lineage key.

        Raises :class:`~mezite.errors.Refused`, :class:`UntrustedServer` (nothing
        was sent), :class:`Unreachable` (the outcome is unknown) and
        :class:`InvalidInput` (the answer cannot be read).
        """
        signed = _signed(JOIN, messages.join_body(request), sign, cluster_uuid, nonce)
        return messages.issued_from(await self._call(JOIN, signed, pb.IssueResponse))

    async def renew(
        self, request: RenewRequest, sign: Sign, cluster_uuid: str, nonce: bytes = b""
    ) -> Issued:
        """The same for a renewal, signed by the lineage key of the generation it comes from."""
        signed = _signed(RENEW, messages.renew_body(request), sign, cluster_uuid, nonce)
        return messages.issued_from(await self._call(RENEW, signed, pb.IssueResponse))

    async def leave(self, request: LeaveRequest, sign: Sign, cluster_uuid: str) -> None:
        """The instance is over; signed and failing as a renewal does."""
        signed = _signed(LEAVE, messages.leave_body(request), sign, cluster_uuid, b"")
        await self._call(LEAVE, signed, pb.LeaveResponse)

    async def _call(self, method: str, request: Message, kind: type[_Answer]) -> _Answer:
        # The generated stub would bring the server's half with it.
        path, serialized = f"/{messages.SERVICE_NAME}/{method}", type(request).SerializeToString
        call = self._channel.unary_unary(path, serialized, kind.FromString)
        try:
            return await call(request, timeout=self._seconds)
        except grpc.aio.AioRpcError as error:
            failure = self._error(error)
        except grpc.aio.UsageError:
            failure = Unreachable(f"the connection to {self.address} is closed")
        # Not in there: grpc's error has the call, which keeps its connection open, and whoever
        # waits to ask again keeps ours with all that led to it.
        raise failure

    def _error(self, error: grpc.aio.AioRpcError) -> MeziteError:
        details = error.details() or ""
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            for sign, meaning in _TIMES:
                if sign in details:
                    return UntimelyServer(f"the certificate of the server at {self.address} {meaning}")
            for sign, meaning in _TLS_FAULTS:
                if sign in details:
                    return UntrustedServer(f"the server at {self.address} is not the one we know: {meaning}")
            for sign, meaning in _NETWORK_FAULTS:
                if sign in details:
                    return Unreachable(f"cannot reach the auth server at {self.address}: {meaning}")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoAnswer(f"the auth server at {self.address} did not answer in {self._seconds:g} s")
        trailers = error.trailing_metadata() or ()
        return error_from_status(error.code(), details, trailers)  # type: ignore[arg-type]  # pairs


_TIMES = (
    ("certificate is not yet valid", "is not valid yet, by this machine's clock"),
    ("certificate has expired", "is not valid any more, by this machine's clock"),
)
_TLS_FAULTS = (
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not from the expected CA"),
    ("Hostname Verification Check failed", "its certificate is for another name"),
    ("is not in peer certificate", "its certificate is for another name"),
)
_NETWORK_FAULTS = (
    ("Connection refused", "connection refused; is it running, and is the address right?"),
    ("DNS resolution failed", "no address is known for that name; is it spelled right?"),
    ("Domain name not found", "no address is known for that name; is it spelled right?"),
    ("errors resolving", "no address is known for that name; is it spelled right?"),
    ("WRONG_VERSION_NUMBER", "what listens there speaks no TLS; is that the auth server's port?"),
    ("No route to host", "no route to that host"),
    ("Network is unreachable", "the network is unreachable"),
    ("imed out", "no answer in time"),
    ("imeout", "no answer in time"),
)


def _signed(
    method: str, body: bytes, sign: Sign, cluster_uuid: str, nonce: bytes
) -> pb.SignedRequest:
    signature = sign(signed_bytes(method, cluster_uuid, nonce, body))
    return messages.signed_message(Signed(body, signature, nonce))
