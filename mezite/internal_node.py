"""The auth server's own SSH node: its settings, its keys, and what it follows."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from mezite.admin.listener import Listener
from mezite.auth.context import Transaction
from mezite.auth.node import HOST_CERTIFICATE_TTL, certify_node, node_host_keys
from mezite.config.server import SshConfig
from mezite.core_services import CoreServices
from mezite.places import read_cas
from mezite.ssh.cluster import ClusterAccess, Rules
from mezite.ssh.factory import MAX_FILES, MAX_LOGGING_IN, NodeService, NodeSettings, make_factory
from mezite.ssh.hostkeys import HostKeys, host_keys

_log = Logger()


@implementer(IStreamServerEndpoint)
class _Endpoint:
    """The socket *listening*, which its owner closes."""

    def __init__(self, reactor: Any, listening: socket.socket) -> None:
        self._reactor = reactor
        self._listening = listening

    def listen(self, factory: Any) -> Deferred[Any]:
        factory.doStart()
        port = _Port(Listener(self._reactor, self._listening, factory), factory)
        return succeed(port)


class _Port:
    """What a :class:`NodeService` stops."""

    def __init__(self, listener: Listener, factory: Any) -> None:
        self._listener = listener
        self._factory = factory
        listener.start()

    def stopListening(self) -> Deferred[None]:
        self._listener.stop()
        self._factory.doStop()
        return succeed(None)


class InternalNode:
    """Its *service* serves the socket *listening* as soon as it starts."""

    recertify_every = HOST_CERTIFICATE_TTL / 7

    def __init__(
        self, ssh: SshConfig, core: CoreServices, reactor: Any, listening: socket.socket,
        passphrase: bytes | None,
    ) -> None:
        self._ssh = ssh
        self._core = core
        self._held = core.storage.write(lambda tx: node_host_keys(tx, passphrase)).result()
        self._shown: HostKeys = {}
        self._certified(core.storage.write(self._certify).result())
        self._access = ClusterAccess(core.context, self._read, core.record)
        factory = make_factory(
            _settings(ssh), self._access, lambda: self._shown, reactor=reactor, clock=core.clock
        )
        self.service = NodeService(_Endpoint(reactor, listening), factory)

    def _certify(self, tx: Transaction) -> list[bytes]:
        return certify_node(self._core.context, tx, self._ssh.node_name, self._ssh.host_names, self._held)

    def _certified(self, certificates: list[bytes]) -> None:
        self._shown = host_keys(zip(self._held, certificates, strict=True))

    def _read(self, use_case: Callable[[Transaction], Rules]) -> Deferred[Rules]:
        return self._core.doorway.deferred(self._core.storage.read(use_case))

    def recertify(self) -> Deferred[None]:
        """New host certificates, from the next connection on; never fails."""
        renewed: Deferred[Any] = self._core.doorway.deferred(self._core.storage.write(self._certify))
        return renewed.addCallback(self._certified).addErrback(self._not_certified)

    def _not_certified(self, failure: Any) -> None:
        _log.error(
            "the node's host certificate could not be renewed: {why}",
            event="node.host_certificate_failed", why=failure.getErrorMessage(),
        )

    def authorities_changed(self) -> Deferred[None]:
        """Other CAs are trusted, or another one signs host certificates."""
        self.changed(frozenset({"authorities"}))
        return self.recertify()

    def changed(self, topics: frozenset[str]) -> None:
        """Somebody has changed these: the next login, and live sessions, are judged anew."""
        if self._access.forget(topics):
            self.service.policy_changed()


def _settings(ssh: SshConfig) -> NodeSettings:
    for path in ssh.trusted_user_ca_keys:
        read_cas(path)  # a fault at the start is the starter's to hear of
    return NodeSettings(
        node_name=ssh.node_name,
        labels=ssh.labels,
        authorization=ssh.authorization,
        trusted_user_ca_files=ssh.trusted_user_ca_keys,
        authorized_principals_file=ssh.authorized_principals_file,
        revoked_keys=ssh.revoked_keys,
        exec=ssh.exec,
        run_as=ssh.run_as,
        sftp_server=ssh.sftp_server,
        end_sessions_at_expiry=ssh.end_sessions_at_expiry,
        max_logging_in=_at_most(MAX_LOGGING_IN, _STRANGERS_PART),
        max_files=_at_most(MAX_FILES, _USERS_PART),
    )


_STRANGERS_PART = 3
"""A third of the files that the process may have open; as many are for the port of machines."""
_USERS_PART = 4
"""A quarter; the rest is left for the database and the operators."""


def _at_most(most: int, part: int) -> int:
    """*most*, and of the files that the process may have open no more than this part."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files == resource.RLIM_INFINITY else min(most, files // part)
