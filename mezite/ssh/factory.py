"""The node: what it is made of, and how it starts, hears of changes and stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from twisted.application.service import Service
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from mezite.core.shares import Shares
from mezite.ssh.avatar import MAX_REFUSALS, Node, NodeRealm
from mezite.ssh.builtin import BuiltinPrograms
from mezite.ssh.checker import NodeChecker
from mezite.ssh.connection import NodeConnection
from mezite.ssh.followed import TrustedCas
from mezite.ssh.forwarding import Forwards
from mezite.ssh.hostkeys import HostKeys
from mezite.ssh.policy import PRINCIPALS, RBAC, Access, Admitted, NodeRules, find_lock
from mezite.ssh.programs import SystemPrograms
from mezite.ssh.revocation import RevocationFiles
from mezite.ssh.sampling import Sample
from mezite.ssh.server import CertificateFactory
from mezite.ssh.tables import PrincipalTables
from mezite.ssh.transport import NodeTransport

BUILTIN = "builtin"
SYSTEM = "system"
MAX_LOGGING_IN = 500
MAX_FILES = 4096


class NodeSettings(Struct, frozen=True):
    """What an operator sets for the node, and its limits."""

    node_name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    authorization: str = RBAC
    trusted_user_ca_keys: tuple[bytes, ...] = ()
    """Key blobs."""
    trusted_user_ca_files: tuple[Path, ...] = ()
    """Files of such keys, one a line; read again when they change."""
    revoked_keys: tuple[Path, ...] = ()
    """KRLs, or lists of public keys; read again when they change."""
    authorized_principals_file: str | None = None
    """With ``principals``: each login's table, in place of its name; ``%u`` is the login."""
    exec: str = BUILTIN
    run_as: str | None = None
    sftp_server: str | None = None
    """The sftp subsystem's program; ``None``: OpenSSH's, where it is installed."""
    end_sessions_at_expiry: bool = False
    """Whether a connection ends with its certificate (plain sshd lets it go on)."""
    login_timeout_seconds: float = 60
    max_attempts: int = 6
    max_channels: int = 10
    """Sessions of one connection at a time, as sshd's MaxSessions."""
    max_forwards: int = 64
    """Forwarded connections of one SSH connection at a time."""
    max_forwards_of_node: int = 500
    """Of which nobody gets more while he holds as many as are free."""
    max_files: int = MAX_FILES
    """That may be open for those who are logged in, shared out alike: one for each
    connection and each forwarded one, three for a command."""
    connect_seconds: float = 15
    """How long the node tries to reach the destination of a forwarding."""
    max_logging_in: int = MAX_LOGGING_IN
    """Connections that have not logged in yet; one more ends the oldest of them,
    so that idle strangers keep nobody out."""
    hangup_grace_seconds: float = 5
    """Between hanging up a command and killing it."""
    recheck_seconds: float = 10
    """How often locks are looked up for live connections: another server may
    have set one in the shared database."""

    def __post_init__(self) -> None:
        if self.authorization not in (RBAC, PRINCIPALS):
            raise ValueError(f"authorization is {RBAC} or {PRINCIPALS}")
        if self.authorized_principals_file is not None and self.authorization != PRINCIPALS:
            raise ValueError(f"authorized_principals_file goes with authorization: {PRINCIPALS}")
        if self.exec not in (BUILTIN, SYSTEM):
            raise ValueError(f"exec is {BUILTIN} or {SYSTEM}")


class NodeFactory(CertificateFactory):
    """The node's connections: who may log in, and for how long they may stay."""

    settings: NodeSettings
    _log = Logger()

    def __init__(
        self,
        settings: NodeSettings,
        access: Access,
        host_keys: Callable[[], HostKeys],
        *,
        reactor: Any,
        clock: Callable[[], datetime],
    ) -> None:
        self._access = access
        self._clock = clock
        self._rules = NodeRules(
            settings.node_name, settings.labels, settings.authorization, settings.trusted_user_ca_keys,
            has_tables=settings.authorized_principals_file is not None,
        )
        self._system: SystemPrograms | None = None
        self._forwards: Forwards | None = None
        self._files = Shares(settings.max_files)
        self._owners: dict[NodeTransport, str] = {}
        """Whose share each connection that is logged in is part of."""
        if settings.exec == SYSTEM:
            self._system = SystemPrograms(
                reactor, settings.run_as, settings.hangup_grace_seconds, settings.sftp_server,
                files=self._files,
            )
            self._forwards = Forwards(
                reactor, settings.max_forwards_of_node, settings.connect_seconds, self._files
            )
        revocations = RevocationFiles(settings.revoked_keys)
        revocations.look()
        checker = NodeChecker(self._rules, access, clock, self._account_problem, revocations)
        checker.has_room = self._has_room
        checker.more_cas = TrustedCas(settings.trusted_user_ca_files)
        if settings.authorized_principals_file is not None:
            checker.table = PrincipalTables(settings.authorized_principals_file)
        node = Node(
            settings.node_name, access, clock, self._system or BuiltinPrograms(), self._forwards,
            Sample(MAX_REFUSALS, reactor.seconds),
        )
        self._checker = checker
        portal = Portal(NodeRealm(node), [checker])
        super().__init__(portal, checker, host_keys, reactor=reactor, settings=settings)
        self._recheck_timer: Any = None
        self._rechecking = False
        self._recheck_again = False

    def _account_problem(self, login: str) -> str | None:
        return self._system.account_problem(login) if self._system is not None else None

    def _has_room(self, admitted: Admitted) -> bool:
        return self._files.has_room(admitted.owner)

    def showed_no_certificate(self, connection: NodeTransport, login: str, tried: Sequence[str]) -> None:
        self._checker.refuse_without_certificate(login, connection.address, tried)

    def connection_service(self) -> NodeConnection:
        return NodeConnection(self.settings.max_channels, self.settings.max_forwards)

    def connection_lost(self, connection: NodeTransport) -> None:
        if self._connections <= {connection}:
            self._cancel_recheck()
        owner = self._owners.pop(connection, None)
        if owner is not None:
            self._files.give_back(owner)
        super().connection_lost(connection)

    # --- locks for live connections ------------------------------------------------------------

    def logged_in(self, connection: NodeTransport) -> None:
        """*connection* has logged in: from now on locks are looked up again and again."""
        super().logged_in(connection)
        user: Any = connection.avatar
        self._owners[connection] = owner = user.admitted.owner
        self._files.take(owner)
        self._recheck_later()

    def _recheck_later(self) -> None:
        if self._stopping:
            return
        delay = self._next_recheck()
        if self._recheck_timer is None:
            self._recheck_timer = self.reactor.callLater(delay, self._recheck_due)
        elif self._recheck_timer.getTime() > self.reactor.seconds() + delay:
            self._recheck_timer.reset(delay)

    def _next_recheck(self) -> float:
        """Seconds: as set, or less where a certificate ends its sessions before."""
        delay = self.settings.recheck_seconds
        if not self.settings.end_sessions_at_expiry:
            return delay
        now = self._clock().timestamp()
        ends = [one.avatar.admitted.identity.valid_before - now for one in self._users()]
        return max(0.05, min([delay, *ends]))

    def _recheck_due(self) -> None:
        self._recheck_timer = None
        self.policy_changed()

    def _cancel_recheck(self) -> None:
        if self._recheck_timer is not None:
            self._recheck_timer.cancel()
            self._recheck_timer = None

    def policy_changed(self) -> None:
        """Ends every live connection whose subject is locked by now.

        Call it after each committed change; calls during a check make one more.
        """
        super().policy_changed()
        if not self._users() or self._stopping:
            return
        self._cancel_recheck()
        if self._rechecking:
            self._recheck_again = True
            return
        self._rechecking = True
        Deferred.fromCoroutine(self._recheck()).addBoth(self._rechecked)

    def _users(self) -> list[Any]:
        """Connections that are logged in and not being ended."""
        return [one for one in self._connections if hasattr(one, "avatar") and not one.end_reason]

    def _end_expired(self) -> None:
        if not self.settings.end_sessions_at_expiry:
            return
        now = self._clock().timestamp()
        for connection in self._users():
            if connection.avatar.admitted.identity.valid_before <= now:
                self._log.info(
                    "session of {login} ended: expired",
                    event="node.session_expired", login=connection.avatar.login,
                )
                connection.end("expired", b"the certificate has expired")

    async def _recheck(self) -> None:
        # First, as it needs no policy: a database that is away lets nobody stay longer.
        self._end_expired()
        policy = await self._access.policy()
        now = self._clock()
        for connection in self._users():
            user = connection.avatar
            lock = find_lock(user.admitted.identity, user.login, policy, self._rules, now)
            if lock is not None:
                self._log.info(
                    "session of {login} ended: {why}",
                    event="node.session_locked", login=user.login, why=lock.message,
                )
                connection.end(lock.code, b"this identity is locked")

    def _rechecked(self, outcome: Any) -> None:
        if outcome is not None:
            self._log.failure(
                "live connections could not be checked for locks", outcome, event="node.recheck_failed",
            )
        self._rechecking = False
        if self._recheck_again:
            self._recheck_again = False
            self.policy_changed()
        elif self._users():
            self._recheck_later()

    # --- end -----------------------------------------------------------------------------------

    def end_all(self) -> Deferred[None]:
        """Ends every connection and command; fires when nothing of them is left."""
        self._stopping = True
        self._cancel_recheck()
        return Deferred.fromCoroutine(self._end_all())

    async def _end_all(self) -> None:
        await self.end_connections("shutdown", b"the node stops")
        if self._forwards is not None:
            await self._forwards.abort_all()
        if self._system is not None:
            await self._system.all_ended()


def make_factory(
    settings: NodeSettings,
    access: Access,
    host_keys: Callable[[], HostKeys],
    *,
    reactor: Any,
    clock: Callable[[], datetime],
) -> NodeFactory:
    """The node's factory; see :class:`NodeFactory`."""
    return NodeFactory(settings, access, host_keys, reactor=reactor, clock=clock)


class NodeService(Service):
    """Listens while it runs; stopping ends every connection and leaves nothing."""

    def __init__(self, endpoint: IStreamServerEndpoint, factory: NodeFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self.port: Any = None

    def startService(self) -> Any:
        """A failure to listen fires the returned Deferred; ``port`` is set when it listens."""
        super().startService()
        listening: Any = self._endpoint.listen(self._factory)
        return listening.addCallback(self._listening)

    def _listening(self, port: Any) -> Any:
        self.port = port
        return port

    def policy_changed(self) -> None:
        self._factory.policy_changed()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.port is not None:
            port, self.port = self.port, None
            await port.stopListening()
        await self._factory.end_all()
