"""`bin/simulate`: one scenario after the other, and a table of each."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import timedelta

from fleet.figures import finish
from fleet.scenarios import SCENARIOS, Result, Settings
from mezite.core.duration import parse_duration


def main() -> int:
    about = "\n".join(f"  {name:8}{run.__doc__}" for name, run in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="bin/simulate", description="A fleet of daemons on a simulated clock.",
        epilog=f"scenarios:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", choices=SCENARIOS, action="append", metavar="SCENARIO", help="may be repeated"
    )
    parser.add_argument("--machines", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same figures")
    parser.add_argument("--interval", type=parse_duration, default=timedelta(minutes=30), metavar="LENGTH")
    parser.add_argument("--ttl", type=parse_duration, default=timedelta(hours=1), metavar="LENGTH")
    parser.add_argument("--renewal-ms", type=float, default=1.5, help="processor time of a renewal")
    parser.add_argument("--join-ms", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = Settings(
        given.machines, given.seed, given.ttl, given.interval, given.renewal_ms, given.join_ms
    )
    results = []
    if not given.json:
        print(f"{given.machines} machines, seed {given.seed}, TTL {given.ttl}, interval {given.interval}")
    for name in given.only or SCENARIOS:
        results.append(SCENARIOS[name](settings))
        if not given.json:
            show(results[-1])
    return finish(
        [dataclasses.asdict(result) for result in results],
        is_good=not any(result.figures["identities_lost"] for result in results),
        as_json=given.json, were_shown=True,
    )


def show(result: Result) -> None:
    print(f"\n{result.scenario}: {result.what}")
    for name, value in result.figures.items():
        print(f"  {name.replace('_per_s', '/s').replace('_', ' '):32}{value:>10}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
