"""The fleet simulator: the same for each seed, and what it shows of the defaults."""

from __future__ import annotations

import random

import pytest
from fleet.scenarios import SCENARIOS, Settings
from fleet.server import Server
from fleet.simulation import Fleet
from msgspec.structs import replace

SMALL = Settings(machines=40)


def test_a_seed_gives_the_same_figures_again() -> None:
    """Keys are new in every run; load, delays and outcomes are not."""
    first, again = SCENARIOS["half"](SMALL), SCENARIOS["half"](SMALL)
    other = SCENARIOS["half"](replace(SMALL, seed=2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_scenario_loses_an_identity(name: str) -> None:
    """Whatever a fleet goes through, every machine is there in the end, and certificates
    end only while the server is away for longer than they last."""
    figures = SCENARIOS[name](SMALL).figures
    assert figures["identities_lost"] == 0
    assert figures.get("expired_after_it_was_back", 0) == 0
    assert figures.get("without_certificate_at_the_end", 0) == 0
    if name not in ("outage", "herd"):
        assert figures["expired_identities"] == 0


def test_machines_that_started_together_drift_apart() -> None:
    """The renewals of a deploy are spread over three minutes at first, and over the interval in the end."""
    figures = SCENARIOS["deploy"](replace(SMALL, machines=200)).figures
    assert figures["join_peak_per_s"] > 20
    assert figures["renewal_1_peak_per_s"] <= 8
    assert figures["renewal_15_peak_per_s"] <= 6


def test_the_server_judges_lost_replies_as_the_real_one() -> None:
    """Answers that come after their deadline are asked for again, and no generation is skipped."""
    chance = random.Random(3)
    server = Server(chance, SMALL.ttl, renewal=0.01, join=25.0)
    fleet = Fleet(server, chance, [0.0], SMALL.interval)
    fleet.run(60)
    assert server.wasted >= 1
    server.join = 0.01
    fleet.run(400)
    (machine,) = fleet.machines
    assert machine.state.durable.held is not None
    assert machine.state.durable.held.generation == 1
