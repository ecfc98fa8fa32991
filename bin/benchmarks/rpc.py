"""Renewals and joins on the real server process, beside empty calls on a bare one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.empty_server import METHOD
from benchmarks.machines import Caller, Load, Machine, Target, load
from benchmarks.measure import AT_MOST, Limit, Row, Table
from benchmarks.server import AuthServer, auth_server, bare_process, free_port
from mezite.certs import keys
from mezite.certs.x509 import certificate_pem, create_server_ca, issue_leaf
from mezite.core.request import TokenText
from mezite.proto.mezite.v1 import identity_pb2 as pb

CONNECTIONS = (1, 64)
_KEPT = Limit(AT_MOST, 2.5)
_FRESH = Limit(AT_MOST, 1.4)
_UNITS = (
    ("cpu_us", "CPU in the server", "µs per request"),
    ("per_second", "throughput, with the clients on the same machine", "requests/s"),
    ("p50_ms", "latency at the client, median", "ms"),
    ("p99_ms", "latency at the client, 99 of 100 are faster", "ms"),
)


@contextmanager
def empty_server(directory: Path, answer_bytes: int) -> Iterator[tuple[Target, int]]:
    """Where it is, and its process id."""
    ca_key, now, port = keys.generate_key(), datetime.now(UTC), free_port()
    ca = create_server_ca(ca_key, "bench", "b" * 36, now=now, serial=1)
    key, chain = issue_leaf(ca_key, ca, ["127.0.0.1"], now=now, ttl=timedelta(days=1), serial=2)
    (directory / "leaf.key").write_bytes(key)
    (directory / "chain.pem").write_bytes(chain)
    with bare_process(directory, "empty_server", str(port), directory, str(answer_bytes)) as process:
        yield Target(port, certificate_pem(ca)), process.pid


async def fleet(server: AuthServer, size: int) -> tuple[Target, list[Machine]]:
    """Where the server is, and machines that have joined it."""
    token = TokenText.from_text(server.new_bot("bench", 100_000))
    (_, chain) = await asyncio.to_thread(_presented_chain, server.port)
    target = Target(server.port, chain)
    caller = Caller(target, fresh=False)
    cluster = pb.GetClusterResponse.FromString(await caller("/mezite.v1.IdentityService/GetCluster", b""))
    machines = [Machine(cluster.cluster_uuid, token) for _ in range(size)]
    for machine in machines:
        await machine.join(caller)
    await caller.close()
    return target, machines


def _presented_chain(port: int) -> tuple[bytes, bytes]:
    """The leaf and the CA that the server presents, PEM: our own server needs no proof here."""
    import socket

    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"h2"])
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.settimeout(None)
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        connection.do_handshake()
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        connection.close()
    leaf, ca = (certificate_pem(one) for one in chain)
    return leaf, ca


def measure(quick: bool) -> list[Table]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    rounds, seconds = (1, 0.35) if quick else (5, 2.0)
    with auth_server() as server:
        server.put_role("deploy")
        return asyncio.run(_measure(server, rounds, seconds))


async def _measure(server: AuthServer, rounds: int, seconds: float) -> list[Table]:
    target, machines = await fleet(server, max(CONNECTIONS))
    caller = Caller(target, fresh=False)
    await machines[0].renew(caller)
    await caller.close()
    sent, got = machines[0].sizes
    payload = bytes(sent)

    async def empty(caller: Caller) -> None:
        if len(await caller(METHOD, payload)) != got:
            raise RuntimeError("the empty server gave something else")

    found: dict[tuple[str, bool, int], list[Load]] = {}
    with empty_server(server.root, got) as (empty_target, empty_pid):
        for _ in range(rounds):
            for fresh in (False, True):
                for size in CONNECTIONS:
                    some = machines[:size]
                    sides = {
                        "empty": (empty_target, empty_pid, [empty] * size),
                        "renewal": (target, server.pid, [machine.renew for machine in some]),
                        "join": (target, server.pid, [one.another().join for one in some]),
                    }
                    for kind, (where, pid, works) in sides.items():
                        loaded = await load(where, pid, works, fresh=fresh, seconds=seconds)
                        found.setdefault((kind, fresh, size), []).append(loaded)
    limits = {("renewal", False): _KEPT, ("renewal", True): _FRESH}
    tables = []
    for field, title, unit in _UNITS:
        rows = []
        for kind in ("renewal", "join"):
            for fresh in (False, True):
                for size in CONNECTIONS:
                    rows.append(
                        Row(
                            f"{kind}, {'fresh TLS' if fresh else 'kept'}, {size} at once",
                            [getattr(one, field) for one in found[kind, fresh, size]],
                            "an empty grpc.aio call of the same sizes over the same kind of connection",
                            [getattr(one, field) for one in found["empty", fresh, size]],
                            limits.get((kind, fresh)) if field == "cpu_us" else None,
                        )
                    )
        tables.append(Table(title, unit, rows))
    tables[0] = Table(
        tables[0].title, tables[0].unit, tables[0].rows, [f"a renewal is {sent} bytes, its answer {got}"]
    )
    return tables
