"""`bin/soak --postgres`: servers on one PostgreSQL, killed at random; its audit log tells what held."""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.audit import check
from fleet.deck import DAEMON_FAULT, DATABASE_FAULTS, KINDS, SERVER_FAULTS, SEVERED, Deck
from fleet.deeds import Later, has_gone_on, pages
from fleet.figures import finish
from fleet.member import Member
from mezite.errors import MeziteError
from tests.postgres import MISSING, Postgres, binaries
from tests.system.faults.rig import Launchers, Site
from tests.system.processes import wait_for

SETTLING = 90.0
"""Seconds that everything has to come right after the last fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    servers: int = 3
    daemons: int = 20
    seconds: float = 600
    """At the least: it goes on until faults of all kinds, and a theft, have been planted."""
    longest_wait: float = 300
    """Seconds beyond them, after which it ends whatever is missing."""
    seed: int = 1
    ttl: str = "2m"
    shortest: float = 2
    longest: float = 5
    server_fault_every: float = 12
    """Seconds between two faults of any of the servers."""
    database_fault_every: float = 20
    daemon_fault_every: float = 5
    theft_every: float = 25


@dataclass
class Theft:
    owner: Member
    thief: Member
    instance: str
    found: bool = False


@dataclass
class SeveralSoak:
    settings: Settings
    root: Path
    launchers: Launchers
    database: Postgres
    done: Counter[str] = field(default_factory=Counter)
    thefts: list[Theft] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.settings.seed)
        self.sites: list[Site] = []
        self.machines: list[Member] = []
        self._later = Later()
        self._thieves = itertools.count()
        self._busy: set[str] = set()
        self._restart_at: dict[str, float] = {}
        self._replaced: Counter[str] = Counter()
        # A server is killed as often as everything else together happens to it.
        self._server_faults = Deck(self.chance, [*SERVER_FAULTS, "server: kill -9"])
        self._database_faults = Deck(self.chance, [*DATABASE_FAULTS, SEVERED])

    # --- starting -----------------------------------------------------------------------------

    def start(self) -> None:
        for number in range(self.settings.servers):
            root = self.root / f"server{number}"
            root.mkdir()
            overrides = {"database": self.database.config, "ssh": {"enabled": False}}
            self.sites.append(Site(root, overrides, launchers=self.launchers))
        # All at once, on an empty database: one of them makes the cluster.
        for site in self.sites:
            site.start(wait=False)
        for site in self.sites:
            wait_for(site.is_serving, f"server in {site.root}", 60)
        self.sites[0].add_role()
        for number in range(self.settings.daemons):
            self._add(f"m{number:03}")
        for machine in self.machines:
            wait_for(machine.published_generation, f"join; {machine.log()}", 120)

    def _servers(self) -> str:
        return ",".join(f"127.0.0.1:{site.port}" for site in self.sites)

    def _member(self, name: str) -> Member:
        interval = self.chance.uniform(self.settings.shortest, self.settings.longest)
        words = [f"--renewal-interval={round(interval)}s", f"--certificate-ttl={self.settings.ttl}"]
        made = Member(self.sites[0], name, self._servers(), words)
        self.sites[0].machines[name] = made
        return made

    def _add(self, name: str) -> None:
        machine = self._member(name)
        machine.token = self._ask(lambda site: site.token(name))
        machine.start()
        self.machines.append(machine)

    def _ask(self, what: Callable[[Site], Any]) -> Any:
        """Of whichever server answers."""
        for site in self.sites:
            try:
                return what(site)
            except MeziteError as error:
                failed = error
        raise failed

    # --- faults -------------------------------------------------------------------------------

    def harm_a_server(self) -> None:
        able = [site for site in self.sites if site.root.name not in self._busy]
        if not able:
            return
        site = self.chance.choice(able)
        server = site.server
        assert server is not None
        self._busy.add(site.root.name)
        kind = self._server_faults.draw()
        server.send(SERVER_FAULTS[kind])
        if SERVER_FAULTS[kind] == signal.SIGSTOP:
            self._later.add(self.chance.uniform(1, 8), lambda: self._wake(site))
        else:
            self._later.add(self.chance.uniform(0.2, 4), lambda: self._restart(site))
        self.done[kind] += 1

    def _wake(self, site: Site) -> None:
        assert site.server is not None
        site.server.send(signal.SIGCONT)
        self._busy.discard(site.root.name)

    def _restart(self, site: Site) -> None:
        assert site.server is not None
        site.server.stop(signal.SIGKILL)
        site.hang_up()
        site.start(wait=False)
        self._busy.discard(site.root.name)

    def supervise_servers(self) -> None:
        """A server that cannot start while the database is away ends; systemd would start it again."""
        for site in self.sites:
            if site.root.name not in self._busy and site.server is not None and site.server.code is not None:
                self.done["server: ended by itself, started again"] += 1
                self._busy.add(site.root.name)
                self._later.add(1, lambda site=site: self._restart(site))  # type: ignore[misc]

    def harm_the_database(self) -> None:
        kind = self._database_faults.draw()
        number = DATABASE_FAULTS[kind]
        if number is None:
            with self.database.superuser() as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'mezite' "
                    "and random() < 0.7"
                )
        else:
            self.database.stop(number)
            time.sleep(self.chance.uniform(0, 3))
            self.database.start()
        self.done[kind] += 1

    def harm_a_daemon(self) -> None:
        able = [machine for machine in self.machines if machine.name not in self._restart_at]
        if able:
            machine = self.chance.choice(able)
            assert machine.daemon is not None
            machine.daemon.send(signal.SIGKILL)
            self.done[DAEMON_FAULT] += 1

    def steal(self) -> None:
        stolen = {theft.owner.name for theft in self.thefts if not theft.found}
        able = [machine for machine in self.machines if machine.name not in stolen and machine.generation
                and not any(theft.instance == machine.instance for theft in self.thefts)]
        if not able:
            return
        owner, thief = self.chance.choice(able), self._member(f"t{next(self._thieves)}")
        try:
            shutil.copytree(owner.destination, thief.destination, symlinks=True,
                            ignore=shutil.ignore_patterns("*.sock"))
        except (shutil.Error, OSError):
            return  # it was being renewed: another time
        if thief.generation:
            self.thefts.append(Theft(owner, thief, thief.instance))
            thief.start_with()

    # --- the run ------------------------------------------------------------------------------

    def supervise_daemons(self) -> None:
        """Whoever has ended is started again; with a new token where its identity was stolen."""
        now = time.monotonic()
        for machine in self.machines:
            assert machine.daemon is not None
            code = machine.daemon.code
            if code is None:
                continue
            if machine.name not in self._restart_at:
                self._restart_at[machine.name] = now + self.chance.uniform(0, 2)
                mine = [theft for theft in self.thefts if theft.owner is machine]
                if code == 3 and not any(theft.instance == machine.instance for theft in mine):
                    self.lost.append(f"{machine.name}: {machine.log().splitlines()[-1]}")
            elif now >= self._restart_at[machine.name]:
                try:
                    self._replace_stolen(machine)
                except MeziteError:
                    continue  # no server answers: later
                del self._restart_at[machine.name]
                machine.start()

    def _replace_stolen(self, machine: Member) -> None:
        found = sum(theft.found for theft in self.thefts if theft.owner is machine)
        if self._replaced[machine.name] < found:
            machine.token = self._ask(lambda site: site.token(machine.name))
            self._replaced[machine.name] += 1

    def look(self) -> None:
        try:
            locks = self._ask(lambda site: site.locks())
        except MeziteError:
            return
        locked = {lock["target"] for lock in locks if lock["reason"] == "generation_mismatch"}
        for theft in self.thefts:
            theft.found = theft.found or theft.instance in locked

    def run(self) -> None:
        settings = self.settings
        began = time.monotonic()
        due = {
            self.harm_a_server: settings.server_fault_every,
            self.harm_the_database: settings.database_fault_every,
            self.harm_a_daemon: settings.daemon_fault_every,
            self.steal: settings.theft_every,
            self.look: 2.0,
        }
        following = {what: self.chance.uniform(0, 2 * every) for what, every in due.items()}
        while (passed := time.monotonic() - began) < settings.seconds or (
            self.missing() and passed < settings.seconds + settings.longest_wait
        ):
            self._later.run()
            self.supervise_servers()
            self.supervise_daemons()
            for what, every in due.items():
                if passed >= following[what]:
                    what()
                    following[what] = passed + self.chance.uniform(0, 2 * every)
            time.sleep(0.1)
        self._settle()

    def missing(self) -> frozenset[str]:
        """Kinds of faults that have not happened yet."""
        return KINDS - self.done.keys() | (frozenset() if self.thefts else {"theft"})

    def _settle(self) -> None:
        """No more faults; everybody must renew, and every theft show."""
        self._later.run(all_of_it=True)
        deadline = time.monotonic() + SETTLING
        goals: dict[str, tuple[str, int]] = {}
        while time.monotonic() < deadline:
            self._later.run()
            self.supervise_servers()
            self.supervise_daemons()
            self.look()
            # A server that had ended by itself is started again first.
            if not self._later and all(theft.found for theft in self.thefts):
                for machine in self.machines:
                    goals.setdefault(machine.name, (machine.instance, machine.generation))
                if all(self._has_gone_on(machine, goals) for machine in self.machines):
                    break
            time.sleep(0.2)
        self.lost += [
            f"{machine.name} renews no more: {machine.log()[-300:]}"
            for machine in self.machines if not self._has_gone_on(machine, goals)
        ]

    @staticmethod
    def _has_gone_on(machine: Member, goals: dict[str, tuple[str, int]]) -> bool:
        instance, generation = goals.get(machine.name, ("", 1 << 62))
        return bool(instance) and has_gone_on(machine, instance, generation)

    def figures(self) -> dict[str, Any]:
        for site in self.sites:
            wait_for(site.is_serving, "server", 60)
        for machine in self.machines:
            machine.check_outputs()
        events = list(pages(self.sites[0].call, "audit.ls", "events"))
        stolen = [theft.instance for theft in self.thefts]
        found = check(events, stolen)
        return {
            "servers": self.settings.servers,
            "daemons": self.settings.daemons,
            "seconds": self.settings.seconds,
            "seed": self.settings.seed,
            "faults": dict(sorted(self.done.items())),
            "kinds of faults that did not come": len(self.missing()),
            "audit events": len(events),
            "generations given out": found.counted["user.cert.issued"],
            "lost replies made good": found.counted["user.cert.reissued"],
            "generations adopted": found.counted["generation_adopted"],
            "starts of servers": found.counted["server.started"],
            "thefts planted": len(self.thefts),
            "thefts found": sum(theft.found for theft in self.thefts),
            "promises broken, by the audit log": len(found.broken),
            "broken": found.broken,
            "identities lost": len(self.lost),
            "lost": self.lost,
        }

    def close(self) -> None:
        for site in self.sites:
            site.close()


def is_good(figures: dict[str, Any]) -> bool:
    return (
        figures["promises broken, by the audit log"] == figures["identities lost"] == 0
        and figures["thefts found"] == figures["thefts planted"]
        # Nothing was lost that a machine had been told of.
        and figures["generations adopted"] == 0
    )


def soak(settings: Settings, root: Path, launchers: Launchers, database: Postgres) -> dict[str, Any]:
    """The figures of one soak below *root*, on an empty *database*."""
    running = SeveralSoak(settings, root, launchers, database)
    try:
        running.start()
        running.run()
        return running.figures()
    finally:
        running.close()


def parse(words: Sequence[str] | None = None) -> tuple[Settings, bool]:
    """What the command line asks for, and whether as JSON."""
    parser = argparse.ArgumentParser(prog="bin/soak --postgres", description=__doc__)
    defaults = Settings()
    parser.add_argument("--postgres", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--servers", type=int, default=defaults.servers)
    parser.add_argument("--daemons", type=int, default=defaults.daemons)
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    return Settings(
        servers=given.servers, daemons=given.daemons, seconds=given.seconds, seed=given.seed
    ), given.json


def main() -> int:
    settings, as_json = parse()
    if binaries() is None:
        print(f"bin/soak: {MISSING}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        launchers = Launchers(None)
        database = Postgres()
        try:
            figures = soak(settings, Path(name), launchers, database)
        finally:
            launchers.close()
            database.close()
    return finish(figures, is_good=is_good(figures), as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
