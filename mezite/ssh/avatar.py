"""The logged-in user of one connection: what the certificate said, and what it may open."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import connection
from twisted.cred.portal import IRealm
from zope.interface import implementer

from mezite.core.audit import AuditEvent, EventType, plain
from mezite.ssh.checker import actor
from mezite.ssh.policy import Access, Admitted
from mezite.ssh.session import NodeSession, Programs

_FORWARDING = frozenset({b"direct-tcpip", b"forwarded-tcpip", b"direct-streamlocal@openssh.com", b"x11"})


class NodeUser(ConchUser):
    """Opens sessions; every other kind of channel is refused."""

    def __init__(self, admitted: Admitted, address: str | None, programs: Programs) -> None:
        super().__init__()
        self.admitted = admitted
        self.login = admitted.login
        self.address = address
        self.programs = programs
        self.commands = 0

    def lookupChannel(
        self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes
    ) -> NodeSession:
        if channelType == b"session":
            return NodeSession(remoteWindow=windowSize, remoteMaxPacket=maxPacket, data=data, avatar=self)
        if channelType in _FORWARDING:
            raise ConchError("forwarding is not allowed", connection.OPEN_ADMINISTRATIVELY_PROHIBITED)
        raise ConchError("unknown channel", connection.OPEN_UNKNOWN_CHANNEL_TYPE)


@implementer(IRealm)
class NodeRealm:
    """Turns an admitted login into its user, and audits its beginning and its end."""

    def __init__(
        self, node_name: str, access: Access, clock: Callable[[], datetime], programs: Programs
    ) -> None:
        self._node_name = node_name
        self._access = access
        self._clock = clock
        self._programs = programs

    def requestAvatar(  # type: ignore[override]  # ids are what the checker gives
        self, avatarId: Admitted, mind: Any, *interfaces: Any
    ) -> tuple[Any, NodeUser, Callable[[], None]]:
        """*mind* is the connection's transport."""
        user = NodeUser(avatarId, mind.address, self._programs)
        started = self._clock()
        self._audit(user, EventType.SESSION_START, started, "", {})

        def logout() -> None:
            ended = self._clock()
            self._audit(
                user,
                EventType.SESSION_END,
                ended,
                mind.end_reason,
                {"seconds": int((ended - started).total_seconds()), "commands": user.commands},
            )

        return IConchUser, user, logout

    def _audit(
        self, user: NodeUser, kind: EventType, at: datetime, reason: str, more: dict[str, str | int]
    ) -> None:
        identity = user.admitted.identity
        self._access.audit(
            AuditEvent(
                type=kind,
                at=at,
                actor=actor(identity.bot, identity.key_id),
                resource_type="node",
                resource_name=self._node_name,
                client_ip=user.address or "",
                reason=reason,
                fields={
                    "login": plain(user.login, 64),
                    "serial": identity.serial,
                    "key_id": plain(identity.key_id),
                    "instance": plain(identity.instance, 64),
                    "generation": identity.generation,
                    "ca": identity.ca_fingerprint,
                    **more,
                },
            )
        )
