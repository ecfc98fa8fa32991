"""What use cases need besides the transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from mezite.certs.signer import Signer
from mezite.core.model import Node
from mezite.core.request import Trust
from mezite.discreet import Discreet
from mezite.storage.interface import Transaction

__all__ = ["AuthoritySet", "Cluster", "Context", "Operator", "Peer", "Transaction"]


class Cluster(Discreet, frozen=True):
    """Who we are.  The UUID is made at the first start and never changes."""

    hidden = ("nonce_key",)

    name: str
    uuid: str
    public_addr: str
    """``host:port`` that printed commands use; of several servers all, separated by commas."""
    nonce_key: bytes
    """Keys the HMAC of `prove` nonces; 32 bytes."""


class AuthoritySet(Struct, frozen=True):
    """The authorities at one moment.  SSH keys are wire-format blobs."""

    signer: Signer
    user_cas: tuple[bytes, ...]
    """Trusted for logins: the active one and those kept for a rotation."""
    proving_user_cas: frozenset[bytes]
    """Those, and the retired ones: they still prove lineages and forks."""
    host_cas: tuple[bytes, ...]
    server_cas: tuple[bytes, ...]
    """X.509 certificates, DER."""
    server_pin: str
    """Of the active server CA: the last part of a join token."""


class Context(Struct, frozen=True):
    """Made once by the composition root.  *clock* gives aware UTC time, *random* that many bytes."""

    cluster: Cluster
    authorities: Callable[[], AuthoritySet]
    nodes: Callable[[], tuple[Node, ...]]
    clock: Callable[[], datetime]
    random: Callable[[int], bytes]

    def new_uuid(self) -> str:
        """A random UUID (RFC 9562 version 4)."""
        return str(UUID(bytes=self.random(16), version=4))

    def chance(self) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(self.random(7), "big") / 256**7

    def trust(self) -> Trust:
        """What an identity is told to trust."""
        current = self.authorities()
        return Trust(
            cluster_name=self.cluster.name,
            cluster_uuid=self.cluster.uuid,
            host_cas=current.host_cas,
            user_cas=current.user_cas,
            server_cas=current.server_cas,
            nodes=self.nodes(),
        )


class Peer(Struct, frozen=True):
    """Whom a machine's request came from."""

    address: str
    """IP address without port."""


class Operator(Struct, frozen=True):
    """Who asks on the operator socket, as the kernel told us (SO_PEERCRED)."""

    uid: int
    name: str

    def __str__(self) -> str:
        return f"uid:{self.uid}({self.name})"


Actor = Operator | str
"""Whose doing something is, for the audit log: an operator's, or that of a bot (``bot/NAME``)."""
