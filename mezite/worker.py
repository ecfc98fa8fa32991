"""One worker: ``python -m mezite.worker NUMBER``, started by the head (workers.py) and by nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mezite.workers import REPORTS, read_configuration

REPORT_EVERY_S = 1.0


class Reports:
    """Tells the head what has changed, as one JSON line; never waits for it."""

    def __init__(self, facts: Callable[[], Mapping[str, object]]) -> None:
        self._facts = facts
        self._told = ""

    def changed(self, topics: frozenset[str]) -> None:
        """At once: the node of the head, and the other workers, wait for it."""
        with contextlib.suppress(OSError):
            os.write(REPORTS, json.dumps({"topics": sorted(topics)}).encode() + b"\n")

    def tell(self) -> None:
        line = json.dumps(self._facts()) + "\n"
        if line != self._told:
            with contextlib.suppress(OSError):
                os.write(REPORTS, line.encode())
                self._told = line


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
    reports = Reports(lambda: {
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
