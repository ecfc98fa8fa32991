"""The faults of a soak: each does its harm to one daemon, or to the server, and is counted."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.system.faults.proxy import Act, Plan, Proxy, Way
from tests.system.faults.rig import Machine, Site
from tests.system.faults.shim import Kind, Mode

BROKEN = 0.06
"""The part of the connections that break."""
CALLS = 30
"""A renewal changes the disk less often."""


@dataclass
class Theft:
    """A machine's directory, copied and used."""

    owner: Machine
    thief: Machine
    instance: str
    interval: float
    planted: float
    renewed: float | None = None
    """When the thief was first answered, or refused."""
    found: float | None = None


class Harm:
    """Chosen by *chance*; ``later`` runs something after so many seconds."""

    def __init__(
        self, site: Site, chance: random.Random, later: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self.done: Counter[str] = Counter()
        self._site = site
        self._chance = chance
        self._wires = random.Random(chance.random())
        self._later = later
        self.proxy = Proxy(site.port, self._choose)
        self.is_quiet = False
        self.found_out = False
        """The server knew its database for an older copy."""
        self.busy: set[str] = set()
        """Machines that something is being done to."""
        self.server_is_busy = threading.Lock()
        self._kinds: dict[str, Callable[[Machine], None]] = {
            "daemon: kill -9": self._kill,
            "daemon: kill -9 in a write, rename or sync": self._kill_at_a_call,
            "daemon: a full disk, for one call": lambda machine: self._fail(machine, Mode.NO_SPACE),
            "daemon: an I/O error, for one call": lambda machine: self._fail(machine, Mode.IO_ERROR),
            "daemon: SIGSTOP for 1 to 8 s": self._pause,
            "daemon: clock an hour off for 5 s": self._set_clock,
        }

    def _choose(self) -> Plan | None:
        if self.is_quiet or self._wires.random() >= BROKEN:
            return None
        act = self._wires.choices([Act.CUT, Act.RESET, Act.DROP, Act.STALL], [5, 3, 1, 1])[0]
        way = self._wires.choice([Way.UP, Way.DOWN])
        return Plan(way, self._wires.randrange(4200 if way is Way.UP else 4800), act)

    def to_a_daemon(self, machine: Machine) -> None:
        kind = self._chance.choice(list(self._kinds))
        self._kinds[kind](machine)
        self.done[kind] += 1

    def _kill(self, machine: Machine) -> None:
        assert machine.daemon is not None
        machine.daemon.send(signal.SIGKILL)

    def _kill_at_a_call(self, machine: Machine) -> None:
        machine.faults.arm(self._chance.randrange(1, CALLS), Mode.KILL_HALF)

    def _fail(self, machine: Machine, mode: Mode) -> None:
        machine.faults.arm(self._chance.randrange(1, CALLS), mode)

    def _pause(self, machine: Machine) -> None:
        daemon = machine.daemon
        assert daemon is not None
        daemon.send(signal.SIGSTOP)
        self.busy.add(machine.name)

        def wake() -> None:
            daemon.send(signal.SIGCONT)
            self.busy.discard(machine.name)

        self._later(self._chance.uniform(1, 8), wake)

    def _set_clock(self, machine: Machine) -> None:
        hours = timedelta(hours=self._chance.choice([-1, 1]))
        machine.faults.set_clock(hours)
        self._later(5, lambda: machine.faults.set_clock(timedelta(0)))

    # --- the server ---------------------------------------------------------------------------

    def to_the_server(self) -> None:
        kind = self._chance.choice(["kill -9", "kill -9 at a commit", "SIGSTOP for 1 to 5 s", "away for 8 s"])
        if not self.server_is_busy.acquire(blocking=False):
            return
        try:
            self._server(kind)
        except BaseException:
            self.server_is_busy.release()
            raise
        self.done[f"server: {kind}"] += 1

    def _server(self, kind: str) -> None:
        server = self._site.server
        assert server is not None
        if kind == "kill -9":
            server.kill()
            self._revive()
        elif kind == "kill -9 at a commit":
            self._site.faults.watch(self._site.data / "mezite.db-wal", Kind.SYNC)
            mode = self._chance.choice([Mode.KILL_BEFORE, Mode.KILL_AFTER])
            self._site.faults.arm(self._chance.randrange(1, 4), mode)
            with contextlib.suppress(AssertionError):  # nobody renews now: it lives
                server.wait(10)
            self._site.faults.disarm()
            server.kill()
            self._revive()
        elif kind == "away for 8 s":
            self.proxy.is_down = True
            self._later(8, self._back)
        else:
            server.send(signal.SIGSTOP)

            def wake() -> None:
                server.send(signal.SIGCONT)
                self.server_is_busy.release()

            self._later(self._chance.uniform(1, 5), wake)

    def _back(self) -> None:
        self.proxy.is_down = False
        self.server_is_busy.release()

    def _revive(self) -> None:
        self._site.hang_up()
        self._site.start()
        self.server_is_busy.release()

    def back_up(self, to: Path) -> None:
        """The database, copied while the server stands still."""
        with self.server_is_busy:
            self._stop()
            to.mkdir()
            for path in self._site.data.glob("mezite.db*"):
                shutil.copy2(path, to / path.name)
            self._site.start()

    def restore(self, backup: Path) -> None:
        """Its files are put back by hand, under a fleet that has renewed since; the server finds
        that out, and only then does the operator say so."""
        with self.server_is_busy:
            self._stop()
            for path in self._site.data.glob("mezite.db*"):
                path.unlink()
            for path in backup.iterdir():
                shutil.copy2(path, self._site.data / path.name)
            self._site.start()
            self.found_out = self._site.call("status")["older_copy"] is not None
            self._site.call("restore")
        self.done["server: database restored from a backup"] += 1

    def _stop(self) -> None:
        assert self._site.server is not None
        self._site.server.stop()
        self._site.hang_up()

    def close(self) -> None:
        self.proxy.close()
