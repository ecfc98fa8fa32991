"""What a fleet goes through, and what is counted of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from fleet.machines import Machine
from fleet.server import Server
from fleet.simulation import Fleet

HOUR, MINUTE = 3600.0, 60.0


class Settings(Struct, frozen=True):
    machines: int = 2000
    seed: int = 1
    ttl: timedelta = timedelta(hours=1)
    interval: timedelta | None = timedelta(minutes=30)
    renewal_ms: float = 1.5
    join_ms: float = 4.0
    """Processor time for a renewal and a join over a connection of its own."""


@dataclass
class Result:
    scenario: str
    what: str
    figures: dict[str, float | str] = field(default_factory=dict)


def steady(settings: Settings) -> Result:
    """Machines started over half an hour, then three hours of nothing special."""
    fleet = _fleet(settings, _spread(settings, 30 * MINUTE))
    fleet.run(4 * HOUR)
    result = Result("steady", "started over 30 min; hours 1 to 4")
    result.figures |= _load(fleet.server.load, HOUR, 4 * HOUR)
    return _ends(result, fleet)


def deploy(settings: Settings) -> Result:
    """All machines start within five seconds; how fast do their renewals spread?"""
    fleet = _fleet(settings, _spread(settings, 5))
    fleet.run(8 * HOUR)
    load = fleet.server.load
    result = Result("deploy", "all started within 5 s; 8 hours")
    result.figures["join_peak_per_s"] = _peak(load, 0, 10 * MINUTE)
    result.figures["all_joined_after_s"] = round(_all_valid(fleet), 1)
    for wave in range(1, 16):
        if wave in (1, 2, 4, 8, 15):
            begin = wave * 30 * MINUTE * 0.95 - 15 * MINUTE
            result.figures[f"renewal_{wave}_peak_per_s"] = _peak(load, begin, begin + 30 * MINUTE)
    result.figures["mean_per_s"] = _load(load, HOUR, 8 * HOUR)["mean_per_s"]
    return _ends(result, fleet)


def outage(settings: Settings) -> Result:
    """A fleet in its stride; the server away for an hour, and back at full strength."""
    return _outage(settings, "outage", "1 h away", _spread(settings, 30 * MINUTE), 1 * HOUR, 1.0)


def half(settings: Settings) -> Result:
    """The server away for half of a TTL: nobody may notice."""
    return _outage(
        settings, "half a TTL", "30 min away, certificates of 1 h", _spread(settings, 30 * MINUTE),
        0.5 * HOUR, 1.0,
    )


def herd(settings: Settings) -> Result:
    """All in step (deployed at once), away for an hour, then back fifty times slower: this many
    machines are to it what fifty times as many are to a processor of today."""
    return _outage(
        settings, "herd", "deployed at once, 1 h away, then fifty times slower",
        _spread(settings, 5), HOUR, 50.0,
    )


def back(settings: Settings) -> Result:
    """All in step (deployed at once), away until minutes before the first certificates end: whoever
    is not served in time expires."""
    return _outage(
        settings, "back", "deployed at once, 24 min away, certificates of 1 h", _spread(settings, 5),
        0.4 * HOUR, 1.0,
    )


def slow(settings: Settings) -> Result:
    """All start at once before a server that is twenty times slower."""
    slower = _slower(settings, 20.0)
    fleet = _fleet(slower, _spread(slower, 5))
    fleet.run(4 * HOUR)
    capacity = 1000 / slower.join_ms
    result = Result("slow server", f"deployed at once, {capacity:.1f} joins/s at the most")
    load = fleet.server.load
    result.figures["attempts_peak_per_s"] = _peak(load, 0, 4 * HOUR)
    joined = _all_valid(fleet)
    result.figures["all_joined_after_s"] = round(joined, 1)
    result.figures["at_best_s"] = round(settings.machines / capacity, 1)
    result.figures["attempts_per_join"] = round(
        sum(count for second, count in load.items() if second <= joined) / settings.machines, 2
    )
    result.figures["answers_nobody_waited_for"] = fleet.server.wasted
    result.figures["told_to_come_again_later"] = fleet.server.turned_away
    result.figures |= _load(load, 3 * HOUR, 4 * HOUR)
    return _ends(result, fleet)


SCENARIOS = {
    "steady": steady, "deploy": deploy, "half": half, "outage": outage, "back": back, "herd": herd,
    "slow": slow,
}


def _outage(
    settings: Settings, name: str, what: str, begins: Sequence[float], length: float, slowdown: float
) -> Result:
    away, back = 2 * HOUR, 2 * HOUR + length
    end = back + 2.5 * HOUR
    slower = _slower(settings, slowdown)
    fleet = _fleet(settings, begins, outages=((away, back),))
    fleet.run(back - 0.001)
    fleet.server.renewal, fleet.server.join = slower.renewal_ms / 1000, slower.join_ms / 1000
    fleet.server.abandoned *= slowdown
    fleet.run(end)
    load = fleet.server.load
    result = Result(name, what)
    result.figures["before_mean_per_s"] = _load(load, HOUR, away)["mean_per_s"]
    result.figures["tries_while_away_peak_per_s"] = max(fleet.server.refused.values(), default=0)
    result.figures["tries_while_away_mean_per_s"] = round(sum(fleet.server.refused.values()) / length, 2)
    result.figures["after_peak_per_s"] = _peak(load, back, end)
    result.figures["expired_while_away"] = sum(
        any(gap.begin < back for gap in machine.gaps) for machine in fleet.machines
    )
    result.figures["expired_after_it_was_back"] = sum(
        any(gap.begin >= back for gap in machine.gaps) for machine in fleet.machines
    )
    waits = sorted(
        gap.end - back for machine in fleet.machines for gap in machine.gaps if gap.begin < back < gap.end
    )
    if waits:
        for share in (50, 99):
            result.figures[f"valid_again_{share}%_s"] = round(waits[int((len(waits) - 1) * share / 100)], 1)
        result.figures["valid_again_all_s"] = round(waits[-1], 1)
    result.figures["renewed_all_after_s"] = round(_all_renewed(fleet.machines, back), 1)
    result.figures["without_certificate_at_the_end"] = sum(
        any(gap.end >= end for gap in machine.gaps) for machine in fleet.machines
    )
    result.figures["answers_nobody_waited_for"] = fleet.server.wasted
    result.figures["told_to_come_again_later"] = fleet.server.turned_away
    result.figures["peak_per_s_2h_later"] = _peak(load, back + 2 * HOUR, end)
    return _ends(result, fleet)


def _slower(settings: Settings, times: float) -> Settings:
    return replace(settings, renewal_ms=settings.renewal_ms * times, join_ms=settings.join_ms * times)


def _fleet(
    settings: Settings, begins: Sequence[float], *, outages: tuple[tuple[float, float], ...] = ()
) -> Fleet:
    chance = random.Random(settings.seed)
    server = Server(
        chance, settings.ttl, settings.renewal_ms / 1000, settings.join_ms / 1000, outages=outages
    )
    return Fleet(server, chance, begins, settings.interval)


def _spread(settings: Settings, length: float) -> list[float]:
    chance = random.Random(settings.seed + 1)
    return sorted(chance.random() * length for _ in range(settings.machines))


def _peak(load: Counter[int], begin: float, end: float) -> int:
    return max((count for second, count in load.items() if begin <= second < end), default=0)


def _load(load: Counter[int], begin: float, end: float) -> dict[str, float | str]:
    total = sum(count for second, count in load.items() if begin <= second < end)
    mean = total / (end - begin)
    return {
        "mean_per_s": round(mean, 2),
        "peak_per_s": _peak(load, begin, end),
    }


def _all_valid(fleet: Fleet) -> float:
    """When the last machine had its first certificate."""
    return max(machine.joined_at for machine in fleet.machines)


def _all_renewed(machines: Sequence[Machine], since: float) -> float:
    """How long after *since* the last machine had renewed."""
    return max(
        min((at for at in machine.renewed_at if at > since), default=float("inf")) for machine in machines
    ) - since


def _ends(result: Result, fleet: Fleet) -> Result:
    lost = sum(machine.finished is not None for machine in fleet.machines)
    expired = sum(bool(machine.gaps) for machine in fleet.machines)
    result.figures["expired_identities"] = expired
    result.figures["identities_lost"] = lost
    return result
