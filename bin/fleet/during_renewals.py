"""`bin/logins`: real logins by the system's ssh while the identities are renewed all the time."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mezite.admin import client
from mezite.errors import MeziteError
from tests.system.processes import Cluster, MachineProcess, wait_for

AGENT, CONFIG, PLAIN = "agent", "ssh_config", "plain -i"
PLAIN_PART = 0.2
"""So many logins by plain -i, for each by another way: they are only for comparison."""
TIMEOUT = 60


@dataclass
class Way:
    """One way to log in, and what came of it."""

    name: str
    words: list[str]
    env: dict[str, str]
    wanted: int
    begun: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    """What ssh said last → how often."""

    @property
    def done(self) -> int:
        return len(self.seconds)


class Renewals:
    """Renews the identity of one daemon every *every* seconds, until it is stopped."""

    def __init__(self, machine: MachineProcess, every: float) -> None:
        self.count = 0
        self.failed = 0
        self._machine = machine
        self._every = every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        daemon = client.connect([str(self._machine.destination / ".mezite/control.sock")], remedy="")
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every, time.monotonic())
            try:
                daemon.call("identity.renew")
                self.count += 1
            except MeziteError:
                self.failed += 1
        daemon.close()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT)


def machine_with(cluster: Cluster, name: str, outputs: str) -> MachineProcess:
    machine = cluster.machine(name)
    token = cluster.add_bot(name)
    daemon = machine.daemon(f"--join-token={token}", f"--outputs={outputs}")
    wait_for(lambda: machine.status().get("ready"), f"identity; {daemon.text()}", TIMEOUT)
    return machine


def ways(cluster: Cluster, logins: int) -> tuple[list[Way], list[MachineProcess]]:
    """Agent and files are of daemons of their own, so that neither helps the other."""
    agent, files = machine_with(cluster, "by-agent", "agent"), machine_with(cluster, "by-files", "files")
    common = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"]
    where = ["-p", str(cluster.node_port), "deploy@127.0.0.1", "whoami"]

    def known(machine: MachineProcess) -> list[str]:
        return ["-F", "none", "-o", f"UserKnownHostsFile={machine.destination}/known_hosts"]

    agent_env = {**agent.env, "SSH_AUTH_SOCK": str(agent.destination / "agent.sock")}
    config = ["-F", str(files.destination / "ssh_config")]
    plain = [*known(files), "-i", str(files.destination / "ssh_key"), "-o", "IdentitiesOnly=yes"]
    found = [
        Way(AGENT, ["ssh", *known(agent), *common, *where], agent_env, logins),
        Way(CONFIG, ["ssh", *config, *common, *where], files.env, logins),
        Way(PLAIN, ["ssh", *plain, *common, *where], files.env, round(logins * PLAIN_PART)),
    ]
    return found, [agent, files]


class Rush:
    """*threads* log in by all ways, evenly, until all is done or *deadline* has come."""

    def __init__(self, found: list[Way], threads: int, deadline: float) -> None:
        self._ways = found
        self._deadline = deadline
        self._lock = threading.Lock()
        self._turns = self._next()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _next(self) -> Iterator[Way]:
        while left := [way for way in self._ways if way.begun < way.wanted]:
            way = min(left, key=lambda one: one.begun / one.wanted)
            way.begun += 1
            yield way

    def _run(self) -> None:
        while time.monotonic() < self._deadline:
            with self._lock:
                way = next(self._turns, None)
            if way is None:
                return
            begun = time.monotonic()
            try:
                done = subprocess.run(
                    way.words, env=way.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    timeout=TIMEOUT, check=False,
                )
                good, said = (done.returncode, done.stdout) == (0, "deploy\n"), done.stderr
            except subprocess.TimeoutExpired:
                good, said = False, "timed out"
            with self._lock:
                way.seconds.append(time.monotonic() - begun)
                if not good:
                    way.failures[(said.strip().splitlines() or ["nothing said"])[-1]] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/logins", description=__doc__)
    parser.add_argument("--logins", type=int, default=1000, help="by the agent, and as many by ssh_config")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="between two renewals")
    parser.add_argument("--threads", type=int, default=4, help="logins at once")
    parser.add_argument("--minutes", type=float, default=30, help="at most")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="logins") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.start()
            cluster.add_role()
            found, machines = ways(cluster, given.logins)
            begun = time.monotonic()
            renewals = [Renewals(machine, given.every) for machine in machines]
            Rush(found, given.threads, begun + given.minutes * 60).run()
            for one in renewals:
                one.stop()
            took = time.monotonic() - begun
        finally:
            cluster.close()
    show(found, renewals, took)
    return int(any(way.failures for way in found if way.name != PLAIN) or any(way.done == 0 for way in found))


def show(found: list[Way], renewals: list[Renewals], took: float) -> None:
    counts = " and ".join(f"{one.count:,}" for one in renewals)
    each = ", ".join(f"{took / one.count:.2f} s" for one in renewals if one.count)
    print(f"{took:.0f} s; {counts} renewals (one every {each}), {sum(one.failed for one in renewals)} failed")
    print(f"{'way':12}{'logins':>8}{'failed':>8}{'median':>10}{'99 %':>10}")
    for way in found:
        if way.done > 1:
            median, last = statistics.median(way.seconds), statistics.quantiles(way.seconds, n=100)[98]
            row = f"{way.name:12}{way.done:>8,}{way.failures.total():>8,}"
            print(f"{row}{median * 1000:>7.0f} ms{last * 1000:>7.0f} ms")
        for said, times in way.failures.most_common(3):
            print(f"    {times} × {said}")


if __name__ == "__main__":
    sys.exit(main())
