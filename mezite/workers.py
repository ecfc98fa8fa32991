"""Several processes that serve machines on one port (``auth.workers``), and who starts them.

Python runs one thread at a time, so one process serves machines with one core.
With workers, the process that twistd started (the *head*) keeps the operators'
socket, the node, diagnostics and upkeep; each worker serves gRPC on the same
port (SO_REUSEPORT: the kernel deals out the connections) from the same data.

A worker has from its head: on its standard input the configuration, then the
topics of what others have changed, and at last its end, by which a worker whose
head has died stops; and the lock of the data directory, so that no second head
starts beside workers that are left.  It gives back its log on standard output,
and on REPORTS, one JSON object a line, whether it serves, what it has
counted, and the topics of what it has changed.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from msgspec import Struct, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mezite.metering import RequestMeter
from mezite.storage.interface import SHARED_TOPICS

REPORTS = 3
"""File descriptor of a worker on which it reports."""
LOCK = 4
"""File descriptor of a worker that holds the data directory's lock."""

MAX_LINE = 256 * 1024
SOONEST_RESTART = timedelta(seconds=1)
LATEST_RESTART = timedelta(seconds=30)
SETTLED_AFTER = timedelta(seconds=10)
"""A worker that has served for so long is started again at once when it dies."""
_LENGTH = struct.Struct(">I")

_log = Logger()


class _Lines(LineOnlyReceiver):
    """Hands over each line, without its end; what comes without an end is dropped with the stream."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.makeConnection(_Deaf())

    def lineReceived(self, line: bytes) -> None:
        self._take(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._take(line[:MAX_LINE])


class _Deaf:
    """The transport that LineOnlyReceiver wants; nothing is sent."""

    disconnecting = False

    def loseConnection(self) -> None: ...


class Worker(Struct):
    """One place among the workers, and the process that holds it now."""

    number: int
    process: _Process | None = None
    started_at: float = 0.0
    delay: float = SOONEST_RESTART.total_seconds()
    restart: Any = None
    requests: RequestMeter = field(default_factory=RequestMeter)
    """Of the processes that held this place before."""


class _Process(ProcessProtocol):
    """The head's end of one worker process."""

    transport: Any

    def __init__(
        self, number: int, configuration: bytes, reported: Callable[[], None],
        changed: Callable[[int, list[str]], None],
    ) -> None:
        self.number = number
        self.is_serving = False
        self.told_to_end = False
        self.requests: Mapping[str, Any] = {}
        self.waiting = 0
        self.serving: Deferred[bool] = Deferred()
        """Fires with whether it came to serve, or died before that."""
        self.ended: Deferred[BaseException | None] = Deferred()
        """Fires with how it ended."""
        self._configuration = configuration
        self._reported = reported
        self._changed = changed
        self._streams = {1: _Lines(self._logged), 2: _Lines(self._complained), REPORTS: _Lines(self._report)}

    def connectionMade(self) -> None:
        self.transport.write(_LENGTH.pack(len(self._configuration)) + self._configuration)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._streams[childFD].dataReceived(data)

    def _logged(self, line: bytes) -> None:
        """A line of its log is one of ours, with its level."""
        try:
            told = json.loads(line)
            level = LogLevel.lookupByName(told["level"])
            message = "\n".join(filter(None, (told["message"], told.get("traceback"))))
            source = told["source"]
            event, fields = told["event"], told.get("fields", {})
        except (ValueError, KeyError, TypeError):
            self._complained(line)
            return
        log = Logger(namespace=source)
        log.emit(level, "worker {worker}: {message}", worker=self.number, message=message, event=event,
                 fields=fields)

    def _complained(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip()
        if text:
            _log.warn("worker {worker}: {line}", event="worker.output", worker=self.number, line=text)

    def _report(self, line: bytes) -> None:
        report = json.loads(line)
        if "topics" in report:
            self._changed(self.number, report["topics"])
        self.requests = report.get("requests", self.requests)
        self.waiting = report.get("waiting", self.waiting)
        if report.get("serving") and not self.is_serving:
            self.is_serving = True
            self._reported()
            self._came_up(True)

    def tell_changed(self, topics: list[str]) -> None:
        """Another process has changed these."""
        self.transport.write(json.dumps(topics).encode() + b"\n")

    def _came_up(self, up: bool) -> None:
        if not self.serving.called:
            self.serving.callback(up)

    def end(self, name: str) -> None:
        """Sends the signal *name*; that it ends by it is no accident."""
        self.told_to_end = True
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def processEnded(self, reason: Failure) -> None:
        self.is_serving = False
        self._came_up(False)
        # Not the Failure: a Deferred takes one for an error of its own.
        self.ended.callback(reason.value)


class WorkerSupervisor(Service):
    """Keeps *count* workers with *configuration* running.

    One that dies, or cannot be started, is started again, at once if it had settled,
    else after a growing pause.  Stopping waits for all of them: they get *grace* for calls in
    flight, and are killed when they take two seconds more.  *serving* is called
    once all of them serve, *changed* with the topics of what a worker has changed.
    """

    def __init__(
        self, reactor: Any, count: int, configuration: object, *, lock: int,
        environ: Mapping[str, str], grace: timedelta, serving: Callable[[], None],
        changed: Callable[[frozenset[str]], None],
    ) -> None:
        self._reactor = reactor
        self._configuration = pickle.dumps(configuration)
        self._lock = lock
        # What the service manager hears, it hears from the head.
        self._environ = {name: value for name, value in environ.items()
                         if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
        self._grace = grace
        self._serving = serving
        self._changed = changed
        self._workers = [Worker(number) for number in range(1, count + 1)]
        self._told_serving = False
        self._reloading: Deferred[None] | None = None

    @property
    def is_serving(self) -> bool:
        """Whether machines are served, by one worker at least."""
        return any(one.process is not None and one.process.is_serving for one in self._workers)

    @property
    def refusals(self) -> Counter[str]:
        """How often which refusal was given, by all workers since the head's start."""
        return self.meter.refusals()

    @property
    def meter(self) -> RequestMeter:
        """What all workers have answered since the head's start."""
        total = RequestMeter()
        for one in self._workers:
            total.add(one.requests.as_json())
            if one.process is not None:
                total.add(one.process.requests)
        return total

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet, by the last reports."""
        return sum(one.process.waiting for one in self._workers if one.process is not None)

    def startService(self) -> None:
        super().startService()
        for worker in self._workers:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        worker.restart = None
        worker.started_at = self._reactor.seconds()
        worker.process = process = _Process(
            worker.number, self._configuration, self._reported, self._changed_by
        )
        process.ended.addCallback(self._ended, worker)
        try:
            self._reactor.spawnProcess(
                process,
                sys.executable,
                [sys.executable, "-m", "mezite.worker", str(worker.number)],
                env=self._environ,
                childFDs={0: "w", 1: "r", 2: "r", REPORTS: "r", LOCK: self._lock},
            )
        except OSError as error:  # out of files, of processes, of memory: later there may be some
            process.processEnded(Failure(error))

    def _reported(self) -> None:
        if not self._told_serving and all(
            one.process is not None and one.process.is_serving for one in self._workers
        ):
            self._told_serving = True
            self._serving()

    def _changed_by(self, number: int, topics: list[str]) -> None:
        self._changed(frozenset(topics))
        self.tell_changed(frozenset(topics), number)

    def tell_changed(self, topics: frozenset[str], but: int = 0) -> None:
        """All workers but one hear that *topics* have changed."""
        for worker in self._workers:
            if worker.process is not None and worker.number != but:
                worker.process.tell_changed(sorted(topics))

    def _ended(self, how: BaseException | None, worker: Worker) -> None:
        process, worker.process = worker.process, None
        if process is not None:
            worker.requests.add(process.requests)
            # It may have committed what it did not live to tell of.
            self._changed_by(worker.number, sorted(SHARED_TOPICS))
        if not self.running or process is None:
            return
        pause, lived = 0.0, self._reactor.seconds() - worker.started_at
        if process.told_to_end or lived >= SETTLED_AFTER.total_seconds():
            worker.delay = SOONEST_RESTART.total_seconds()
        else:
            pause, worker.delay = worker.delay, min(2 * worker.delay, LATEST_RESTART.total_seconds())
        if not process.told_to_end:
            _log.error("worker {worker} {fate} ({why}); it is started again in {pause:g} s",
                       event="worker.died", worker=worker.number, pause=pause, why=_why(how),
                       fate="could not be started" if isinstance(how, OSError) else "has died")
        if pause:
            worker.restart = self._reactor.callLater(pause, self._start, worker)
        else:
            self._start(worker)

    def reload(self) -> Deferred[None]:
        """Every worker is replaced, one after another, so that the port is served throughout;
        until one does not come to serve, by which the next would be lost as well."""
        if self._reloading is None:
            self._reloading = Deferred.fromCoroutine(self._replace_all())
            self._reloading.addBoth(self._reloaded)
        return self._reloading

    async def _replace_all(self) -> None:
        for worker in self._workers:
            if not self.running:
                return
            old = worker.process
            if old is not None:
                old.end("TERM")
                kill = self._kill_later(old)
                await _fork(old.ended)
                _cancel(kill)
            elif worker.restart is not None:
                _cancel(worker.restart)
                self._start(worker)
            new = worker.process
            if (new is None or not await _fork(new.serving)) and self.running:
                _log.error("worker {worker} does not start: the other workers are left as they are",
                           event="worker.not_replaced", worker=worker.number)
                return

    def _reloaded(self, result: Any) -> Any:
        self._reloading = None
        return result

    def _kill_later(self, process: _Process) -> Any:
        return self._reactor.callLater(self._grace.total_seconds() + 2, process.end, "KILL")

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        waited = []
        for worker in self._workers:
            _cancel(worker.restart)
            if worker.process is not None:
                kill = self._kill_later(worker.process)
                worker.process.ended.addBoth(_then_cancel, kill)
                waited.append(worker.process.ended)
                worker.process.end("TERM")
        return DeferredList(waited)


def _why(how: BaseException | None) -> str:
    if isinstance(how, OSError):
        return str(how.strerror)
    signal = getattr(how, "signal", None)
    return f"signal {signal}" if signal else f"exit code {getattr(how, 'exitCode', '?')}"


def _cancel(call: Any) -> None:
    if call is not None and call.active():
        call.cancel()


def _then_cancel(result: Any, call: Any) -> Any:
    _cancel(call)
    return result


def _fork(deferred: Deferred[Any]) -> Deferred[Any]:
    """Fires with the result of *deferred*, and leaves it to others."""
    forked: Deferred[Any] = Deferred()

    def share(result: Any) -> Any:
        forked.callback(result)
        return result

    deferred.addBoth(share)
    return forked


def read_configuration(descriptor: int) -> Any:
    """In the worker: what the head wrote, which is our own program's and trusted."""
    with open(descriptor, "rb", buffering=0, closefd=False) as stream:
        def exactly(size: int) -> bytes:
            data = b""
            while len(data) < size:
                part = stream.read(size - len(data))
                if not part:
                    raise EOFError("the head has gone")
                data += part
            return data

        (length,) = _LENGTH.unpack(exactly(_LENGTH.size))
        return pickle.loads(exactly(length))
