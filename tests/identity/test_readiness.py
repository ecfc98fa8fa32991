"""Readiness goes red before the certificate is at risk, and says why."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mezite.core.model import LockKind
from mezite.errors import Reason, Refused, StateFailure
from mezite.identity.events import RenewNow, Start, Stop, Tick
from mezite.identity.readiness import has_valid_certificate, is_published, not_ready_reason
from mezite.identity.states import Options
from mezite.identity.supervised import Supervised
from mezite.supervision import ServiceManager
from tests.harness import Auth
from tests.identity.fakes import LOST_REQUEST, Rig, joined_rig

SECOND = timedelta(seconds=1)


def reason(rig: Rig) -> str | None:
    return not_ready_reason(rig.state, rig.moment())


def test_a_fresh_identity_is_ready_and_stays_so_while_it_renews(auth: Auth) -> None:
    rig = joined_rig(auth)
    for _ in range(10):
        assert reason(rig) is None
        rig.advance(rig.disk.held.renew_after / 2)
        assert reason(rig) is None
        rig.advance(rig.disk.held.renew_after / 2 + SECOND)
        assert reason(rig) is None
        rig.feed(Tick())
    assert rig.generation == 11


def test_one_failed_renewal_is_no_alarm_and_two_are(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.faults.extend([LOST_REQUEST] * 2)
    rig.feed(RenewNow())
    assert reason(rig) is None
    rig.feed(RenewNow())
    assert reason(rig) == "2 renewals in a row have failed: nobody is there"
    rig.feed(RenewNow())
    assert reason(rig) is None


def test_a_certificate_near_its_end_is_an_alarm_without_any_failure(auth: Auth) -> None:
    """A daemon that was stopped, say: nothing has failed, and four fifths are over."""
    rig = joined_rig(auth)
    rig.advance(timedelta(minutes=48) - SECOND)
    assert reason(rig) is None
    rig.advance(SECOND)
    assert reason(rig) == "the certificate ends in 720 s and is not renewed"
    rig.advance(timedelta(minutes=12))
    assert reason(rig) == "the certificate has ended"
    rig.feed(Tick())
    assert reason(rig) is None


def test_an_interval_that_was_chosen_long_is_no_alarm_before_its_time(auth: Auth) -> None:
    rig = joined_rig(auth, interval=timedelta(minutes=58))
    rig.advance(rig.disk.held.renew_after - SECOND)
    assert reason(rig) is None


def test_a_refusal_is_an_alarm_at_once(auth: Auth) -> None:
    """It is an answer: what is locked is no valid credential on our nodes."""
    rig = joined_rig(auth)
    lock = auth.lock(LockKind.BOT, "github-deploy")
    rig.feed(RenewNow())
    assert (reason(rig) or "").startswith("the server refuses the renewal: bot/github-deploy is locked")
    assert "(locked)" in (reason(rig) or "")
    auth.write(lambda tx: tx.delete_lock(lock.id))
    rig.feed(RenewNow())
    assert reason(rig) is None


def test_a_server_that_cannot_work_is_no_refusal(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.faults.append(Refused(Reason.SERVER_CLOCK, "the server's clock has jumped"))
    rig.feed(RenewNow())
    assert reason(rig) is None


def test_without_identity_it_is_not_ready_and_tells_the_trouble(auth: Auth) -> None:
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())))
    assert reason(rig) == "there is no identity yet"
    rig.faults.append(LOST_REQUEST)
    rig.feed(Start())
    assert reason(rig) == "there is no identity yet: nobody is there"


def test_what_is_not_in_its_destination_is_not_there(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.destination.has_room = False
    rig.feed(RenewNow())
    assert not is_published(rig.state)
    assert (reason(rig) or "").startswith("the identity is not in its destination")
    rig.destination.has_room = True
    rig.advance(timedelta(minutes=2))
    rig.feed(Tick())
    assert is_published(rig.state)
    assert reason(rig) is None


def test_a_daemon_that_has_ended_is_not_ready(auth: Auth) -> None:
    rig = joined_rig(auth).feed(Stop())
    assert reason(rig) == "the daemon has ended"
    auth.write(lambda tx: tx.remove_instance(rig.disk.held.instance_id, auth.now))
    rig.restart().feed(RenewNow())
    assert "instance_unknown" in (reason(rig) or "")


def test_an_identity_from_the_disk_whose_time_is_over_is_not_valid(auth: Auth) -> None:
    rig = joined_rig(auth)
    rig.advance(timedelta(hours=2))
    rig.faults.extend([LOST_REQUEST] * 2)
    rig.restart()
    assert not has_valid_certificate(rig.state, rig.moment())
    rig.advance(timedelta(minutes=2))
    rig.feed(Tick()).feed(RenewNow())
    assert has_valid_certificate(rig.state, rig.moment())


# --- the service manager --------------------------------------------------------------------


class Heard(ServiceManager):
    """Keeps what it is told."""

    def __init__(self, watchdog: timedelta | None = None) -> None:
        super().__init__(watchdog=watchdog)
        self.lines: list[str] = []

    def tell(self, *lines: str) -> None:
        self.lines.extend(lines)


def test_ready_is_told_once_with_the_first_certificate(auth: Auth) -> None:
    manager = Heard()
    supervised = Supervised(manager)
    rig = Rig(auth, Options(token=auth.add_token(auth.add_bot())))
    rig.faults.append(LOST_REQUEST)
    rig.feed(Start())
    supervised.look(rig.state, rig.moment())
    assert manager.lines == ["STATUS=not ready: there is no identity yet: nobody is there"]
    for _ in range(3):
        rig.feed(RenewNow())
        for _ in range(2):
            supervised.look(rig.state, rig.moment())
    assert manager.lines.count("READY=1") == 1
    assert manager.lines[1] == "READY=1"
    assert manager.lines[-1].startswith("STATUS=bot github-deploy, generation 3, certificate valid until ")
    assert len(manager.lines) == 5
    supervised.stop()
    assert manager.lines[-2] == "STOPPING=1"


@pytest.mark.parametrize("watchdog", [None, timedelta(seconds=9)])
def test_signs_of_life_come_three_times_as_often_as_wanted(
    auth: Auth, watchdog: timedelta | None
) -> None:
    manager = Heard(watchdog)
    supervised = Supervised(manager)
    rig = joined_rig(auth)
    for _ in range(60):
        supervised.live(rig.moment())
        rig.advance(timedelta(milliseconds=500))
    assert manager.lines == ["WATCHDOG=1"] * (10 if watchdog else 0)


def test_a_full_disk_is_told_as_the_status(auth: Auth) -> None:
    manager = Heard()
    supervised = Supervised(manager)
    rig = joined_rig(auth)
    rig.fail_save_in = 0
    rig.feed(RenewNow())
    rig.fail_save_in = 0
    rig.feed(RenewNow())
    supervised.look(rig.state, rig.moment())
    assert isinstance(rig.state.trouble, StateFailure)
    assert manager.lines[0] == "READY=1"
    assert "2 renewals in a row have failed: cannot write the state" in manager.lines[1]
