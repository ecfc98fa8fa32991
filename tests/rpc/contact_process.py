"""A process with Twisted's reactor on asyncio: first contacts, and whole requests through them.

It prints one JSON object, case → outcome, for test_client_contact.  (Such a
reactor cannot be taken down again, so it needs a process of its own.)
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)

from twisted.internet import reactor  # noqa: E402  # after the reactor is chosen
from twisted.internet.defer import Deferred  # noqa: E402

from mezite.certs import keys  # noqa: E402
from mezite.core.request import Issued, Trust  # noqa: E402
from mezite.errors import MeziteError  # noqa: E402
from mezite.identity.remote import GrpcRemote, Known  # noqa: E402
from mezite.rpc.client import ServerTrust, pinned_ca  # noqa: E402
from tests.harness import Auth, Machine, Pending  # noqa: E402
from tests.rpc.serving import Ca, Servicer, serving  # noqa: E402

PATIENCE = timedelta(seconds=60)
SOON = timedelta(seconds=1)
"""Where there will be no answer."""
ca, other = Ca(), Ca()
auth = Auth()
bot = auth.add_bot()
cases: dict[str, Callable[[], Awaitable[object]]] = {}


def case(function: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    cases[function.__name__] = function
    return function


def contact(
    port: int, pin: str, host: str = "127.0.0.1", patience: timedelta = PATIENCE
) -> asyncio.Future[Any]:
    return asyncio.ensure_future(pinned_ca(host, port, pin, patience), loop=loop)


@case
async def finds_the_pinned_ca() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return await contact(port, ca.pin) == ca.certificate


@case
async def finds_it_by_name() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return await contact(port, ca.pin, "localhost") == ca.certificate


@case
async def refuses_another_ca() -> object:
    async with serving(Servicer(auth), other.leaf()) as port:
        return await contact(port, ca.pin)


@case
async def refuses_the_pinned_ca_over_a_foreign_leaf() -> object:
    """Whoever knows the CA's certificate, which is public, cannot pass for the server."""
    key, chain = other.leaf()
    leaf = chain.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    public = ServerTrust.from_cas([ca.certificate]).roots
    async with serving(Servicer(auth), (key, leaf + public)) as port:
        return await contact(port, ca.pin)


@case
async def nobody_is_there() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        pass
    return await contact(port, ca.pin)


@case
async def nobody_is_there_at_any_of_its_addresses() -> object:
    """A name that leads to several; asyncio then tells all failures in one."""

    async def both(host: str, port: int, **_: Any) -> list[Any]:
        found = []
        for address in ("127.0.0.1", "::1"):
            found += await loop.run_in_executor(
                None, lambda address=address: socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            )
        return found

    async with serving(Servicer(auth), ca.leaf()) as port:
        pass
    loop.getaddrinfo = both  # type: ignore[method-assign,assignment]
    try:
        return await contact(port, ca.pin, "both.example")
    finally:
        del loop.getaddrinfo


@case
async def nobody_has_the_name() -> object:
    return await contact(1, ca.pin, "nobody.invalid")


@asynccontextmanager
async def speaking(what: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
                   **options: Any) -> Any:
    server = await asyncio.start_server(what, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        # Not waited for: Python 3.12 would wait for connections that nobody closes.
        server.close()


@case
async def a_server_that_says_nothing() -> object:
    """The kernel takes the connection, and that is all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return await contact(listener.getsockname()[1], ca.pin, patience=SOON)


@case
async def a_server_of_plain_text() -> object:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()

    async with speaking(greet) as port:
        return await contact(port, ca.pin)


@case
async def a_server_that_hangs_up() -> object:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with speaking(leave) as port:
        return await contact(port, ca.pin)


@case
async def a_server_of_tls_1_2() -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as directory:
        key, chain = ca.leaf()
        (Path(directory) / "pem").write_bytes(key + chain)
        context.load_cert_chain(Path(directory) / "pem")

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with speaking(wait, ssl=context) as port:
        return await contact(port, ca.pin)


# --- whole requests ------------------------------------------------------------------------


def remote(port: int, **options: Any) -> GrpcRemote:
    return GrpcRemote(loop, "127.0.0.1", port, **options)


async def join(to: GrpcRemote, pin: str | None, machine: Machine | None = None) -> Issued:
    machine = machine or Machine(auth)
    request, _ = machine.join_request(auth.add_token(bot))
    known = Known(pin=pin)
    return await to.ask(
        request, lambda data: keys.sign(machine.pending.lineage, data), known, b""
    ).asFuture(loop)


async def renew(to: GrpcRemote, trust: Trust, pin: str | None = None) -> int:
    """The generation that a machine, joined for the purpose, gets."""
    machine = Machine(auth)
    machine.join(auth.add_token(bot))
    machine.pending = Pending()
    request, _ = machine.renew_request()
    answer = to.ask(
        request, lambda data: keys.sign(machine.lineage, data), Known(trust, pin), b""
    ).asFuture(loop)
    return (await answer).generation


def trust_in(*cas: Ca) -> Trust:
    from cryptography.hazmat.primitives.serialization import Encoding

    ders = tuple(one.certificate.public_bytes(Encoding.DER) for one in cas)
    return replace(auth.context.trust(), server_cas=ders)


@case
async def joins_by_the_pin() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return (await join(remote(port), ca.pin)).generation


@case
async def sends_nothing_to_a_server_of_another_pin() -> object:
    servicer = Servicer(auth)
    async with serving(servicer, other.leaf()) as port:
        try:
            await join(remote(port), ca.pin)
        except MeziteError as error:
            return [error.code, len(servicer.bodies)]


@case
async def a_pin_given_by_hand_replaces_the_tokens() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return (await join(remote(port, ca_pin=ca.pin), other.pin)).generation


@case
async def a_ca_given_by_hand_replaces_the_tokens_pin() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        given = ServerTrust.from_cas([ca.certificate])
        return (await join(remote(port, ca=given), other.pin)).generation


@case
async def a_wrong_ca_given_by_hand_is_not_made_good_by_the_token() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return await join(remote(port, ca=ServerTrust.from_cas([other.certificate])), ca.pin)


@case
async def without_anything_that_proves_the_server() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return await join(remote(port), None)


@case
async def renews_by_the_trust_of_the_identity() -> object:
    async with serving(Servicer(auth), ca.leaf()) as port:
        return await renew(remote(port), trust_in(other, ca))


@case
async def a_renewal_does_not_trust_a_strange_server() -> object:
    async with serving(Servicer(auth), other.leaf()) as port:
        return await renew(remote(port), trust_in(ca))


@case
async def a_new_token_vouches_for_a_server_set_up_anew() -> object:
    async with serving(Servicer(auth), other.leaf()) as port:
        return await renew(remote(port), trust_in(ca), other.pin)


@case
async def a_cancelled_request_is_over() -> object:
    async with serving(Servicer(auth, "hang"), ca.leaf()) as port:
        machine = Machine(auth)
        machine.join(auth.add_token(bot))
        request, _ = machine.renew_request()
        asked = remote(port).ask(request, lambda data: b"x", Known(trust_in(ca)), b"")
        asked.addErrback(lambda failure: failure.type.__name__)
        await asyncio.sleep(0)
        asked.cancel()
        return await asked.asFuture(loop)


async def everything() -> dict[str, object]:
    found: dict[str, object] = {}
    for name, function in cases.items():
        try:
            found[name] = await function()
        except MeziteError as error:
            found[name] = [error.code, str(error)]
        except Exception as error:
            found[name] = ["bug", repr(error)]
    return found


def main() -> None:
    def begin() -> None:
        asking = Deferred.fromFuture(asyncio.ensure_future(everything(), loop=loop))
        asking.addCallback(lambda found: sys.stdout.write(json.dumps(found)))
        asking.addErrback(lambda failure: sys.stderr.write(failure.getTraceback()))
        asking.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    auth.close()


if __name__ == "__main__":
    main()
