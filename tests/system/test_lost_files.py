"""The data directory goes away under a server: nobody is promised what nobody could find again."""

from __future__ import annotations

import json

import pytest

from tests.system.processes import Cluster, free_port, wait_for
from tests.system.test_coming_back import generation
from tests.system.test_readiness import ask

DIAG = f"127.0.0.1:{free_port()}"


@pytest.mark.config(diag={"listen_addr": DIAG}, auth={"workers": 2})
def test_a_data_directory_that_is_moved_away_and_back(cluster: Cluster) -> None:
    """No renewal is answered meanwhile, the server is not ready and says why; then everything goes on by
    itself, the operators' socket, too, which makes no other data directory."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    wait_for(lambda: generation(machine) >= 2, "renewal")
    away = cluster.root / "away"
    cluster.data.rename(away)
    wait_for(lambda: "(unavailable)" in (machine.home / "mezd.log").read_text(), "refusal of a renewal")
    code, told = ask(DIAG)
    assert (code, "was removed or replaced while the server runs" in told) == (503, True), told
    known = generation(machine)
    assert cluster.server is not None
    wait_for(lambda: "going on without that socket" in cluster.server.text(), "look for the socket")
    assert not cluster.data.exists()
    assert generation(machine) == known
    away.rename(cluster.data)
    wait_for(lambda: ask(DIAG)[0] == 200, "readiness")
    wait_for(lambda: generation(machine) > known, "renewal")
    assert daemon.code is None
    wait_for(lambda: cluster.mezctl("status").code == 0, "the operators' socket")
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
    assert "put back from a copy" not in cluster.ctl("status")
