"""A process with Twisted's asyncio reactor, cryptography and one gRPC channel that has been used
once over TLS, idle from then on: what the daemon's memory is compared with.

``python -m benchmarks.bare_client PORT CA_FILE``, against the auth server.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import asyncioreactor

USED = (x509, serialization, ec)


def main() -> None:
    ca_pem = Path(sys.argv[2]).read_bytes()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred

    reactor: Any = installed
    import grpc.aio

    async def call() -> None:
        credentials = grpc.ssl_channel_credentials(ca_pem)
        options = [("grpc.ssl_target_name_override", "auth.mezite.internal")]
        channel = grpc.aio.secure_channel(f"127.0.0.1:{sys.argv[1]}", credentials, options=options)
        answer = channel.unary_unary("/mezite.v1.IdentityService/GetCluster", None, None)(b"", timeout=30)
        await Deferred.fromFuture(asyncio.ensure_future(answer, loop=loop))
        await Deferred.fromFuture(asyncio.ensure_future(channel.close(None), loop=loop))
        print("ready", flush=True)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(call()))
    reactor.run()


if __name__ == "__main__":
    main()
