"""The auth server's composition root: ``twistd mezite-auth``.

twistd calls ``makeService``, forks, then starts what came of it.  So nothing
here touches the database, a key or gRPC before ``privilegedStartService``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage

import mezite
from mezite import logs, supervision
from mezite.config.server import STOP_GRACE, ServerConfig, SshConfig
from mezite.core.audit import AuditEvent
from mezite.core.model import Node
from mezite.errors import MeziteError
from mezite.supervision import ServiceManager

_log = Logger()
T = TypeVar("T")


class Options(usage.Options):
    """What ``twistd mezite-auth`` takes; the rest is in the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "Mezite's auth server: joins machines, renews their SSH certificates, and locks stolen ones. "
        "Without --config it reads /etc/mezite/mezite.yaml if there is one, and serves on port 3025."
    )
    optParameters = [["config", "c", None, "Configuration file (YAML); see docs/operations.md."]]

    def __init__(self) -> None:
        _install_asyncio_reactor()
        super().__init__()

    def opt_version(self) -> None:
        """Print Mezite's version and exit."""
        sys.stdout.write(f"mezite {mezite.__version__}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        path = self["config"]
        try:
            config = ServerConfig.load(Path(path) if path else None, os.environ, os.geteuid())
        except MeziteError as error:
            # twistd would print its whole usage above a UsageError.
            sys.stderr.write(f"mezite-auth: {error}\n")
            raise SystemExit(2) from None
        self["loaded"] = config
        parent = self.parent
        if parent is not None and not parent.get("logger") and not parent.get("syslog"):
            path = parent["logfile"] or ("-" if parent["nodaemon"] else "twistd.log")
            logs.configure(config.log_level, config.log_format, path)
            parent["logger"] = "mezite.logs.configured"


def _install_asyncio_reactor() -> None:
    """gRPC's asyncio server and Twisted share one loop, so this reactor or none."""
    from twisted.internet import asyncioreactor

    if "twisted.internet.reactor" not in sys.modules:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
    from twisted.internet import reactor

    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise usage.UsageError("mezite-auth needs the asyncio reactor: start twistd without --reactor")
    asyncio.set_event_loop(reactor._asyncioEventloop)
    # Twisted's timers follow the wall clock: set back by an hour, it would stop them for an hour.
    reactor.seconds = time.monotonic


def makeService(options: Options) -> IService:
    """The service that twistd starts after it has forked."""
    from twisted.internet import reactor

    return AuthServer(options["loaded"], reactor)


def _now() -> datetime:
    return datetime.now(UTC)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AuthServer(MultiService):
    """Everything the auth server is, made when it starts and gone when it stops."""

    def __init__(self, config: ServerConfig, reactor: Any) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        # twistd closes it before our services start, when it daemonizes.
        self._stderr: TextIO | None = os.fdopen(os.dup(2), "w")
        self._manager = ServiceManager()
        self._loops: list[tuple[float, LoopingCall]] = []
        self._closers: list[Callable[[], object]] = []

    def privilegedStartService(self) -> None:
        """Opens, loads and binds everything.  A :class:`MeziteError` is told in
        one line on standard error, and ends twistd with exit code 1."""
        try:
            self._compose()
            super().privilegedStartService()
        except MeziteError as error:
            self._close_all()
            _log.critical("{error}", error=error)
            if self._stderr is not None:
                self._stderr.write(f"mezite-auth: {' '.join(str(error).split())}\n")
                self._stderr.flush()
            sys.excepthook = _quiet_excepthook
            raise
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _compose(self) -> None:
        # Before gRPC loads: the node's commands are forks that exec at once, of
        # which gRPC need not know (it would log a line for each).
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
        # Its own log speaks to its authors; what matters comes as an error.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from mezite.admin.auth_methods import auth_methods
        from mezite.admin.protocol import SocketService
        from mezite.auth import authorities, restore
        from mezite.auth.context import Context, Transaction
        from mezite.auth.timekeeping import HEARTBEAT, ClockGuard
        from mezite.database import open_database
        from mezite.lockfile import LockFile
        from mezite.places import make_data_dir
        from mezite.rpc.auth_api import AuthApi
        from mezite.rpc.leaf import IssuedLeaf, LeafFiles
        from mezite.rpc.refusals import RefusalLog
        from mezite.rpc.service import AuthRpcService, LeafSource, tls_names
        from mezite.threads import Doorway
        from mezite.upkeep import Upkeep

        config = self._config
        loop = self._reactor._asyncioEventloop
        make_data_dir(config.data_dir)
        lock = LockFile(config.data_dir / "lock", f"the data directory {config.data_dir}")
        self._closers.append(lock.release)
        self._doorway = doorway = Doorway()
        database = open_database(config.database, config.data_dir, doorway.deliver)
        self._closers.append(database.close)
        storage = database.storage

        def create(tx: Transaction) -> bool:
            return authorities.create_cluster(
                tx, config.cluster_name, passphrase=config.ca_key_passphrase, now=_now(), random=os.urandom
            )

        def load(tx: Transaction) -> tuple[Any, authorities.LoadedAuthorities]:
            guard.load(tx)
            return (
                authorities.load_cluster(tx, config.public_addr),
                authorities.load_authorities(tx, config.ca_key_passphrase, os.urandom),
            )

        guard = ClockGuard(_now, _boottime)
        if storage.write(create).result():
            _log.info("first start: the cluster and its authorities have been made in {where}",
                      where=database.where)
        cluster, loaded = storage.read(load).result()
        height = database.height(cluster.uuid)
        last_commit = guard.last_seen
        storage.write(guard.commit).result()
        fault = guard.fault()
        if fault is not None:
            _log.error("{fault}; joins and renewals are refused until the clock is right, or an operator "
                       "says that it is: mezctl status --accept-clock", fault=fault)
        if not loaded.encrypted:
            _log.warn("the CA keys lie unencrypted in {where}; set ca_key_passphrase_file to encrypt "
                      "new ones", where=database.where)
        if config.database.is_unproven:
            _log.warn("nothing proves the database at {where}; set database.sslmode to verify-full",
                      where=database.where)
        nodes = (Node(config.ssh.node_name, config.ssh.public_addr, config.ssh.labels),) if config.ssh else ()
        context = Context(
            cluster=cluster,
            authorities=lambda: loaded.current,
            nodes=lambda: nodes,
            clock=_now,
            random=os.urandom,
        )
        old = storage.write(
            lambda tx: restore.begin(
                context, tx, last_commit, clock_is_good=fault is None, mark=height,
                has_mark=database.mark is not None,
            )
        ).result()
        if old is not None:
            _log.error("{old}", old=str(old))

        def record(event: AuditEvent) -> None:
            """Fire and forget: what it tells of has happened, whatever becomes of the row."""
            def write(tx: Transaction) -> None:
                tx.add_event(event)

            written = doorway.deferred(storage.write(write, concurrent=True))
            written.addErrback(self._not_recorded, event)

        async def run(use_case: Callable[[Transaction], T], *, write: bool) -> T:
            submit = storage.write if write else storage.read
            return await doorway.deferred(submit(use_case))

        def run_rpc(use_case: Callable[[Transaction], T]) -> asyncio.Future[T]:
            return doorway.awaitable(storage.write(use_case, concurrent=True))

        leaf: IssuedLeaf | LeafFiles
        if config.tls_certificate and config.tls_key:
            leaf = LeafFiles(config.tls_certificate, config.tls_key)
        else:
            names = tls_names(config.public_host, config.listen_host, cluster.name)
            leaf = IssuedLeaf(lambda: loaded, names, _now, os.urandom)
        refusals = RefusalLog()
        rpc = AuthRpcService(
            self._reactor,
            loop,
            config.listen_host,
            config.listen_port,
            api=AuthApi(context, run_rpc, record, guard.fault, refusals),
            leaf=LeafSource(leaf.current),
            grace=STOP_GRACE,
            serving=self._serving,
        )
        rpc.setServiceParent(self)
        methods = auth_methods(
            context, run, guard=guard, refusals=refusals.counts, encrypted=loaded.encrypted
        )
        SocketService(
            self._reactor, config.admin_socket, methods, group=config.admin_group
        ).setServiceParent(self)
        if config.ssh is not None:
            self._compose_node(config.ssh, context, storage, record)
        upkeep = Upkeep(
            context, storage, doorway, guard, config.audit_keep,
            reactor=self._reactor, is_serving=lambda: rpc.is_serving, mark=database.noted,
        )
        if config.diag is not None:
            from mezite.diagnostics import DiagnosticsService

            DiagnosticsService(self._reactor, *config.diag, upkeep.not_ready_reason).setServiceParent(self)
        self._every(HEARTBEAT.total_seconds(), upkeep.beat)
        self._every(config.prune_every.total_seconds(), upkeep.prune)
        self._every(60, leaf.refresh)

    def _compose_node(self, ssh: SshConfig, context: Any, storage: Any, record: Any) -> None:
        """The internal SSH node, listening as soon as it starts."""
        from twisted.internet.endpoints import AdoptedStreamServerEndpoint

        from mezite.auth.context import Transaction
        from mezite.auth.node import HOST_CERTIFICATE_TTL, certify_node, node_host_keys
        from mezite.certs import keys
        from mezite.places import listen, read_cas
        from mezite.ssh.cluster import ClusterAccess, Rules
        from mezite.ssh.factory import NodeService, NodeSettings, make_factory
        from mezite.ssh.hostkeys import HostKeys, host_keys

        passphrase = self._config.ca_key_passphrase

        def load_keys(tx: Transaction) -> list[keys.PrivateKey]:
            return node_host_keys(tx, passphrase)

        held = storage.write(load_keys).result()
        shown: HostKeys = {}

        def certify(tx: Transaction) -> list[bytes]:
            return certify_node(context, tx, ssh.node_name, ssh.host_names, held)

        def certified(certificates: list[bytes]) -> None:
            nonlocal shown
            shown = host_keys(zip(held, certificates, strict=True))

        def recertify() -> Deferred[None]:
            renewed: Deferred[Any] = self._doorway.deferred(storage.write(certify))
            return renewed.addCallbacks(certified, self._not_certified)

        certified(storage.write(certify).result())

        def read(use_case: Callable[[Transaction], Rules]) -> Deferred[Rules]:
            return self._doorway.deferred(storage.read(use_case))

        access = ClusterAccess(context, read, record)
        settings = NodeSettings(
            node_name=ssh.node_name,
            labels=ssh.labels,
            authorization=ssh.authorization,
            trusted_user_ca_keys=tuple(key for path in ssh.trusted_user_ca_keys for key in read_cas(path)),
            authorized_principals_file=ssh.authorized_principals_file,
            revoked_keys=ssh.revoked_keys,
            exec=ssh.exec,
            run_as=ssh.run_as,
            sftp_server=ssh.sftp_server,
            end_sessions_at_expiry=ssh.end_sessions_at_expiry,
        )
        factory = make_factory(settings, access, lambda: shown, reactor=self._reactor, clock=_now)
        listening = listen(ssh.listen_host, ssh.listen_port)
        endpoint = AdoptedStreamServerEndpoint(self._reactor, listening.fileno(), listening.family)
        self._closers.append(listening.close)
        node = NodeService(endpoint, factory)
        node.setServiceParent(self)

        def changed(topics: frozenset[str]) -> None:
            if access.forget(topics):
                node.policy_changed()

        storage.subscribe(changed)
        self._every(HOST_CERTIFICATE_TTL.total_seconds() / 7, recertify)
        host, port = listening.getsockname()[:2]
        _log.info("SSH node {name} on {host}:{port}", name=ssh.node_name, host=host, port=port)

    def _not_certified(self, failure: Any) -> None:
        _log.error("the node's host certificate could not be renewed: {why}", why=failure.getErrorMessage())

    def _every(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        looping = LoopingCall(call, *args)
        looping.clock = self._reactor
        self._loops.append((seconds, looping))

    def _not_recorded(self, failure: Any, event: AuditEvent) -> None:
        _log.error("audit event {event} could not be written: {why}",
                   event=event.type.event_name, why=failure.getErrorMessage())

    def _serving(self) -> None:
        """Everything listens: whatever systemd orders after this unit may start."""
        self._manager.tell(supervision.READY, supervision.status("serving machines"))

    def startService(self) -> None:
        self._manager = manager = ServiceManager.from_environment(os.environ, os.getpid())
        if manager.watchdog is not None:
            self._every(manager.watchdog.total_seconds() / 3, manager.tell, supervision.ALIVE)
        self._doorway.open(self._reactor, self._reactor._asyncioEventloop)
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._terminated)
        super().startService()
        for seconds, looping in self._loops:
            started = looping.start(seconds, now=False)
            started.addErrback(self._loop_failed)

    def _terminated(self, number: int, frame: object) -> None:
        """Being told to stop is no failure: twistd's own handler would exit by the signal."""
        self._reactor.callFromThread(self._stop_once)

    def _stop_once(self) -> None:
        if self._reactor.running and not self._reactor._stopped:
            _log.info("told to stop (SIGTERM): calls in flight get {seconds:g} s",
                      seconds=STOP_GRACE.total_seconds())
            self._reactor.stop()

    def _loop_failed(self, failure: Any) -> None:
        _log.failure("a periodic task has ended", failure)

    def stopService(self) -> Deferred[None]:
        self._manager.tell(supervision.STOPPING)
        for _, looping in self._loops:
            if looping.running:
                looping.stop()
        stopped: Deferred[Any] = super().stopService()
        return stopped.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        self._doorway.close()
        self._close_all()
        return result

    def _close_all(self) -> None:
        while self._closers:
            self._closers.pop()()


def _quiet_excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error that has been told in one line needs no traceback below it."""
    if not isinstance(error, MeziteError):
        sys.__excepthook__(kind, error, trace)
