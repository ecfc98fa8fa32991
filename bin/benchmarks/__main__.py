"""`bin/bench`: each topic in a process of its own, one after the other."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from benchmarks import output
from benchmarks.measure import Table
from benchmarks.topics import TOPICS, measure


def main() -> int:
    topics = "\n".join(f"  {name:10}{about}" for name, about in TOPICS.items())
    parser = argparse.ArgumentParser(
        prog="bin/bench", epilog=f"topics:\n{topics}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=TOPICS, action="append", metavar="TOPIC", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="few, short rounds: half a minute, rough")
    parser.add_argument("--json", action="store_true", help="every round of everything, for programs")
    given = parser.parse_args()
    machine = output.machine()
    if not given.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    found: dict[str, list[Table]] = {}
    failed: list[str] = []
    for topic in given.only or TOPICS:
        started = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                found[topic] = process.submit(measure, topic, given.quick).result()
        except Exception:
            # What the others showed is not lost.
            traceback.print_exc()
            failed.append(topic)
            continue
        if not given.json:
            for table in found[topic]:
                output.write_table(table)
            sys.stdout.flush()
        print(f"bin/bench: {topic}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if given.json:
        document = {
            topic: [
                {"title": table.title, "unit": table.unit, "notes": list(table.notes),
                 "rows": [row.as_json() for row in table.rows]}
                for table in tables
            ]
            for topic, tables in found.items()
        }
        about = {"machine": machine, "quick": given.quick, "failed": failed}
        print(json.dumps({**about, "topics": document}, indent=1))
    else:
        output.write_missed(table for tables in found.values() for table in tables)
    if failed:
        print(f"bin/bench: could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
