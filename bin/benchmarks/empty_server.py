"""An empty gRPC server in the process that our auth server is, too: Twisted's asyncio reactor, TLS
with a P-256 leaf below a P-256 CA, the same options.

``python -m benchmarks.empty_server PORT DIRECTORY ANSWER_BYTES``

Its one method takes bytes and gives bytes, and does nothing.  It keeps no
interceptor, health service or changing leaf: what ours does more, it pays for.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

METHOD = "/bench.Empty/Call"


def main() -> None:
    port, directory, answer = sys.argv[1], Path(sys.argv[2]), bytes(int(sys.argv[3]))
    pair = ((directory / "leaf.key").read_bytes(), (directory / "chain.pem").read_bytes())
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred

    reactor: Any = installed
    import grpc.aio

    from mezite.rpc.service import _OPTIONS

    server: grpc.aio.Server | None = None

    async def call(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return answer

    async def serve() -> None:
        nonlocal server
        server = grpc.aio.server(options=_OPTIONS)
        service, method = METHOD.strip("/").split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(call)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
        await Deferred.fromFuture(asyncio.ensure_future(server.start(), loop=loop))
        print("ready", flush=True)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(serve()))
    reactor.run()


if __name__ == "__main__":
    main()
