"""The auth server's composition root: ``twistd mezite-auth``.

twistd calls ``makeService``, forks, then starts what came of it.  So nothing
here touches the database, a key or gRPC before ``privilegedStartService``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from msgspec.structs import replace
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mezite import logs, supervision
from mezite.config.server import STOP_GRACE, ServerConfig, SshConfig
from mezite.errors import MeziteError
from mezite.metering import RequestMeter
from mezite.reloading import ReloadSignal
from mezite.stopping import StopSignal, ToldToStop
from mezite.supervision import ServiceManager
from mezite.tap_options import Options, line

if TYPE_CHECKING:
    from mezite.core_services import CoreServices
    from mezite.storage.interface import Storage

FOLLOW_CLOCK_S = 2.0

_log = Logger()


class Machines(Protocol):
    """Whatever serves machines: this process, or workers."""

    @property
    def is_serving(self) -> bool: ...
    @property
    def refusals(self) -> Mapping[str, int]: ...
    @property
    def meter(self) -> RequestMeter: ...
    @property
    def waiting(self) -> int: ...
    def setServiceParent(self, parent: MultiService) -> None: ...


def makeService(options: Options) -> IService:
    """The service that twistd starts after it has forked."""
    from twisted.internet import reactor

    return AuthServer(options["loaded"], reactor, stop=options.stop, reload=options.reload)


class AuthServer(MultiService):
    """Everything the auth server is, made when it starts and gone when it stops.

    *worker* is the number of a worker process (workers.py), which serves machines
    and nothing else; 0 in the process that twistd started.
    """

    def __init__(
        self, config: ServerConfig, reactor: Any, worker: int = 0, *, stop: StopSignal,
        reload: ReloadSignal | None = None,
    ) -> None:
        super().__init__()
        self._stop, self._reload_signal = stop, reload
        self._config = config
        self._worker = worker
        self._reactor = reactor
        # twistd closes it before our services start, when it daemonizes.
        self._stderr: TextIO | None = os.fdopen(os.dup(2), "w")
        self._manager = ServiceManager()
        self._loops: list[tuple[float, LoopingCall]] = []
        self._closers: list[Callable[[], object]] = []
        self._reloads: list[Callable[[], object]] = []
        self._listeners: list[Callable[[frozenset[str]], None]] = []

    def privilegedStartService(self) -> None:
        """Opens, loads and binds everything, unless it is told to stop meanwhile.  A
        :class:`MeziteError` is told in one line on standard error, and ends twistd with exit code 1."""
        try:
            self._compose()
            self._stop.check()
            super().privilegedStartService()
        except ToldToStop:
            pass  # twistd goes on, and stops as soon as its reactor runs
        except MeziteError as error:
            self._close_all()
            _log.critical("{error}", event="server.failed", error=error, code=error.code)
            if self._stderr is not None and not logs.is_json_on_output():
                self._stderr.write(line(error))
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
        from mezite.core_services import CoreServices
        from mezite.places import lock_data_dir, make_data_dir

        config = self._config
        lock = None
        self._stop.check()
        if not self._worker:
            make_data_dir(config.data_dir)
            lock = lock_data_dir(config.data_dir)
            self._closers.append(lock.release)
        self._core = core = CoreServices(config, self._reactor, self._worker)
        self._closers += core.close, core.doorway.close
        self._stop.check()
        # First, so that nothing is missed between the two.
        self.subscribe(core.changed)
        core.load()
        self._stop.check()
        if lock is None or config.workers == 1:
            self._machines: Machines = self._compose_rpc(core)
        else:
            self._machines = self._compose_workers(lock.descriptor)
        self._machines.setServiceParent(self)
        if lock is not None:
            self._compose_head(core)

    def _compose_rpc(self, core: CoreServices) -> Machines:
        """Machines are served by this process."""
        from mezite.rpc.auth_api import AuthApi
        from mezite.rpc.leaf import IssuedLeaf, LeafFiles
        from mezite.rpc.refusals import RefusalLog
        from mezite.rpc.service import AuthRpcService, LeafSource, tls_names

        config = self._config
        leaf: IssuedLeaf | LeafFiles
        if config.tls_certificate and config.tls_key:
            leaf = LeafFiles(config.tls_certificate, config.tls_key, core.clock)
        else:
            names = tls_names(config.public_host, config.listen_host, core.context.cluster.name)
            leaf = IssuedLeaf(lambda: core.loaded, names, core.clock, os.urandom)
        self.every(60, leaf.refresh)
        self._reloads.append(leaf.refresh)
        core.when_reloaded.append(leaf.refresh)
        if self._worker:
            self.every(FOLLOW_CLOCK_S, core.follow_clock)
        refusals, meter = RefusalLog(), RequestMeter()
        return AuthRpcService(
            self._reactor,
            self._reactor._asyncioEventloop,
            config.listen_host,
            config.listen_port,
            api=AuthApi(
                core.context, core.run_rpc, core.record, core.guard.fault, refusals, config.limits,
                meter=meter,
            ),
            leaf=LeafSource(leaf.current),
            refusals=refusals.counts,
            meter=meter,
            grace=STOP_GRACE,
            serving=self._serving,
            is_shared=bool(self._worker),
        )

    def _compose_workers(self, lock: int) -> Machines:
        """Machines are served by processes that this one looks after."""
        from mezite.places import reserve_port
        from mezite.workers import WorkerSupervisor

        config = self._config
        reserved = reserve_port(config.listen_host, config.listen_port)
        self._closers.append(reserved.close)
        supervisor = WorkerSupervisor(
            self._reactor, config.workers, replace(config, listen_port=reserved.getsockname()[1]),
            lock=lock, environ=os.environ, grace=STOP_GRACE,
            serving=self._serving, changed=self.changed_elsewhere,
        )
        self._core.storage.subscribe(supervisor.tell_changed)
        self._reloads.append(supervisor.reload)
        return supervisor

    def _compose_head(self, core: CoreServices) -> None:
        """What there is once, however many processes serve machines."""
        from mezite.admin.auth_methods import auth_methods
        from mezite.admin.backup_methods import backup_methods
        from mezite.admin.ca_methods import ca_methods
        from mezite.admin.protocol import SocketService
        from mezite.admin.status_methods import ServerFacts, status_methods
        from mezite.auth.timekeeping import HEARTBEAT
        from mezite.upkeep import Upkeep

        config, machines = self._config, self._machines
        upkeep = Upkeep(
            core.context, core.storage, core.doorway, core.guard, config.audit_keep,
            reactor=self._reactor, is_serving=lambda: machines.is_serving, mark=core.database.noted,
        )
        methods = auth_methods(core.context, core.run)
        methods |= status_methods(core.context, core.run, core.guard, ServerFacts(
            started_at=core.clock(),
            workers=config.workers,
            driver=config.database.driver,
            database=str(core.database.file or core.database.where),
            refusals=lambda: machines.refusals,
            is_encrypted=lambda: core.loaded.encrypted,
            not_ready_reason=upkeep.not_ready_reason,
        ))
        methods |= ca_methods(core.context, core.run, config.ca_key_passphrase, core.reload_authorities)
        methods |= backup_methods(core.context, core.run, core.database.back_up, config.data_dir)
        SocketService(
            self._reactor, config.admin_socket, methods, group=config.admin_group, data_dir=config.data_dir
        ).setServiceParent(self)
        if config.ssh is not None:
            self._compose_node(config.ssh, core)
        if config.diag is not None:
            from mezite.diagnostics import DiagnosticsService
            from mezite.server_metrics import ServerMetrics

            metrics = ServerMetrics(core, machines, upkeep.not_ready_reason)
            DiagnosticsService(
                self._reactor, *config.diag, upkeep.not_ready_reason, metrics.collect
            ).setServiceParent(self)
        self.every(HEARTBEAT.total_seconds(), upkeep.beat)
        self.every(config.prune_every.total_seconds(), upkeep.prune)

    def _compose_node(self, ssh: SshConfig, core: CoreServices) -> None:
        from mezite.internal_node import InternalNode
        from mezite.places import listen

        listening = listen(ssh.listen_host, ssh.listen_port)
        self._closers.append(listening.close)
        node = InternalNode(ssh, core, self._reactor, listening, self._config.ca_key_passphrase)
        node.service.setServiceParent(self)
        self.subscribe(node.changed)
        core.when_reloaded.append(node.authorities_changed)
        self.every(node.recertify_every.total_seconds(), node.recertify)
        host, port = listening.getsockname()[:2]
        _log.info(
            "SSH node {name} on {host}:{port}",
            event="node.listening", name=ssh.node_name, host=host, port=port,
        )

    @property
    def storage(self) -> Storage:
        return self._core.storage

    def subscribe(self, listener: Callable[[frozenset[str]], None]) -> None:
        """*listener* gets the topics that any process of this server has changed."""
        self._listeners.append(listener)
        self._core.storage.subscribe(listener)

    def changed_elsewhere(self, topics: frozenset[str]) -> None:
        """Another process of this server has changed these."""
        for listener in self._listeners:
            listener(topics)

    @property
    def is_serving(self) -> bool:
        return self._machines.is_serving

    @property
    def meter(self) -> RequestMeter:
        """What was answered since the start."""
        return self._machines.meter

    @property
    def waiting(self) -> int:
        return self._machines.waiting

    def every(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        looping = LoopingCall(call, *args)
        looping.clock = self._reactor
        self._loops.append((seconds, looping))

    def _serving(self) -> None:
        """Everything listens: whatever systemd orders after this unit may start."""
        self._manager.tell(supervision.READY, supervision.status("serving machines"))

    def startService(self) -> None:
        self._manager = manager = ServiceManager.from_environment(os.environ, os.getpid())
        if manager.watchdog is not None:
            self.every(manager.watchdog.total_seconds() / 3, manager.tell, supervision.ALIVE)
        self._stop.hand_over(self._reactor)
        if self._stop.came:
            # What is bound is let go of by stopService; nothing else has to start for that.
            Service.startService(self)
            return
        self._core.open_doorway()
        if self._reload_signal is not None:
            self._reload_signal.hand_over(self._reactor, self._reload)
        super().startService()
        for seconds, looping in self._loops:
            started = looping.start(seconds, now=False)
            started.addErrback(self._loop_failed)

    def _reload(self) -> None:
        """TLS files are read again, and workers replaced one by one; calls under way are finished."""
        for reload in self._reloads:
            reload()

    def _loop_failed(self, failure: Any) -> None:
        _log.failure("a periodic task has ended", failure, event="server.task_ended")

    def stopService(self) -> Deferred[None]:
        self._manager.tell(supervision.STOPPING)
        for _, looping in self._loops:
            if looping.running:
                looping.stop()
        stopped: Deferred[Any] = super().stopService()
        return stopped.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        self._close_all()
        return result

    def _close_all(self) -> None:
        while self._closers:
            self._closers.pop()()


def _quiet_excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error that has been told in one line needs no traceback below it."""
    if not isinstance(error, MeziteError):
        sys.__excepthook__(kind, error, trace)
