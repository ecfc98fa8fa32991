"""`bin/soak`: real daemons, a real server, faults of every kind, logins and thefts; and the figures."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.deeds import Later, has_gone_on, last_words, pages
from fleet.figures import finish
from fleet.harm import Harm, Theft
from fleet.logins import PLAIN, THROUGH_CONFIG, Logins, node
from mezite.errors import MeziteError
from tests.system.faults import shim
from tests.system.faults.rig import Launchers, Machine, Site
from tests.system.processes import wait_for

MISMATCH = "generation_mismatch"
LOOKING = 2.0
"""Seconds between two looks at the locks and logs, and for a request's way."""
SETTLING = 60.0
"""Seconds that everything has to come right after the last fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    daemons: int = 20
    seconds: float = 300
    """At the least: it goes on until a backup has been put back, a theft planted, and more than
    the least number of renewals and faults has come."""
    least_renewals: int = 0
    least_faults: int = 0
    longest_wait: float = 300
    """Seconds beyond them, after which it ends whatever is missing."""
    seed: int = 1
    ttl: str = "2m"
    shortest: float = 2
    longest: float = 5
    fault_every: float = 40
    """Seconds between two faults of one daemon."""
    server_fault_every: float = 45
    theft_every: float = 30
    login_threads: int = 2


@dataclass
class Soak:
    settings: Settings
    root: Path
    launchers: Launchers
    site: Site = field(init=False)
    thefts: list[Theft] = field(default_factory=list)
    spurious: set[str] = field(default_factory=set)
    ended: Counter[str] = field(default_factory=Counter)
    """Ends of daemons that nobody killed: exit code, and the code in the last line."""
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.settings.seed)
        self.site = Site(self.root / "site", launchers=self.launchers)
        self._later = Later()
        self._intervals: dict[str, float] = {}
        self._restart_at: dict[str, float] = {}
        self.machines: list[Machine] = []
        self._joins: Counter[str] = Counter()
        self._reached: dict[str, int] = {}
        """Instance → its newest generation."""

    # --- daemons ------------------------------------------------------------------------------

    def start(self) -> None:
        self.site.start()
        self.site.add_role()
        self.harm = Harm(self.site, self.chance, self._later.add)
        user_cas = [key["text"] for key in self.site.call("ca.export", type="user")["keys"]]
        self.node = node(self.root / "node", self.launchers, user_cas)
        for number in range(self.settings.daemons):
            machine = self.site.machine(f"m{number:03}")
            self._intervals[machine.name] = round(
                self.chance.uniform(self.settings.shortest, self.settings.longest), 1
            )
            machine.watch()
            self._new_token(machine)
            self._begin(machine)
            self.machines.append(machine)
        for machine in self.machines:
            wait_for(machine.published_generation, f"join; {machine.log()}", 120)
        self.logins = Logins(
            self.node.node_port, self.machines, self.settings.seed, self.settings.login_threads
        )
        self.logins.start()

    def _new_token(self, machine: Machine) -> None:
        machine.token = self.site.token(machine.name)
        self._joins[machine.name] += 1

    def _begin(self, machine: Machine, *words: str) -> None:
        interval = self._intervals[machine.name]
        wish = f"--renewal-interval={max(1, round(interval))}s"
        more = (wish, f"--certificate-ttl={self.settings.ttl}", *words)
        if machine.token:
            machine.start(*more, port=self.harm.proxy.port)
        else:
            machine.start_with(*more, port=self.harm.proxy.port)

    def supervise(self) -> None:
        """What a service manager does: whoever has ended is started again, soon."""
        now = time.monotonic()
        for machine in self.machines:
            assert machine.daemon is not None
            code = machine.daemon.code
            if code is None:
                continue
            if machine.name not in self._restart_at:
                self._restart_at[machine.name] = now + self.chance.uniform(0, 2)
                if code >= 0:
                    self.ended[f"exit code {code}: {last_words(machine)}"] += 1
                if code == 3 and not self._rejoins(machine):
                    self.lost.append(f"{machine.name}: {machine.log().splitlines()[-1]}")
            elif now >= self._restart_at[machine.name]:
                try:
                    self._replace_stolen(machine)
                except MeziteError:
                    continue  # the server is away: later
                del self._restart_at[machine.name]
                machine.faults.disarm()
                self._begin(machine)

    def _rejoins(self, machine: Machine) -> bool:
        return any(theft.instance == machine.instance for theft in self.thefts)

    def _replace_stolen(self, machine: Machine) -> None:
        if self._joins[machine.name] <= sum(
            theft.instance == machine.instance or theft.owner is machine
            for theft in self.thefts if theft.found is not None
        ):
            self._new_token(machine)

    # --- thefts -------------------------------------------------------------------------------

    def steal(self) -> None:
        """A machine's directory is copied as it is, and renewed by a daemon of the thief's."""
        owners = {theft.owner.name for theft in self.thefts if theft.found is None}
        able = [
            machine for machine in self.machines
            if machine.name not in owners | self.harm.busy and machine.name not in self._restart_at
            and machine.generation and not any(theft.instance == machine.instance for theft in self.thefts)
        ]
        if not able:
            return
        owner = self.chance.choice(able)
        thief = Machine(self.site, f"thief{len(self.thefts)}")
        self.site.machines[thief.name] = thief
        try:
            shutil.copytree(
                owner.destination, thief.destination, symlinks=True, ignore=shutil.ignore_patterns("*.sock")
            )
        except (shutil.Error, OSError):
            shutil.rmtree(thief.destination, ignore_errors=True)
            return  # it was being renewed: another time
        if not thief.generation:
            return
        interval = self._intervals[thief.name] = self._intervals[owner.name]
        theft = Theft(owner, thief, thief.instance, interval, time.monotonic())
        self.thefts.append(theft)
        self._begin(thief)

    def look(self) -> None:
        """Which thefts have shown, and whether anybody else is locked."""
        try:
            locks = self.site.locks()
        except MeziteError:
            return
        locked = {lock["target"] for lock in locks if lock["reason"] == MISMATCH}
        stolen = {theft.instance for theft in self.thefts}
        self.spurious |= locked - stolen
        for theft in self.thefts:
            if theft.renewed is None and self._has_asked(theft):
                theft.renewed = time.monotonic()
            if theft.found is None and theft.instance in locked:
                theft.found = time.monotonic()
                theft.renewed = theft.renewed or theft.found

    @staticmethod
    def _has_asked(theft: Theft) -> bool:
        return "renewed" in theft.thief.log() or MISMATCH in theft.thief.log()

    # --- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        settings = self.settings
        began = time.monotonic()
        backup = self.root / "backup"
        worker: threading.Thread | None = None
        copied = restored = False
        renewals_copied: int | None = None
        next_look = 0.0
        next_fault = next_server = next_theft = 0.0
        while (passed := time.monotonic() - began) < settings.seconds + settings.longest_wait:
            if passed >= settings.seconds and self.harm.found_out and self._has_seen_enough():
                break
            self._later.run()
            self.supervise()
            if passed >= next_look:
                self.look()
                self._renewals()
                next_look = passed + 1
            if passed >= next_fault:
                self._harm_somebody()
                next_fault = passed + self.chance.expovariate(settings.daemons / settings.fault_every)
            free = worker is None or not worker.is_alive()
            if free and not copied and passed > settings.seconds * 0.15:
                copied = True
                worker = self._aside(self.harm.back_up, backup)
            elif free and copied and renewals_copied is None:
                renewals_copied = self._renewals()
            elif (
                free and not restored and passed > settings.seconds * 0.3
                # A copy of what is there now is none of an older one.
                and renewals_copied is not None and self._renewals() > renewals_copied
            ):
                restored = True
                worker = self._aside(self.harm.restore, backup)
            elif free and passed >= next_server:
                if next_server:
                    worker = self._aside(self.harm.to_the_server)
                next_server = passed + self.chance.expovariate(1 / settings.server_fault_every)
            # A lock of before a restored backup is forgotten with it: thefts come after.
            if restored and free and passed > settings.seconds * 0.4 and passed >= next_theft:
                self.steal()
                next_theft = passed + self.chance.expovariate(1 / settings.theft_every)
            time.sleep(0.1)
        self._settle(worker)

    def _has_seen_enough(self) -> bool:
        settings = self.settings
        return (
            bool(self.thefts)
            and len(self.harm.proxy.broken) + self.harm.done.total() > settings.least_faults
            and self._renewals() > settings.least_renewals
        )

    def _renewals(self) -> int:
        """Of all instances that its machines were seen to be."""
        for machine in self.machines:
            held = machine.durable().held
            if held is not None:
                known = self._reached.get(held.instance_id, 1)
                self._reached[held.instance_id] = max(known, held.generation)
        return sum(generation - 1 for generation in self._reached.values())

    def _aside(self, what: Callable[..., None], *values: Any) -> threading.Thread:
        worker = threading.Thread(target=what, args=values)
        worker.start()
        return worker

    def _harm_somebody(self) -> None:
        able = [
            machine for machine in self.machines
            if machine.name not in self.harm.busy and machine.name not in self._restart_at
        ]
        if able:
            self.harm.to_a_daemon(self.chance.choice(able))

    def _settle(self, worker: threading.Thread | None) -> None:
        """No more faults; everybody must come back, and every theft show."""
        self.harm.is_quiet = True
        if worker is not None:
            worker.join(60)
        self._later.run(all_of_it=True)
        for machine in self.machines:
            machine.faults.disarm()
        goals: dict[str, tuple[str, int]] = {}
        deadline = time.monotonic() + SETTLING
        while time.monotonic() < deadline:
            self.supervise()
            self.look()
            if all(theft.found for theft in self.thefts):
                for machine in self.machines:
                    goals.setdefault(machine.name, (machine.instance, machine.generation))
                if all(has_gone_on(machine, *goals[machine.name]) for machine in self.machines):
                    break
            time.sleep(0.2)
        for machine in self.machines:
            if machine.name in goals and not has_gone_on(machine, *goals[machine.name]):
                self.lost.append(f"{machine.name} renews no more: {machine.log()[-400:]}")
        self.logins.stop()

    # --- figures ------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        instances: list[dict[str, Any]] = []
        for machine in self.machines:
            machine.check_outputs()
            instances += self.site.instances(machine.name)
        for machine in self.machines:
            made = sum(one["bot"] == machine.name for one in instances)
            if made != 1 + sum(theft.owner is machine for theft in self.thefts):
                self.lost.append(f"{machine.name} has {made} instances")
        broken = Counter(f"network: {plan.act.value} in {plan.way.value}" for plan in self.harm.proxy.broken)
        late = [
            (theft.found - (theft.renewed or theft.found), theft.interval)
            for theft in self.thefts if theft.found is not None
        ]
        return {
            "daemons": self.settings.daemons,
            "seconds": self.settings.seconds,
            "seed": self.settings.seed,
            "renewals": sum(one["generation"] - 1 for one in instances),
            "lost replies made good": self._events("user.cert.reissued"),
            "restored database found out by the server": int(self.harm.found_out),
            "generations adopted after the restore": self._events("generation_adopted"),
            "faults": dict(sorted((broken + self.harm.done).items())),
            "ends of daemons besides kills": dict(sorted(self.ended.items())),
            "logins": dict(sorted(self.logins.tried.items())),
            "logins failed because of rotation": {
                way: self.logins.failed[way] for way in (THROUGH_CONFIG, PLAIN)
            },
            "what ssh said": dict(self.logins.words),
            "logins with a certificate that had ended": self.logins.expired,
            "thefts planted": len(self.thefts),
            "thefts found": sum(theft.found is not None for theft in self.thefts),
            "found within one interval of the thief's first answer": sum(
                seconds <= interval + LOOKING for seconds, interval in late
            ),
            "the longest that took, in seconds": round(max((seconds for seconds, _ in late), default=0), 1),
            "spurious locks": len(self.spurious),
            "identities lost": len(self.lost),
            "lost": self.lost,
        }

    def _events(self, kind: str) -> int:
        return sum(1 for _ in pages(self.site.call, "audit.ls", "events", type=kind))

    def close(self) -> None:
        if hasattr(self, "logins"):
            self.logins.stop()
        if hasattr(self, "node"):
            self.node.close()
        self.site.close()
        if hasattr(self, "harm"):
            self.harm.close()


def is_good(figures: dict[str, Any]) -> bool:
    return (
        figures["spurious locks"] == figures["identities lost"] == 0
        and figures["logins failed because of rotation"][THROUGH_CONFIG] == 0
        and figures["thefts found"] == figures["thefts planted"]
        and figures["restored database found out by the server"] == 1
    )


def soak(settings: Settings, root: Path, launchers: Launchers) -> dict[str, Any]:
    """The figures of one soak below *root*."""
    (root / "site").mkdir()
    running = Soak(settings, root, launchers)
    try:
        running.start()
        running.run()
        return running.figures()
    finally:
        running.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/soak", description=__doc__)
    defaults = Settings()
    parser.add_argument("--daemons", type=int, default=defaults.daemons)
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if shim.COMPILER is None:
        print("bin/soak: needs a C compiler (Debian: gcc libc6-dev)", file=sys.stderr)
        return 2
    settings = Settings(daemons=given.daemons, seconds=given.seconds, seed=given.seed)
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        root = Path(name)
        launchers = Launchers(shim.build(root))
        try:
            figures = soak(settings, root, launchers)
        finally:
            launchers.close()
    return finish(figures, is_good=is_good(figures), as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
