"""Clocks that part: the machine sleeps, or somebody sets its wall clock, while the daemon runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mezite.identity.clocks import Clocks
from mezite.identity.destination import Directory
from mezite.identity.events import Tick
from mezite.identity.places import Outlets
from mezite.identity.service import TICK, IdentityService
from mezite.identity.state import StateFile
from mezite.identity.states import Options, Phase
from tests.harness import Auth
from tests.identity.fakes import FakeRemote, joined_rig

HOUR = timedelta(hours=1)


def test_eight_hours_of_sleep_end_with_a_renewal_at_the_first_tick(auth: Auth) -> None:
    """The monotonic clock stood still, the wall clock and the server's went on; the
    certificate is long over, and the lineage is not."""
    rig = joined_rig(auth)
    rig.feed(Tick())
    assert rig.generation == 1
    auth.now += 8 * HOUR
    rig.feed(Tick())
    assert rig.generation == 2
    assert rig.state.phase is Phase.HOLDING
    assert rig.state.trouble is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_the_wall_clock_delays_no_renewal(auth: Auth, hours: int) -> None:
    """An hour back: it is due by the monotonic clock. An hour ahead: at once, which does no harm."""
    rig = joined_rig(auth)
    rig.wall_off = hours * HOUR
    rig.feed(Tick())
    assert rig.generation == (2 if hours > 0 else 1)
    held = rig.disk.held
    assert held is not None
    rig.advance(held.renew_after)
    rig.feed(Tick())
    assert rig.generation == (3 if hours > 0 else 2)


def test_the_service_wakes_by_the_wall_clock(auth: Auth, tmp_path: Path) -> None:
    """The same through the service: its reactor's clock moves by one tick, the wall by eight hours."""
    clock, remote = Clock(), FakeRemote(auth)
    state_file = StateFile(tmp_path)
    token = auth.add_token(auth.add_bot())
    service = IdentityService(
        reactor=clock,
        clocks=Clocks(clock.seconds, lambda: auth.now.timestamp(), lambda: 0.5),
        options=Options(server=remote.address, token=token),
        durable=state_file.load(),
        state_file=state_file,
        outlets=Outlets({"default": [Directory(tmp_path)]}),
        where=str(tmp_path),
        remote=remote,
        published=lambda held: None,
    )
    service.startService()
    try:
        assert service.status()["generation"] == 1
        auth.now += 8 * HOUR
        clock.advance(TICK.total_seconds())
        assert service.status()["generation"] == 2
        assert service.status()["seconds_left"] == pytest.approx(3600, abs=5)
    finally:
        service.stopService()
        state_file.release()
