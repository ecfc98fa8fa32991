"""Clocks set wrong, machines put to sleep, processes stopped: real daemons, and a real server."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from tests.system.faults.rig import Machine, Site
from tests.system.processes import wait_for

HOUR = timedelta(hours=1)


def renews(machine: Machine, times: int = 2) -> None:
    goal = machine.generation + times
    what = f"renewals of {machine.name}; {machine.log()}"
    wait_for(lambda: machine.published_generation() >= goal, what)


def settled(machine: Machine) -> None:
    machine.check_outputs()
    # It may have ended, too, while this machine was busy; the daemon goes on renewing.
    wait_for(machine.has_valid_certificate, f"valid certificate; {machine.log()}")
    machine.check_alone()
    assert machine.stop() == 0, machine.log()


def test_a_machine_whose_clock_steps_goes_on(site: Site) -> None:
    """An hour ahead, an hour back, or eight hours of sleep between two ticks: the next renewals
    come when they are due or at once, never late, and nothing is locked."""

    def live(case: tuple[str, timedelta, timedelta]) -> None:
        name, ahead, slept = case
        machine = site.machine(f"step-{name}")
        machine.start("--renewal-interval=2s", "--certificate-ttl=1m")
        wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
        machine.faults.set_clock(ahead, slept=slept)
        renews(machine)
        machine.faults.set_clock(timedelta(0))
        renews(machine)
        settled(machine)

    cases = [
        ("ahead", HOUR, timedelta(0)),
        ("back", -HOUR, timedelta(0)),
        ("asleep", 8 * HOUR, 8 * HOUR),
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(live, cases))


def test_a_machine_whose_clock_is_off_joins_renews_and_restarts(site: Site) -> None:
    """Off by an hour from the start, either way: joins, renews, and goes on after a restart."""

    def live(case: tuple[str, timedelta]) -> None:
        name, ahead = case
        machine = site.machine(f"off-{name}")
        machine.faults.set_clock(ahead)
        machine.start("--renewal-interval=2s", "--certificate-ttl=1m")
        wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
        machine.stop()
        machine.start("--renewal-interval=2s", "--certificate-ttl=1m")
        renews(machine, times=1)
        settled(machine)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live, [("ahead", HOUR), ("back", -HOUR)]))


def test_a_machine_stopped_for_longer_than_its_certificate_comes_back(site: Site) -> None:
    """SIGSTOP for longer than an interval, and than a TTL: awake, it renews within seconds."""

    def live(case: tuple[str, float]) -> None:
        name, seconds = case
        machine = site.machine(f"stopped-{name}")
        daemon = machine.start("--renewal-interval=2s", "--certificate-ttl=6s")
        wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
        daemon.send(signal.SIGSTOP)
        held = machine.durable().held
        assert held is not None
        wait_for(lambda: time.time() > held.server_time.timestamp() + seconds, "sleep")
        daemon.send(signal.SIGCONT)
        renews(machine, times=1)
        settled(machine)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live, [("interval", 4), ("ttl", 8)]))


def test_a_stopped_server_that_wakes_locks_nobody(own_site: Site) -> None:
    """SIGSTOP of the server with requests under way; those are answered late, or asked again."""
    machines = [own_site.machine(f"waiting{number}") for number in range(3)]
    for machine in machines:
        machine.start("--renewal-interval=1s")
    for machine in machines:
        wait_for(lambda machine=machine: machine.generation >= 1, f"join; {machine.log()}")
    assert own_site.server is not None
    own_site.server.send(signal.SIGSTOP)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + 4, "sleep")
    own_site.server.send(signal.SIGCONT)
    for machine in machines:
        renews(machine)
        settled(machine)


def test_a_server_whose_clock_steps_expires_nobody(own_site: Site) -> None:
    """An hour or less ahead is taken for right.  More, or five minutes behind the last commit:
    machines are answered `server_clock`, hold on, and go on when the clock is set right or an
    operator accepts it.  No lineage is lost to it."""
    machine = own_site.machine("watching")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
    own_site.faults.set_clock(HOUR * 0.75)
    renews(machine, times=1)
    own_site.faults.set_clock(timedelta(days=30))
    wait_for(lambda: "server_clock" in machine.log(), f"refusal; {machine.log()}")
    assert "jumped ahead" in str(own_site.call("status")["clock_fault"])
    own_site.faults.set_clock(HOUR * 0.75)
    renews(machine)
    own_site.faults.set_clock(-HOUR)
    wait_for(lambda: "behind its last commit" in str(own_site.call("status")["clock_fault"]), "fault")
    seen = machine.generation
    refusals = machine.log().count("server_clock")
    wait_for(lambda: machine.log().count("server_clock") > refusals, f"refusal; {machine.log()}")
    assert machine.generation == seen
    # The operator says that it is right; when it is set right after all, he has to say so again.
    own_site.call("clock.accept")
    renews(machine)
    own_site.faults.set_clock(timedelta(0))
    wait_for(lambda: own_site.call("status")["clock_fault"], "fault")
    own_site.call("clock.accept")
    renews(machine)
    settled(machine)


def test_a_restarted_server_does_not_forget_a_clock_that_was_wrong(own_site: Site) -> None:
    """Started with its clock an hour behind its last commit it refuses, rather than expire or issue."""
    machine = own_site.machine("patient")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
    assert own_site.server is not None
    own_site.server.kill()
    own_site.hang_up()
    own_site.faults.set_clock(-HOUR)
    own_site.start()
    wait_for(lambda: "server_clock" in machine.log(), f"refusal; {machine.log()}")
    own_site.faults.set_clock(timedelta(0))
    renews(machine)
    settled(machine)
    assert own_site.call("status")["clock_fault"] is None
