"""The client against a real gRPC server: what it says, what it trusts, what it raises."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from mezite.certs import keys
from mezite.certs.x509 import SERVER_NAME
from mezite.core.request import Issued, JoinRequest, RenewRequest
from mezite.errors import (
    InvalidInput,
    MeziteError,
    Reason,
    Refused,
    Unreachable,
    UntimelyServer,
    UntrustedServer,
)
from mezite.rpc.client import AuthClient, ServerTrust
from tests.harness import Auth, Machine, Pending
from tests.rpc.serving import Ca, Servicer, serving


@pytest.fixture
def auth() -> Iterator[Auth]:
    auth = Auth()
    yield auth
    auth.close()


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca()


Talk = Callable[[AuthClient], Awaitable[Any]]


def talk(servicer: Servicer, ca: Ca, what: Talk, trust: ServerTrust | None = None, **leaf: Any) -> Any:
    """What *what* does with a client of *servicer*; its exception, where it raises one."""
    patience = timedelta(seconds=1 if servicer.mode == "hang" else 60)

    async def both() -> Any:
        async with serving(servicer, ca.leaf("127.0.0.1", **leaf)) as port:
            known = trust or ServerTrust.from_cas([ca.certificate])
            async with AuthClient(f"127.0.0.1:{port}", known, patience) as client:
                try:
                    return await what(client)
                except Exception as error:
                    return error

    return asyncio.run(both())


def joining(auth: Auth, machine: Machine, token: Any) -> Talk:
    async def join(client: AuthClient) -> Issued:
        request, _ = machine.join_request(token)
        cluster = await client.get_cluster()
        return await client.join(
            request, lambda data: keys.sign(machine.pending.lineage, data), cluster.uuid
        )

    return join


def test_join_and_renew(auth: Auth, ca: Ca) -> None:
    machine = Machine(auth)
    servicer = Servicer(auth)
    token = auth.add_token(auth.add_bot())
    issued = machine.accept(talk(servicer, ca, joining(auth, machine, token)))
    assert (issued.generation, issued.bot) == (1, "github-deploy")

    async def renew(client: AuthClient) -> Issued:
        request, _ = machine.renew_request()
        uuid = issued.trust.cluster_uuid
        return await client.renew(request, lambda data: keys.sign(machine.lineage, data), uuid)

    assert machine.accept(talk(servicer, ca, renew)).generation == 2


def test_get_cluster(auth: Auth, ca: Ca) -> None:
    cluster = talk(Servicer(auth), ca, lambda client: client.get_cluster())
    assert (auth.context.cluster.uuid, "example", auth.now) == (
        cluster.uuid, cluster.name, cluster.server_time
    )


@pytest.mark.parametrize(("mode", "kind"), [("", Refused), ("internal", MeziteError)])
def test_an_error_that_is_kept_keeps_no_connection_open(
    auth: Auth, ca: Ca, mode: str, kind: type[MeziteError]
) -> None:
    """A daemon keeps it until it asks again, a quarter of an hour later at the most; the server has
    100 KB for each connection."""
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    auth.advance(hours=2)

    async def kept() -> MeziteError:
        is_closed = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """To the server, until the client closes."""
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            answers = asyncio.ensure_future(pump(back, writer))
            await pump(reader, forth)
            is_closed.set()
            forth.close()
            await answers
            writer.close()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)

        async with serving(Servicer(auth, mode), ca.leaf("127.0.0.1")) as port:
            between = await asyncio.start_server(relay, "127.0.0.1", 0)
            address = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
            with pytest.raises(MeziteError) as caught:
                async with AuthClient(address, ServerTrust.from_cas([ca.certificate])) as client:
                    await joining(auth, machine, token)(client)
            await asyncio.wait_for(is_closed.wait(), 30)
            between.close()
            return caught.value

    gc.collect()
    gc.disable()  # nobody can wait for it
    try:
        error = asyncio.run(kept())
    finally:
        gc.enable()
    assert isinstance(error, kind)


def test_refusals_arrive_whole(auth: Auth, ca: Ca) -> None:
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    auth.advance(hours=2)
    refused = talk(Servicer(auth), ca, joining(auth, machine, token))
    assert isinstance(refused, Refused)
    assert (refused.reason, token.id in str(refused)) == (Reason.TOKEN_EXPIRED, True)


def test_a_proof_is_the_same_body_over_the_nonce(auth: Auth, ca: Ca) -> None:
    """The server answers a late request with a nonce, and the same request over it locks."""
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    thief = machine.copy()
    thief.pending = Pending()
    thief.renew()
    servicer = Servicer(auth)
    request, _ = machine.renew_request()
    uuid = auth.context.cluster.uuid

    async def renew_and_prove(client: AuthClient) -> Refused:
        def sign(data: bytes) -> bytes:
            return keys.sign(machine.lineage, data)

        with pytest.raises(Refused) as asked:
            await client.renew(request, sign, uuid)
        assert asked.value.reason is Reason.PROVE
        with pytest.raises(Refused) as final:
            await client.renew(request, sign, uuid, asked.value.nonce)
        return final.value

    assert Reason.GENERATION_MISMATCH is talk(servicer, ca, renew_and_prove).reason
    assert servicer.bodies[0] == servicer.bodies[1]


def anything(auth: Auth) -> Talk:
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    request, _ = machine.renew_request()
    assert isinstance(request, RenewRequest)

    async def renew(client: AuthClient) -> Issued:
        return await client.renew(request, lambda data: b"x", "uuid")

    return renew


@pytest.mark.parametrize(("mode", "kind"), [("hang", Unreachable), ("internal", Unreachable),
                                           ("garbage", InvalidInput)])
def test_broken_servers(auth: Auth, ca: Ca, mode: str, kind: type[Exception]) -> None:
    found = talk(Servicer(auth, mode), ca, anything(auth))
    assert isinstance(found, kind), found
    assert "\n" not in str(found)


def test_nobody_there(auth: Auth, ca: Ca) -> None:
    async def ask() -> Any:
        async with serving(Servicer(auth), ca.leaf()) as port:
            pass
        async with AuthClient(f"127.0.0.1:{port}", ServerTrust.from_cas([ca.certificate])) as client:
            return await client.get_cluster()

    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+: connection refused"):
        asyncio.run(ask())


# --- trust ---------------------------------------------------------------------------------


def test_another_ca_is_not_trusted_and_gets_nothing(auth: Auth, ca: Ca) -> None:
    servicer = Servicer(auth)
    other = ServerTrust.from_cas([Ca().certificate])
    found = talk(servicer, ca, anything(auth), other)
    assert isinstance(found, UntrustedServer), found
    assert servicer.bodies == []


@pytest.mark.parametrize(("hours", "told"), [(-5, "any more"), (120, "yet")])
def test_a_leaf_of_another_time_is_not_trusted(auth: Auth, ca: Ca, hours: int, told: str) -> None:
    """And told apart from that of another server: a clock is set right, a stranger stays one."""
    when = {"start": timedelta(hours=hours), "ttl": timedelta(hours=1)}
    servicer, try_it = Servicer(auth), anything(auth)
    found = talk(servicer, ca, try_it, **when)
    assert isinstance(found, UntimelyServer), found
    assert f"not valid {told}, by this machine's clock" in str(found)
    found = talk(servicer, ca, try_it, ServerTrust.from_cas([Ca(name="elsewhere").certificate]), **when)
    assert isinstance(found, UntrustedServer)
    assert not isinstance(found, UntimelyServer), found
    assert servicer.bodies == []


def test_any_of_several_cas_will_do(auth: Auth, ca: Ca) -> None:
    """As in the middle of a rotation."""
    both = ServerTrust.from_cas([Ca().certificate, ca.certificate])
    assert talk(Servicer(auth), ca, lambda client: client.get_cluster(), both).name == "example"


def test_any_address_of_the_server_will_do_with_its_own_ca(auth: Auth, ca: Ca) -> None:
    async def ask() -> Any:
        async with serving(Servicer(auth), ca.leaf("elsewhere.example")) as port:
            trust = ServerTrust.from_cas([ca.certificate])
            async with AuthClient(f"localhost:{port}", trust) as client:
                return await client.get_cluster()

    assert asyncio.run(ask()).name == "example"


def test_other_cas_vouch_for_the_name_in_the_address_only(auth: Auth, ca: Ca) -> None:
    roots = ca.certificate.public_bytes(Encoding.PEM)

    async def ask(*names: str) -> Any:
        async with (
            serving(Servicer(auth), ca.leaf(*names)) as port,
            AuthClient(f"localhost:{port}", ServerTrust(roots, None)) as client,
        ):
            return await client.get_cluster()

    assert asyncio.run(ask("localhost")).name == "example"
    with pytest.raises(UntrustedServer, match="another name"):
        asyncio.run(ask("elsewhere.example"))


def test_trust_from_files(ca: Ca) -> None:
    pem = ca.certificate.public_bytes(Encoding.PEM)
    assert ServerTrust.from_cas([ca.certificate]) == ServerTrust.from_pem(pem, "ca.pem")
    assert ServerTrust.from_pem(pem, "ca.pem").name == SERVER_NAME
    for wrong in (b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", b"\xff\0"):
        with pytest.raises(InvalidInput, match=r"ca\.pem"):
            ServerTrust.from_pem(wrong, "ca.pem")
    with pytest.raises(UntrustedServer):
        ServerTrust.from_cas([])


def test_secrets_are_not_in_the_repr(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    request, _ = Machine(auth).join_request(token)
    assert isinstance(request, JoinRequest)
    assert token.secret not in repr(request)
