"""Logins that go on while the identities are renewed, at a node of another cluster that trusts this one."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.system.faults.rig import Launchers, Machine, Site
from tests.system.processes import environment

THROUGH_CONFIG, PLAIN = "through ssh_config", "plain -i"
TIMEOUT = 30


def node(root: Path, launchers: Launchers, user_cas: list[str]) -> Site:
    """A node that no fault is done to, which takes the User CAs in *user_cas*."""
    root.mkdir()
    trusted = root / "user_ca.pub"
    trusted.write_text("".join(line + "\n" for line in user_cas))
    site = Site(
        root, {"ssh": {"trusted_user_ca_keys": [str(trusted)], "authorization": "principals"}},
        launchers=launchers,
    )
    site.start()
    return site


class Logins:
    """*threads* log in as one machine after the other, by both ways in turn, until :meth:`stop`."""

    def __init__(self, node_port: int, machines: list[Machine], seed: int, threads: int) -> None:
        self.tried: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.expired = 0
        """Failed because the certificate had ended."""
        self.words: Counter[str] = Counter()
        """What ssh said last when one failed."""
        self._port = node_port
        self._machines = machines
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed + number),))
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)

    def _run(self, chance: random.Random) -> None:
        ways = [THROUGH_CONFIG, PLAIN]
        while not self._stopping.wait(0.3):
            machine = chance.choice(self._machines)
            if not (machine.destination / "ssh_config").exists():
                continue
            ways.reverse()
            self._login(machine, ways[0])

    def _login(self, machine: Machine, way: str) -> None:
        here = machine.destination
        which = ["-F", here / "ssh_config"] if way == THROUGH_CONFIG else [
            "-F", "none", "-i", here / "ssh_key", "-o", "IdentitiesOnly=yes",
        ]
        words = [
            "ssh", *which, "-p", self._port, "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
            "deploy@127.0.0.1", "whoami",
        ]
        try:
            done = subprocess.run(
                [str(word) for word in words], env=environment(machine.home), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )
            failed, said = done.returncode != 0, done.stderr.strip().splitlines()[-1:] or [""]
        except subprocess.TimeoutExpired:
            failed, said = True, ["timed out"]
        held = machine.durable().held
        over = held is None or held.valid_before_unix <= datetime.now(UTC).timestamp()
        with self._lock:
            self.tried[way] += 1
            if failed and over:
                self.expired += 1
            elif failed:
                self.failed[way] += 1
                self.words[f"{way}: {said[0]}"] += 1
