"""Machines whose clock is off, or is set while they run; the clock is libfaketime's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.processes import Cluster, MachineProcess, Process, wait_for
from tests.system.test_coming_back import generation, is_let_in

_FOUND = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
pytestmark = pytest.mark.skipif(not _FOUND, reason="needs libfaketime (Debian: faketime)")


class Clock:
    """What a machine's processes take for the time: the real one, and so many seconds."""

    def __init__(self, machine: MachineProcess) -> None:
        self._file = machine.home / "clock"
        self.set(0)
        machine.env |= {
            "LD_PRELOAD": str(_FOUND[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)


def warnings(daemon: Process) -> list[str]:
    return [line for line in daemon.text().splitlines() if "this machine's clock is" in line]


@pytest.mark.parametrize("off", [3600, -3600], ids=["an hour ahead", "an hour behind"])
def test_a_machine_whose_clock_is_off_by_an_hour_joins_and_renews(cluster: Cluster, off: int) -> None:
    """It says so once, goes on at the asked pace, through a restart too, and its logins are good."""
    cluster.add_role()
    machine = cluster.machine()
    Clock(machine).set(off)
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    wait_for(lambda: generation(machine) >= 3, "generation 3")
    assert is_let_in(machine)
    status = machine.status()
    assert abs(status["clock_skew_seconds"] + off) < 5
    assert status["clock_skew_give_or_take_seconds"] < 5
    assert len(warnings(daemon)) == 1, daemon.text()
    assert "1h" in warnings(daemon)[0]
    assert daemon.stop() == 0
    reached = status["generation"]
    machine.daemon("--renewal-interval=2s")
    wait_for(lambda: generation(machine) >= reached + 2, "renewals after the restart")


def test_a_daemon_waits_for_a_clock_that_is_not_set_yet(cluster: Cluster) -> None:
    """It boots years behind, before NTP is there, and its unit would not start it again after 3."""
    cluster.add_role()
    machine = cluster.machine()
    clock = Clock(machine)
    clock.set(-20 * 365 * 86400)
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}")
    told = "is not valid yet, by this machine's clock; set this machine's clock right"
    wait_for(lambda: told in daemon.text(), "line about the clock")
    clock.set(0)
    wait_for(lambda: generation(machine) == 1, "identity")
    assert is_let_in(machine)


def test_a_clock_that_is_set_while_the_daemon_runs_harms_nothing(cluster: Cluster) -> None:
    """An hour ahead, an hour back, and right again: renewals go on, and logins are good."""
    cluster.add_role()
    machine = cluster.machine()
    clock = Clock(machine)
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    wait_for(lambda: generation(machine) >= 1, "join")
    for off in (3600, -3600, 0):
        clock.set(off)
        # Whatever was under way when the clock was set may have been answered by the old one.
        wanted = generation(machine) + 3
        wait_for(lambda wanted=wanted: generation(machine) >= wanted, f"renewals at {off:+d} s")
        assert abs(machine.status()["clock_skew_seconds"] + off) < 5
        assert is_let_in(machine)
    assert "agrees with the server's again" in daemon.text()
    assert daemon.code is None
