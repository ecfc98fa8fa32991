"""The soak of `bin/soak --postgres`, short: several servers and their database killed at random."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleet.deck import KINDS
from fleet.several import Settings, is_good, soak

from tests.postgres import MISSING, Postgres, binaries
from tests.system.faults.rig import Launchers

SHORT = Settings(
    servers=3, daemons=6, seconds=20, server_fault_every=5, database_fault_every=5, daemon_fault_every=8,
    theft_every=8,
)


@pytest.mark.postgres
def test_a_short_soak_of_three_servers_keeps_every_promise(tmp_path: Path) -> None:
    """By the audit log: nobody locked for nothing, no theft missed, no generation given out twice."""
    if binaries() is None:
        pytest.skip(MISSING)
    launchers, database = Launchers(None), Postgres()
    try:
        figures = soak(SHORT, tmp_path, launchers, database)
    finally:
        launchers.close()
        database.close()
    assert is_good(figures), json.dumps(figures, indent=1)
    # However slow the machine is, it goes on until each kind has come, and ends when all have renewed since.
    assert not KINDS - figures["faults"].keys(), json.dumps(figures, indent=1)
    assert figures["thefts planted"] >= 1
    assert figures["generations given out"] >= 2 * SHORT.daemons
