"""The primary dies under servers and daemons, its synchronous standby is promoted: with real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet.audit import check

from tests.system.processes import Cluster, wait_for
from tests.system.test_several_servers import addresses, generation

pytestmark = pytest.mark.postgres


@pytest.fixture
def databases() -> Iterator[tuple[Any, Any]]:
    """A primary and a standby that every commit waits for."""
    pytest.importorskip("psycopg", reason="needs psycopg (pip install 'mezite[postgres]')")
    from tests.postgres import MISSING, Postgres, binaries

    if binaries() is None:
        pytest.skip(MISSING)
    primary = Postgres()
    try:
        standby = Postgres(copy_of=primary)
        try:
            primary.wait_synchronous()
            yield primary, standby
        finally:
            standby.close()
    finally:
        primary.close()


def test_a_fleet_goes_on_after_a_failover(tmp_path: Path, databases: tuple[Any, Any]) -> None:
    """By the audit log of the promoted standby no generation that a machine was told of is lost, given
    out twice, or taken for a theft."""
    primary, standby = databases
    hosts = {"host": ["127.0.0.1", "127.0.0.1"], "port": [primary.port, standby.port]}
    servers = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        overrides = {"database": {**primary.config, **hosts}, "ssh": {"enabled": False}}
        servers.append(Cluster(tmp_path / name, overrides))
    try:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            wait_for(lambda server=server: server.mezctl("status").code == 0, "server")
        servers[0].add_role()
        machines = []
        for number in range(4):
            machine = servers[0].machine(f"m{number}")
            token = servers[0].add_bot(f"bot{number}")
            machine.daemon(f"--join-token={token}", "--renewal-interval=1s", addresses(*servers))
            machines.append(machine)
        for machine in machines:
            wait_for(lambda machine=machine: generation(machine) > 3, "renewals")
        primary.stop(signal.SIGKILL)
        standby.promote()
        for machine in machines:
            goal = generation(machine) + 4
            goes_on = lambda machine=machine, goal=goal: generation(machine) >= goal  # noqa: E731
            wait_for(goes_on, "renewals after the failover", 60)
        events = json.loads(servers[1].ctl("--format", "json", "audit", "ls", "--all"))["events"]
        found = check(events, stolen=[])
        assert found.broken == []
        assert found.counted["generation_adopted"] == found.counted["database.older"] == 0
        assert found.counted["user.cert.issued"] > 4 * 7
    finally:
        for server in servers:
            server.close()
