"""The daemon killed, or failed by its disk, at each call that changes its destination.

A part of the calls; all of them with ``MEZITE_SWEEP=all``.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.system.faults.rig import WHOLE, Machine, Site, swept
from tests.system.faults.shim import Mode
from tests.system.processes import wait_for

AT_ONCE = 12
GENERATIONS = 3
"""A join and two renewals."""
names = (f"m{number}" for number in itertools.count())


def counted_calls(site: Site) -> int:
    """Calls that change the destination in an undisturbed life of :data:`GENERATIONS`."""
    machine = site.machine(next(names))
    machine.watch()
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.published_generation() >= GENERATIONS, "renewals")
    machine.stop(signal.SIGKILL)
    return machine.faults.counted


def in_parallel(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result(timeout=300)


def test_a_crash_at_any_call_loses_nothing(site: Site) -> None:
    """Killed in the middle of its N-th change to the disk, for N in a join and two renewals: what was
    published fits together, and the next process goes on with the same instance."""
    total = counted_calls(site)
    assert total > 50
    seen: set[str] = set()

    def crash(number: int) -> None:
        machine = site.machine(f"crash{number}")
        machine.watch()
        machine.faults.arm(number, Mode.KILL_HALF)
        daemon = machine.start("--renewal-interval=1s")
        assert daemon.wait() == -signal.SIGKILL, machine.log()
        assert machine.faults.fired
        seen.add(machine.faults.last.split()[0])
        machine.check_outputs()
        instance = machine.instance
        go_on(machine, instance)

    in_parallel(crash, swept(range(1, total + 1)))
    if WHOLE:
        assert {"pwrite", "write", "fdatasync", "fsync", "rename", "symlink", "fallocate"} <= seen


def go_on(machine: Machine, instance: str) -> None:
    """A restarted daemon publishes and renews, alone, as *instance* where that was known."""
    before = machine.published_generation()
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.published_generation() > max(before, 1), f"renewal; {machine.log()}")
    machine.check_outputs()
    machine.check_alone()
    assert instance in ("", machine.instance)
    assert machine.stop() == 0, machine.log()


def test_a_disk_that_fails_once_at_any_call_is_lived_with(site: Site) -> None:
    """One call in a daemon's life fails, an I/O error or a full disk in turn, for N in a
    join and two renewals: the daemon ends with one line or holds on, and goes on."""
    total = counted_calls(site)

    def fail(number: int) -> None:
        mode = Mode.IO_ERROR if number % 2 else Mode.NO_SPACE
        machine = site.machine(f"{mode.name.lower()}{number}")
        machine.watch()
        machine.faults.arm(number, mode)
        daemon = machine.start("--renewal-interval=1s")
        wait_for(lambda: machine.faults.fired or daemon.code is not None, f"fault {number}; {machine.log()}")
        wait_for(
            lambda: machine.published_generation() >= GENERATIONS or daemon.code is not None,
            f"renewals after {machine.faults.last}; {machine.log()}",
        )
        assert "Traceback" not in machine.log(), machine.log()
        if daemon.code is not None:
            # Before it had anything: it says what is wrong, and a supervisor starts it again.
            assert daemon.code in (1, 2), machine.log()
            go_on(machine, "")
            return
        machine.check_outputs()
        machine.check_alone()
        assert machine.stop() == 0, machine.log()

    in_parallel(fail, swept(range(1, total + 1), every=5))
