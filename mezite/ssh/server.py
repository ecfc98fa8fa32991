"""An SSH server of Twisted Conch that takes OpenSSH certificates: the part without our node in it.

Another project gives :class:`CertificateFactory` a portal, a checker and its
host keys; see docs/conch-certificates.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.service import SSHService
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mezite.core.audit import plain
from mezite.ssh.hostkeys import HostKeys
from mezite.ssh.login import CertificateLogin
from mezite.ssh.sampling import Sample
from mezite.ssh.transport import NodeTransport
from mezite.ssh.userauth import NodeUserAuth

STRANGERS_PER_MINUTE = 20
"""Lines in the log about what strangers send."""


class LoginLimits(Protocol):
    """What strangers may cost."""

    @property
    def login_timeout_seconds(self) -> float:
        """From the first byte to the login."""

    @property
    def max_attempts(self) -> int:
        """Failed logins of one connection; the last one ends it."""

    @property
    def max_logging_in(self) -> int:
        """Connections that have not logged in yet; one more ends the oldest of them,
        so that idle strangers keep nobody out."""


class Limits(Struct, frozen=True):
    """The limits of sshd, where it has any."""

    login_timeout_seconds: float = 60
    max_attempts: int = 6
    max_logging_in: int = 500


class LoginChecker(Protocol):
    """Decides logins; the portal's checker for :class:`ICertificateLogin` is the same object."""

    async def check(self, login: CertificateLogin) -> Any:
        """The avatar's id.  Without a signature: the one that a right signature would
        have.  Raises ``UnauthorizedLogin``."""


class CertificateFactory(SSHFactory):
    """Makes connections and keeps account of them.

    *portal* turns what *checker* admits into an ``IConchUser``; the portal's
    mind is the connection's transport.  *host_keys* is asked for every new
    connection, so that a renewed host certificate counts at once.
    """

    protocol = NodeTransport
    primes = None
    noisy = False
    _log = Logger()

    def __init__(
        self,
        portal: Portal,
        checker: LoginChecker,
        host_keys: Callable[[], HostKeys],
        *,
        reactor: Any,
        settings: LoginLimits | None = None,
    ) -> None:
        self.portal = portal
        self.checker = checker
        self.host_keys = host_keys
        self.reactor = reactor
        self.settings: LoginLimits = settings or Limits()
        self.services = {b"ssh-userauth": NodeUserAuth}
        self.changes = 0
        """How often what logins depend on was said to have changed."""
        self._connections: set[NodeTransport] = set()
        self._logging_in: dict[NodeTransport, None] = {}
        """Those without a login yet, the oldest first."""
        self.broken = Sample(STRANGERS_PER_MINUTE, reactor.seconds)
        """Connections without a login that were ended for what came of them."""
        self._crowded = Sample(1, reactor.seconds)
        self._gone: list[Deferred[None]] = []
        self._stopping = False

    def startFactory(self) -> None:
        """Nothing to load: Conch's own looks for key files and moduli."""

    def buildProtocol(  # type: ignore[override]  # None is Factory's own way to refuse
        self, addr: IAddress | None
    ) -> NodeTransport | None:
        return None if self._stopping else Factory.buildProtocol(self, addr)

    # --- what connections call -----------------------------------------------------------------

    def connection_service(self) -> SSHService:
        """``ssh-connection`` for a login that has just succeeded."""
        return SSHConnection()

    def connection_made(self, connection: NodeTransport) -> None:
        self._connections.add(connection)
        self._logging_in[connection] = None
        if len(self._logging_in) > self.settings.max_logging_in:
            oldest = next(iter(self._logging_in))
            del self._logging_in[oldest]
            if self._crowded.is_told():
                self._log.warn(
                    "{address}: ended, too many are logging in{more}",
                    event="node.crowded", address=oldest.address, more=self._crowded.left_out(),
                )
            oldest.end("too_many", b"too many are logging in")

    def showed_no_certificate(self, connection: NodeTransport, login: str, tried: Sequence[str]) -> None:
        """A connection has ended in which nothing but *tried* was offered for *login*."""
        self._log.info("{address}: login {login}: no certificate, tried {tried}", event="node.no_certificate",
                       address=connection.address, login=plain(login, 64), tried=", ".join(tried))

    def logged_in(self, connection: NodeTransport) -> None:
        self._logging_in.pop(connection, None)

    def connection_lost(self, connection: NodeTransport) -> None:
        self._connections.discard(connection)
        self._logging_in.pop(connection, None)
        if not self._connections:
            gone, self._gone = self._gone, []
            for waiter in gone:
                waiter.callback(None)

    def policy_changed(self) -> None:
        """What logins depend on has changed; a login under way hears of it."""
        self.changes += 1

    # --- end -------------------------------------------------------------------------------------

    async def end_connections(self, reason: str, text: bytes) -> None:
        """Takes no connection any more, ends all there are, and returns when they are gone."""
        self._stopping = True
        if self._connections:
            gone: Deferred[None] = Deferred()
            self._gone.append(gone)
            for connection in list(self._connections):
                connection.end(reason, text)
            await gone
