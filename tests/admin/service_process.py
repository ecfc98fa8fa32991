"""A process with Twisted's own reactor and a SocketService, for test_service.

``python -m tests.admin.service_process PATH [GROUP]``: prints ``ready`` when it
listens, ends cleanly when its standard input does, and prints what is left.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

asyncioreactor.install()

from twisted.internet import reactor, stdio, task  # noqa: E402  # after the reactor is chosen
from twisted.internet.protocol import Protocol  # noqa: E402

from mezite.admin import protocol  # noqa: E402
from mezite.admin.protocol import Caller, SocketService  # noqa: E402
from mezite.errors import MeziteError  # noqa: E402


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def slow(caller: Caller, params: Mapping[str, Any]) -> str:
    say("slow begins")
    await task.deferLater(reactor, 0.2, str)
    return "slow"


def main() -> None:
    path = Path(sys.argv[1])
    protocol.LOOK_SECONDS = 0.1
    methods = {"who": lambda caller, params: str(caller), "slow": slow}
    service = SocketService(reactor, path, methods, group=sys.argv[2] if len(sys.argv) > 2 else None)

    class Ended(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            service.stopService().addCallback(stopped)

    def stopped(_: None) -> None:
        say("left", path.exists(), len(reactor.getDelayedCalls()))
        reactor.stop()

    def started() -> None:
        service.startService()
        say("ready")

    try:
        service.privilegedStartService()
    except MeziteError as error:
        say(error)
        raise SystemExit(1) from None
    stdio.StandardIO(Ended())
    reactor.callWhenRunning(started)
    reactor.run()


if __name__ == "__main__":
    main()
