"""Requests and replies lost at many byte counts, between real daemons and a real server.

A part of the counts; all of them with ``MEZITE_SWEEP=all``.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.faults.proxy import Act, Plan, Proxy, Way
from tests.system.faults.rig import WHOLE, Site, swept
from tests.system.processes import wait_for

AT_ONCE = 8
PROXY = Callable[..., Proxy]


def lengths(most: int, step: int) -> range:
    return range(0, most, step)


# A handshake takes about 600 bytes up and 1,500 down; a join about 1,500 and 3,000 more.
JOINS = [
    (first, Plan(way, after, act))
    for first in (True, False)
    for way, act, counts in (
        (Way.UP, Act.CUT, lengths(3200, 400)),
        (Way.DOWN, Act.CUT, lengths(4800, 400)),
        (Way.DOWN, Act.RESET, lengths(4800, 1600)),
    )
    for after in counts
]


def test_a_join_cut_at_any_byte_succeeds_with_the_same_token(site: Site, proxy: PROXY) -> None:
    """One-shot: the first contact or the call after it breaks; the run itself asks again, and there is
    one instance, whatever the server had done before."""

    def join(numbered: tuple[int, tuple[bool, Plan]]) -> Plan | None:
        number, (first, plan) = numbered
        machine = site.machine(f"join{number}")
        way = proxy(*([plan] if first else [None, plan]))
        assert machine.once("--renewal-interval=30m", port=way.port) == 0, (plan, machine.log())
        machine.check_outputs()
        machine.check_alone()
        assert machine.generation == 1
        return plan if way.broken else None

    joins = swept(JOINS)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        broken = [plan for plan in pool.map(join, enumerate(joins)) if plan is not None]
    # The longest counts may never be reached; most must be.
    assert len(broken) > len(joins) * 2 / 3


RENEWALS = [
    Plan(way, after, act)
    for way, act, counts in (
        (Way.UP, Act.CUT, lengths(4200, 300)),
        (Way.DOWN, Act.CUT, lengths(4800, 300)),
        (Way.UP, Act.RESET, lengths(4200, 1400)),
        (Way.DOWN, Act.RESET, lengths(4800, 1600)),
    )
    for after in counts
]


def test_a_renewal_cut_at_any_byte_is_made_good(site: Site, proxy: PROXY) -> None:
    """Daemons whose renewals break one after the other, a good one between: each goes on from
    where it was, and none is locked."""
    daemons = 6
    renewals = swept(RENEWALS, every=2)
    plans = [renewals[number::daemons] for number in range(daemons)]

    def live(numbered: tuple[int, list[Plan]]) -> int:
        number, broken = numbered
        machine = site.machine(f"renew{number}")
        way = proxy()
        daemon = machine.start("--renewal-interval=1s", port=way.port)
        wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
        for plan in broken:
            way.plan(plan, None)
        wait_for(lambda: way.planned == 0 or daemon.code is not None, "plans")
        goal = machine.generation + 1
        wait_for(lambda: machine.published_generation() >= goal, f"renewal; {machine.log()}")
        machine.check_outputs()
        machine.check_alone()
        assert machine.stop() == 0, machine.log()
        return len(way.broken)

    with ThreadPoolExecutor(daemons) as pool:
        reached = sum(pool.map(live, enumerate(plans)))
    assert reached > len(renewals) * 2 / 3
    assert site.call("audit.ls", type="user.cert.reissued", limit=500)["events"]


@pytest.mark.skipif(not WHOLE, reason="takes 25 s: MEZITE_SWEEP=all; the short soak has such faults, too")
def test_what_hangs_is_given_up_and_asked_again(site: Site, proxy: PROXY) -> None:
    """Silence in any phase of a renewal ends with the deadline, and the same request is answered later."""
    plans = [Plan(*one) for one in
             itertools.product((Way.UP, Way.DOWN), (0, 700, 1900, 2600), (Act.STALL, Act.DROP))]

    def live(numbered: tuple[int, Plan]) -> None:
        number, plan = numbered
        machine = site.machine(f"hang{number}")
        way = proxy()
        machine.start("--renewal-interval=1s", port=way.port)
        wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
        way.plan(plan)
        wait_for(lambda: way.planned == 0, "renewal")
        goal = machine.generation + 2
        wait_for(lambda: machine.published_generation() >= goal, f"renewal; {machine.log()}")
        machine.check_alone()
        assert machine.stop() == 0, machine.log()

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(live, enumerate(plans)))


def test_a_server_away_for_half_a_ttl_costs_nothing(site: Site, proxy: PROXY) -> None:
    """The daemon asks again and again, and is back within seconds; the certificate never ends."""
    machine = site.machine("away")
    way = proxy()
    machine.start("--renewal-interval=2s", "--certificate-ttl=20s", port=way.port)
    wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
    way.is_down = True
    since = time.monotonic()
    wait_for(lambda: time.monotonic() - since > 10, "half a TTL")
    assert machine.has_valid_certificate()
    waits = re.findall(r"next try in (\S+)", machine.log())
    assert len(waits) >= 2
    assert set(waits) <= {"1s", "2s", "3s", "4s"}, "a fifth of what is left of the certificate"
    way.is_down = False
    goal = machine.generation + 1
    wait_for(lambda: machine.published_generation() >= goal, f"renewal; {machine.log()}")
    machine.check_alone()
    assert machine.stop() == 0
