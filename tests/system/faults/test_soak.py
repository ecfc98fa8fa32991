"""The soak of bin/soak, short: real daemons, faults of every kind, logins and thefts."""

from __future__ import annotations

from pathlib import Path

from fleet.soak import Settings, is_good, soak

from tests.system.faults.rig import Launchers

SHORT = Settings(
    daemons=10, seconds=30, fault_every=10, server_fault_every=10, theft_every=5, login_threads=1,
    least_renewals=50, least_faults=20,
)


def test_a_short_soak_loses_nobody(tmp_path: Path, launchers: Launchers) -> None:
    """No lock for nothing, no identity lost, no login through ssh_config failed, every theft found."""
    figures = soak(SHORT, tmp_path, launchers)
    assert is_good(figures), figures
    # However slow the machine is, it goes on until as much has come.
    assert figures["renewals"] > SHORT.least_renewals
    assert figures["thefts planted"] >= 1
    assert sum(figures["faults"].values()) > SHORT.least_faults
