"""The logged-in user of one connection: what the certificate said, and what it may open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct
from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import connection
from twisted.cred.portal import IRealm
from zope.interface import implementer

from mezite.certs.wire import Reader
from mezite.core.audit import AuditEvent, EventType, plain
from mezite.errors import CertificateRejected
from mezite.ssh.channel import FlowChannel
from mezite.ssh.checker import actor
from mezite.ssh.forwarding import Destination, ForwardChannel, Forwards
from mezite.ssh.policy import Access, Admitted
from mezite.ssh.sampling import Sample
from mezite.ssh.session import NodeSession, Programs

_REFUSED = {
    b"forwarded-tcpip": "forwarding",
    b"direct-streamlocal@openssh.com": "forwarding to sockets",
    b"forwarded-streamlocal@openssh.com": "forwarding",
    b"tun@openssh.com": "tunnelling",
    b"x11": "X11",
    b"auth-agent@openssh.com": "agent forwarding",
}
MAX_REFUSALS = 20
"""Refusals a minute that are recorded of one identity: nobody fills the log with them."""


class Node(Struct, frozen=True):
    """What every user of a node needs of it.  *forwards* is ``None`` where the node makes no connections;
    *refusals* says which of them are told, by :attr:`~mezite.ssh.policy.Admitted.owner`."""

    name: str
    access: Access
    clock: Callable[[], datetime]
    programs: Programs
    forwards: Forwards | None
    refusals: Sample


class NodeUser(ConchUser):
    """Opens sessions, and forwards ports where role and certificate allow it."""

    def __init__(self, admitted: Admitted, transport: Any, node: Node) -> None:
        super().__init__()
        self.admitted = admitted
        self.login = admitted.login
        self.address: str | None = transport.address
        self.programs = node.programs
        self._transport = transport
        self._node = node

    # --- channels ----------------------------------------------------------------------------

    def lookupChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> FlowChannel:
        """A channel of this kind; ``ConchError`` where none may be."""
        arguments: dict[str, Any] = {
            "remoteWindow": windowSize, "remoteMaxPacket": maxPacket, "data": data, "avatar": self,
        }
        if channelType == b"session":
            return NodeSession(**arguments)
        if channelType == b"direct-tcpip":
            return self._forward(Reader(data, "forwarding request"), arguments)
        if channelType in _REFUSED:
            what = _REFUSED[channelType]
            self.refused("port_forwarding", f"this node allows no {what}", {"channel": plain(channelType)})
            raise ConchError(f"{what} is not allowed", connection.OPEN_ADMINISTRATIVELY_PROHIBITED)
        raise ConchError("unknown channel", connection.OPEN_UNKNOWN_CHANNEL_TYPE)

    def _forward(self, reader: Reader, arguments: dict[str, Any]) -> ForwardChannel:
        try:
            destination = Destination.from_reader(reader)
        except CertificateRejected:
            destination = None
        forwards = self._node.forwards
        why = None
        if forwards is None:
            why = "this node runs no commands and forwards no ports (ssh.exec)"
        elif not self.admitted.port_forwarding:
            why = "role and certificate must both allow port forwarding"
        elif destination is None:
            why = "the destination is no host and port"
        elif not self._may_reach(destination):
            why = "the login's entry allows other destinations only"
        if forwards is None or destination is None or why is not None:
            self.refused("port_forwarding", why or "", {"destination": plain(str(destination))})
            raise ConchError(
                "port forwarding is not allowed", connection.OPEN_ADMINISTRATIVELY_PROHIBITED
            )
        if not forwards.has_room(self.admitted.owner):
            why = "too many forwarded connections of this identity"
            raise ConchError(why, connection.OPEN_RESOURCE_SHORTAGE)
        return ForwardChannel(destination, forwards, **arguments)

    def _may_reach(self, destination: Destination) -> bool:
        allowed = self.admitted.destinations
        return not allowed or any(
            host in ("*", destination.host) and port in (0, destination.port) for host, port in allowed
        )

    def is_channel_refusal_told(self) -> bool:
        """Whether one more channel that was refused is worth a line in the log."""
        return self._node.refusals.is_told((self.admitted.owner, "channel"))

    @property
    def was_ended(self) -> bool:
        """Whether the node itself ended the connection."""
        return bool(self._transport.end_reason)

    # --- audit -------------------------------------------------------------------------------

    def session_name(self, channel: int) -> str:
        """Ties the events of one channel together: part of the SSH session's id, and a number."""
        return f"{self._transport.sessionID[:8].hex()}.{channel}"

    def record(
        self,
        kind: EventType,
        fields: Mapping[str, str | int],
        *,
        reason: str = "",
        message: str = "",
        since: datetime | None = None,
    ) -> datetime:
        """An event about this user, now; with *since*, of something that began then and
        ended for the connection's own reason, if it has one."""
        now = self._node.clock()
        identity = self.admitted.identity
        told: dict[str, str | int] = {
            "login": plain(self.login, 64),
            "serial": identity.serial,
            "key_id": plain(identity.key_id),
            "instance": plain(identity.instance, 64),
            "generation": identity.generation,
            "ca": identity.ca_fingerprint,
            **fields,
        }
        if since is not None:
            reason = reason or self._transport.end_reason
            told["seconds"] = max(0, int((now - since).total_seconds()))
        failed = bool(reason) and since is None
        self._node.access.audit(
            AuditEvent(
                type=kind,
                at=now,
                actor=actor(identity.bot, identity.key_id),
                resource_type="node",
                resource_name=self._node.name,
                client_ip=self.address or "",
                success=not failed,
                reason=reason,
                message=plain(message),
                fields=told,
            )
        )
        return now

    def refused(self, reason: str, message: str, fields: Mapping[str, str | int]) -> None:
        """Something that this user asked for is not allowed."""
        if self._node.refusals.is_told(self.admitted.owner):
            self.record(EventType.AUTHZ_DENIED, fields, reason=reason, message=message)


@implementer(IRealm)
class NodeRealm:
    """Turns an admitted login into its user, and audits it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def requestAvatar(  # type: ignore[override]  # ids are what the checker gives
        self, avatarId: Admitted, mind: Any, *interfaces: Any
    ) -> tuple[Any, NodeUser, Callable[[], None]]:
        """*mind* is the connection's transport."""
        user = NodeUser(avatarId, mind, self._node)
        started = user.record(EventType.USER_LOGIN, {})

        def logout() -> None:
            # How a client leaves is no news; that it was made to leave is.
            if mind.end_reason:
                user.record(EventType.USER_LOGOUT, {}, since=started)

        return IConchUser, user, logout
