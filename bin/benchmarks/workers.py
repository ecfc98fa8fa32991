"""How renewals grow with workers.

The clients share the machine's cores with the server, so that on a small machine
they would be what is measured.  Where control groups allow it each worker
therefore gets a third of a core, as if cores were three times slower; a process
that is made to wait while it holds the database makes the others wait with it, so
that this shows less growth than there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.machines import Load, Machine, Target, load
from benchmarks.measure import AT_LEAST, Limit, Row, Table
from benchmarks.rpc import fleet
from benchmarks.server import AuthServer, auth_server
from tests.system.processes import wait_for

COUNTS = (1, 2, 4)
MACHINES = 64
PERIOD_US = 10_000
QUOTA_US = 3_300
_ROOT = Path("/sys/fs/cgroup")


@contextmanager
def slowed(pids: Sequence[int], name: str) -> Iterator[bool]:
    """Each of *pids* gets a third of a core; whether that could be done."""
    with ExitStack() as groups:
        try:
            for pid in pids:
                group = _group(f"{name}-{pid}")
                groups.callback(group.rmdir)
                groups.callback(_leave, pid)
                (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            yield False
        else:
            yield True


def _group(name: str) -> Path:
    """A control group with the quota (cgroup v1's cpu controller, else v2)."""
    first = _ROOT / "cpu"
    group = (first if first.is_dir() else _ROOT) / name
    group.mkdir()
    if first.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
    else:
        (group / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
    return group


def _leave(pid: int) -> None:
    first = _ROOT / "cpu"
    with contextlib.suppress(OSError):
        ((first if first.is_dir() else _ROOT) / "cgroup.procs").write_text(str(pid))


def _serving(server: AuthServer) -> int:
    assert server.server is not None
    return server.server.text().count("machines are served")


def measure(quick: bool) -> list[Table]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    rounds, seconds = (1, 1.0) if quick else (5, 4.0)
    with ExitStack() as stack:
        servers = [stack.enter_context(auth_server(workers=count)) for count in COUNTS]
        quotas = []
        for count, server in zip(COUNTS, servers, strict=True):
            server.put_role("deploy")
            wait_for(lambda: _serving(server) == count, f"{count} workers that serve")  # noqa: B023
            quotas.append(stack.enter_context(slowed(server.pids, f"mezite-bench-{os.getpid()}")))
        found = asyncio.run(_measure(servers, rounds, seconds))
    with_quota = all(quotas)
    return _tables(found, with_quota)


async def _measure(servers: Sequence[AuthServer], rounds: int, seconds: float) -> list[list[Load]]:
    fleets: list[tuple[Target, list[Machine]]] = [await fleet(server, MACHINES) for server in servers]
    found: list[list[Load]] = [[] for _ in servers]
    for number in range(rounds):
        order = list(range(len(servers)))
        for index in order if number % 2 == 0 else reversed(order):
            target, machines = fleets[index]
            works = [machine.renew for machine in machines]
            # A connection stays with its worker; fresh ones are dealt out anew.
            found[index].append(await load(target, servers[index].pids, works, fresh=True, seconds=seconds))
    return found


def _tables(found: list[list[Load]], with_quota: bool) -> list[Table]:
    base = found[0]
    note = (
        "each worker has a third of a core, so that the clients are not what is measured"
        if with_quota
        else "no control groups here: workers and clients share the machine, so this is no measure of growth"
    )
    rows, costs = [], []
    for count, loads in zip(COUNTS, found, strict=True):
        what = f"{count} workers" if count > 1 else "1 worker"
        compared = base if count > 1 else []
        against = "one worker" if compared else ""
        limit = Limit(AT_LEAST, 1.6) if count == 2 and with_quota else None
        rows.append(
            Row(what, [one.per_second for one in loads], against, [one.per_second for one in compared], limit)
        )
        costs.append(Row(what, [one.cpu_us for one in loads], against, [one.cpu_us for one in compared]))
    return [
        Table(f"renewals, fresh TLS, {MACHINES} at once", "renewals/s", rows, [note]),
        Table("CPU of all workers", "µs per renewal", costs),
    ]
