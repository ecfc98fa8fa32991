"""Resident memory of the server and the daemon, beside bare processes that were used alike."""

from __future__ import annotations

import asyncio
import os

from benchmarks.empty_server import METHOD
from benchmarks.machines import Caller, Machine, Target, load
from benchmarks.measure import AT_MOST, Limit, Row, Table, resident_mb
from benchmarks.rpc import empty_server, fleet
from benchmarks.server import AuthServer, auth_server, bare_process
from mezite.admin.client import connect
from tests.system.processes import wait_for

CONNECTIONS = 64


def measure(quick: bool) -> list[Table]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    rounds, renewals, requests = (1, 20, 300) if quick else (3, 100, 2_000)
    found = [_round(renewals, requests) for _ in range(rounds)]
    columns = {key: [one[key] for one in found] for key in found[0]}
    empty = "an empty gRPC server, likewise"
    bare = "a bare process with Twisted, cryptography, one used gRPC channel"
    return [
        Table(
            "resident memory", "MB",
            [
                Row("server, just started", columns["server"], empty, columns["empty"]),
                Row(f"server, after {requests:,} renewals over {CONNECTIONS} connections",
                    columns["server used"], empty, columns["empty used"]),
                Row(f"server, after {2 * requests:,}", columns["server used more"]),
                Row(f"daemon, idle after {renewals} renewals", columns["daemon"], bare, columns["bare"],
                    Limit(AT_MOST, 1.15)),
                Row(f"daemon, idle after {2 * renewals}", columns["daemon used more"],
                    f"the same after {renewals}", columns["daemon"], Limit(AT_MOST, 1.02)),
            ],
            ["each round with processes of its own"],
        )
    ]


def _round(renewals: int, requests: int) -> dict[str, float]:
    with auth_server() as server:
        server.put_role("deploy")
        found = {"server": resident_mb(server.pid)}
        found.update(asyncio.run(_server_round(server, requests)))
        found.update(_daemon_round(server, renewals))
        return found


async def _server_round(server: AuthServer, requests: int) -> dict[str, float]:
    target, machines = await fleet(server, CONNECTIONS)
    (server.root / "ca.pem").write_bytes(target.ca_pem)
    found = {}

    async def empty(caller: Caller) -> None:
        await caller(METHOD, bytes(1200))

    async def use(where: Target, pid: int, machines: list[Machine] | None) -> float:
        works = [machine.renew for machine in machines] if machines else [empty] * CONNECTIONS
        await load(where, pid, works, fresh=False, seconds=600, most=requests)
        return resident_mb(pid)

    with empty_server(server.root, 1400) as (empty_target, empty_pid):
        found["empty"] = resident_mb(empty_pid)
        found["empty used"] = await use(empty_target, empty_pid, None)
    found["server used"] = await use(target, server.pid, machines)
    found["server used more"] = await use(target, server.pid, machines)
    return found


def _daemon_round(server: AuthServer, renewals: int) -> dict[str, float]:
    machine = server.machine()
    daemon = machine.daemon(f"--join-token={server.new_bot('daemon')}", "--renewal-interval=30m")
    control = machine.destination / ".mezite" / "control.sock"
    wait_for(lambda: (machine.destination / "ssh_key-cert.pub").exists() and control.exists(), "identity")
    client = connect([control], remedy="")

    def renew(until: int) -> float:
        """After the daemon has renewed until this generation."""
        while (generation := client.call("identity.status")["generation"]) < until:
            if client.call("identity.renew")["generation"] <= generation:
                raise RuntimeError("a renewal gave no new generation")
        return resident_mb(daemon.pid)

    with bare_process(server.root, "bare_client", str(server.port), server.root / "ca.pem") as bare:
        found = {"daemon": renew(renewals + 1), "bare": resident_mb(bare.pid)}
    found["daemon used more"] = renew(2 * renewals + 1)
    client.close()
    return found
