"""The gRPC service alone, as a process: few file descriptors, and a person at its signal.

Prints its port and its server CA (PEM) as one JSON line; on SIGUSR1 how many
descriptors are open; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet import asyncioreactor

FILES = 256


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor

    from mezite.rpc.auth_api import AuthApi
    from mezite.rpc.leaf import IssuedLeaf
    from mezite.rpc.refusals import RefusalLog
    from mezite.rpc.service import AuthRpcService, LeafSource
    from tests.harness import Auth

    auth = Auth()
    auth.now = datetime.now(UTC)

    async def run(prepare, finish):  # type: ignore[no-untyped-def]
        return finish(auth.write(prepare()))

    leaf = IssuedLeaf(lambda: auth.loaded, ("127.0.0.1",), lambda: auth.now, auth.random)
    service = AuthRpcService(
        reactor, loop, "127.0.0.1", 0,
        api=AuthApi(auth.context, run, lambda event: None, lambda: None, RefusalLog()),
        leaf=LeafSource(leaf.current),
        grace=timedelta(seconds=2),
    )
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    token = auth.add_token(auth.add_bot(), uses=100)
    pem = leaf.current()[1].decode()

    def tell(document: object) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    def started() -> None:
        loop.add_signal_handler(signal.SIGUSR1, lambda: tell(len(list(Path("/proc/self/fd").iterdir()))))
        tell({"port": service.bound_port, "chain": pem, "token": token.to_text()})

    reactor.callWhenRunning(started)
    reactor.run()


if __name__ == "__main__":
    main()
