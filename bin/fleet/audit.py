"""`bin/audit-check`: the promises of docs/protocol.md, found kept or broken in an audit log.

It knows nothing of the server but the names of events.  Rows of one instance are
in the order of its commits, on every database.

(a) no instance is locked for a fork but those that are known to be stolen;
(b) once a fork is proven, nothing is issued for that instance;
(c) each generation of an instance is issued once, and its generations follow
    one another; what is issued again is the last one given out; no serial is
    issued twice; a token admits as many instances as it has uses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]

JOINED, ISSUED, REISSUED = "instance.joined", "user.cert.issued", "user.cert.reissued"
ADOPTED, MISMATCH, KEPT = "generation_adopted", "generation_mismatch", "instance.key_kept"


@dataclass
class Findings:
    broken: list[str] = field(default_factory=list)
    """A line for each promise that was not kept."""
    counted: Counter[str] = field(default_factory=Counter)


@dataclass
class _Instance:
    generation: int = 0
    """The last one given out."""
    outputs: set[str] = field(default_factory=set)
    """For which certificates of that generation went out when it was new."""
    locked: bool = False
    may_differ: bool = False
    """The database or an operator has set the generation anew."""


class Check:
    """Takes events in the order of their numbers."""

    def __init__(self, stolen: Iterable[str] | None = None) -> None:
        self.found = Findings()
        self._stolen = None if stolen is None else frozenset(stolen)
        self._instances: dict[str, _Instance] = {}
        self._serials: set[int] = set()
        self._tokens: Counter[str] = Counter()

    def take(self, event: Event) -> None:
        kind, name = event["event_type"], event["resource_name"]
        self.found.counted[kind] += 1
        if kind == JOINED:
            self._joined(event, name)
        elif kind in (ISSUED, REISSUED):
            self._issued(event, name, is_new=kind == ISSUED)
        elif kind == ADOPTED:
            self._of(name).may_differ = True
        elif kind == KEPT:
            self._of(name).locked = False
            self._of(name).may_differ = True
        elif kind == MISMATCH:
            self._of(name).locked = True
            if self._stolen is not None and name not in self._stolen:
                self._say(event, f"(a) {name} was locked, and nobody had stolen it")

    def _of(self, name: str) -> _Instance:
        return self._instances.setdefault(name, _Instance())

    def _joined(self, event: Event, name: str) -> None:
        if name in self._instances:
            self._say(event, f"(c) {name} joined twice")
        self._of(name)
        self._tokens[event["fields"]["token"]] += 1

    def _issued(self, event: Event, name: str, *, is_new: bool) -> None:
        instance, fields = self._of(name), event["fields"]
        generation, output, serial = int(fields["generation"]), fields["output"], int(fields["serial"])
        if instance.locked:
            self._say(event, f"(b) {name} was given generation {generation} after its lock")
        if serial in self._serials:
            self._say(event, f"(c) serial {serial} was issued twice")
        self._serials.add(serial)
        if not is_new:
            if generation != instance.generation and not instance.may_differ:
                self._say(event, f"(c) {name} was given generation {generation} again, and was at "
                                 f"{instance.generation}")
            return
        if generation == instance.generation and not instance.may_differ:
            if output in instance.outputs:
                self._say(event, f"(c) {name} was given generation {generation} twice")
            instance.outputs.add(output)
            return
        if generation != instance.generation + 1 and not instance.may_differ:
            self._say(event, f"(c) {name} went from generation {instance.generation} to {generation}")
        instance.generation, instance.outputs, instance.may_differ = generation, {output}, False

    def end(self, uses: Mapping[str, int] | None = None) -> Findings:
        """*uses* of the tokens that have more than one."""
        for token, count in self._tokens.items():
            if count > (uses or {}).get(token, 1):
                self.found.broken.append(f"(c) {token} admitted {count} instances")
        return self.found

    def _say(self, event: Event, what: str) -> None:
        self.found.broken.append(f"event {event['id']}: {what}")


def check(
    events: Sequence[Event], stolen: Iterable[str] | None = None, uses: Mapping[str, int] | None = None
) -> Findings:
    """*stolen*: the instances of which copies were made; ``None`` where nobody knows."""
    checking = Check(stolen)
    for event in sorted(events, key=lambda event: int(event["id"])):
        checking.take(event)
    return checking.end(uses)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/audit-check", description="Promises, checked in an audit log.")
    parser.add_argument("file", nargs="?", type=argparse.FileType("r"), default=sys.stdin,
                        help="what `mezctl --format json audit ls --all` prints; default: standard input")
    parser.add_argument("--stolen", nargs="*", metavar="INSTANCE", default=None)
    parser.add_argument("--uses", nargs="*", metavar="TOKEN=N", default=[])
    given = parser.parse_args()
    uses = {token: int(count) for token, _, count in (one.partition("=") for one in given.uses)}
    found = check(json.load(given.file)["events"], given.stolen, uses)
    for kind, count in sorted(found.counted.items()):
        print(f"{kind:40}{count:>10}")
    for line in found.broken:
        print(line)
    print(f"broken: {len(found.broken)}")
    return int(bool(found.broken))


if __name__ == "__main__":
    sys.exit(main())
