"""One worker: ``python -m mezite.worker NUMBER``, started by the head (workers.py) and by nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mezite.storage.interface import SHARED_TOPICS
from mezite.workers import REPORTS, read_configuration

REPORT_EVERY_S = 1.0


class Reports:
    """Tells the head what has changed and what was counted, one JSON object a line on *descriptor*.

    Never waits for the head, which may be stopped or slow: what does not fit into the pipe is
    told when there is room, topics once however often they have changed, and of the facts the last.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, facts: Callable[[], Mapping[str, object]]
    ) -> None:
        os.set_blocking(descriptor, False)
        self._loop = loop
        self._descriptor = descriptor
        self._facts = facts
        self._topics: frozenset[str] = frozenset()
        self._line = self._told = b""
        self._rest = b""
        """Of a line that the head has the beginning of."""

    def changed(self, topics: frozenset[str]) -> None:
        """At once: the node of the head, and the other workers, wait for it."""
        # Not of instances, of which nobody keeps anything: that is each renewal.
        if not topics.isdisjoint(SHARED_TOPICS):
            self._topics |= topics & SHARED_TOPICS
            self._write()

    def tell(self) -> None:
        self._line = _line(self._facts())
        self._write()

    def _write(self) -> None:
        """As much as the pipe takes is written; the rest when it takes more."""
        try:
            while self._rest or self._next():
                self._rest = self._rest[os.write(self._descriptor, self._rest):]
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._write)
            return
        except OSError:
            self._rest = b""  # the head is gone, which standard input tells
        self._loop.remove_writer(self._descriptor)

    def _next(self) -> bool:
        """Whether there is a line to be told: it is what is left then."""
        if self._topics:
            self._rest, self._topics = _line({"topics": sorted(self._topics)}), frozenset()
        elif self._line != self._told:
            self._rest = self._told = self._line
        return bool(self._rest)


def _line(report: Mapping[str, object]) -> bytes:
    return json.dumps(report).encode() + b"\n"


def listen_to_head(
    loop: asyncio.AbstractEventLoop, changed: Callable[[frozenset[str]], None], stop: Callable[[], object]
) -> None:
    """Lines of topics come from the head, and the end of standard input when it dies."""
    rest = b""

    def readable() -> None:
        nonlocal rest
        data = os.read(0, 65536)
        if not data:
            loop.remove_reader(0)
            stop()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            changed(frozenset(json.loads(line)))

    loop.add_reader(0, readable)


def main() -> int:
    # A terminal sends these to the whole group; the head decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = read_configuration(0)
    except EOFError as error:
        sys.stderr.write(f"mezite.worker: {error}; workers are started by twistd mezite-auth\n")
        return 1
    from twisted.logger import globalLogBeginner

    from mezite import logs, tap
    from mezite.config.server import STOP_GRACE
    from mezite.errors import MeziteError
    from mezite.stopping import StopSignal
    from mezite.tap_options import install_asyncio_reactor

    install_asyncio_reactor()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    logs.take_python_logging()
    globalLogBeginner.beginLoggingTo(
        [logs.observer(config.log_level, "json", sys.stdout)], redirectStandardIO=False
    )
    # Not watched while it starts: until then a worker holds nothing that its end could harm.
    stop = StopSignal(STOP_GRACE)
    server = tap.AuthServer(config, reactor, worker=int(sys.argv[1]), stop=stop)
    try:
        server.privilegedStartService()
    except MeziteError:
        return 1  # it has been logged
    reports = Reports(reactor._asyncioEventloop, REPORTS, lambda: {
        "serving": server.is_serving, "waiting": server.waiting, "requests": server.meter.as_json(),
    })
    server.storage.subscribe(reports.changed)
    server.every(REPORT_EVERY_S, reports.tell)
    server.startService()
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    listen_to_head(reactor._asyncioEventloop, server.changed_elsewhere, stop.stop)
    reactor.run(installSignalHandlers=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
