"""Pruning as a running server does it, by its own tick."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.system.faults.rig import Launchers, Site
from tests.system.processes import wait_for


@pytest.fixture
def forgetful(tmp_path: Path, launchers: Launchers) -> Iterator[Site]:
    overrides = {"audit": {"keep": "7d"}, "retention": {"prune_every": "1s"}}
    made = Site(tmp_path, overrides, launchers=launchers)
    try:
        made.start()
        made.add_role()
        yield made
    finally:
        made.close()


def test_a_running_server_forgets_what_is_over(forgetful: Site) -> None:
    """Eight days on, the events of then are gone, once, and the machine that was away renews."""
    site = forgetful
    machine = site.machine("weekly")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
    assert machine.stop() == 0
    assert site.call("audit.ls", type="instance.joined")["events"]
    assert site.call("audit.ls", type="records.pruned")["events"] == []
    assert site.server is not None
    site.server.stop()
    site.hang_up()
    site.faults.set_clock(timedelta(days=8))
    site.start()
    wait_for(lambda: site.call("audit.ls", type="records.pruned")["events"], "pruning by the tick")
    assert site.call("audit.ls", type="instance.joined")["events"] == []
    (pruned, *_) = site.call("audit.ls", type="records.pruned")["events"]
    assert pruned["fields"]["events"] > 3
    assert pruned["fields"]["instances"] == 0
    # The token outlives its end by 90 days, the instance its last renewal by 180.
    assert len(site.instances("weekly")) == 1
    assert len(site.call("tokens.ls", bot="weekly")["tokens"]) == 1
