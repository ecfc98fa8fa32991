"""The herd of `bin/herd`, short: machines that are all due when their server comes back; and its flood."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from fleet import flood
from fleet.herd import Settings, herd, is_good

SHORT = Settings(machines=200, ttl=timedelta(minutes=2), processes=1, at_once=200, waiting=2)


def test_a_herd_is_served_and_nobody_expires(tmp_path: Path) -> None:
    """The server lets two wait: others are told when to come again, keep to it, and are renewed in time."""
    figures = herd(SHORT, tmp_path)
    assert is_good(figures), json.dumps(figures, indent=1)
    assert figures["questions while it was away"] >= SHORT.machines
    assert figures["told to come again"] >= 1


def test_a_flood_of_forgeries_holds_no_daemon_up(tmp_path: Path) -> None:
    """From their own address: more than is looked at for it, so that most are sent away."""
    (worst,) = [one for one in flood.FLOODS if one.send is flood.forgeries and one.sources == (flood.OWN,)]
    figures = flood.flood(30_000, tmp_path, [worst])
    assert flood.is_good(figures), json.dumps(figures, indent=1)
    assert figures[worst.what]["unavailable"] > 500
