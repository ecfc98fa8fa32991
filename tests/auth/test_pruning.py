"""What is over for good is forgotten, and nothing that could still come back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mezite.auth.admin_tokens import MAX_TOKEN_TTL
from mezite.auth.pruning import BATCH, Pruned, find_stale, prune
from mezite.core.audit import AuditEvent, EventType
from mezite.core.model import MAX_RENEWABLE_FOR, LockKind
from mezite.core.retention import KEPT_ENDED, KEPT_IDLE, KEPT_REMOVED
from mezite.errors import Reason, Refused
from tests.auth.test_join import reason
from tests.auth.test_renew import _answer
from tests.harness import Auth, Machine, Pending

DAY = timedelta(days=1)
NOTHING = Pruned(0, 0, 0, 0)


def run(auth: Auth, keep_events: timedelta | None = None) -> Pruned:
    stale = auth.storage.read(lambda tx: find_stale(auth.context, tx)).result(10)
    return auth.write(lambda tx: prune(auth.context, tx, stale, keep_events))


def add_events(auth: Auth, count: int) -> None:
    event = AuditEvent(EventType.CLOCK_ACCEPTED, auth.now, "system")
    auth.write(lambda tx: [tx.add_event(event) for _ in range(count)])


def test_every_token_has_ended_when_what_it_admitted_is_forgotten() -> None:
    """Else its key could be admitted a second time."""
    assert MAX_TOKEN_TTL <= KEPT_ENDED < KEPT_REMOVED < KEPT_IDLE


def test_an_instance_is_forgotten_when_nobody_could_recover_it_any_more(auth: Auth) -> None:
    """With the longest renewable_for there is, it is kept as long again after its expiry."""
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot(renewable_for=MAX_RENEWABLE_FOR)))
    auth.now += MAX_RENEWABLE_FOR
    assert reason(machine.try_renew()) is Reason.EXPIRED
    assert run(auth).instances == 0
    auth.now += MAX_RENEWABLE_FOR
    assert run(auth).instances == 0
    assert reason(machine.try_renew()) is Reason.EXPIRED
    auth.now += DAY
    assert run(auth).instances == 1
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN
    assert run(auth) == NOTHING


def test_a_machine_that_renews_is_never_forgotten(auth: Auth, machine: Machine) -> None:
    for _ in range(80):
        auth.advance(days=6)
        machine.renew()
        assert run(auth, DAY * 30).instances == 0
    assert machine.renew().generation == 82


@pytest.mark.parametrize("days_after", [90, 92])
def test_a_removed_instance_is_told_so_as_long_as_it_could_ask(
    auth: Auth, machine: Machine, days_after: int
) -> None:
    auth.write(lambda tx: tx.remove_instance(machine.instance_id, auth.now))
    auth.advance(days=days_after)
    assert run(auth).instances == (days_after > 91)
    refused = machine.try_renew()
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.INSTANCE_UNKNOWN
    assert ("has been removed" in str(refused)) == (days_after < 91)


def test_a_forked_instance_stays_locked_until_it_is_forgotten(auth: Auth, machine: Machine) -> None:
    """Its lock goes with it, never before it; and what is not known renews nothing."""
    thief = machine.copy()
    thief.pending = Pending()
    machine.renew()
    assert reason(_answer(thief)) is Reason.GENERATION_MISMATCH
    auth.now += KEPT_IDLE
    assert run(auth).instances == 0
    assert len(auth.locks()) == 1
    auth.now += DAY
    assert run(auth).instances == 1
    assert auth.locks() == ()
    assert {reason(_answer(one)) for one in (machine, thief)} == {Reason.INSTANCE_UNKNOWN}


def test_the_key_of_a_forgotten_instance_is_not_admitted_again(auth: Auth) -> None:
    """Its admission is gone, and so is its token."""
    machine = Machine(auth)
    token = auth.add_token(auth.add_bot(), uses=5, ttl=MAX_TOKEN_TTL)
    pending = machine.pending
    machine.join(token)
    auth.write(lambda tx: tx.remove_instance(machine.instance_id, auth.now))
    auth.now += KEPT_REMOVED + DAY
    run(auth)
    machine.pending = pending
    assert reason(auth.join(*machine.join_request(token))) is Reason.TOKEN_EXPIRED


def test_a_removed_bot_is_forgotten_when_nothing_of_it_is_left(auth: Auth, machine: Machine) -> None:
    """Neither an instance, which would be told that its bot is gone, nor a token."""
    bot = auth.write(lambda tx: tx.bot("github-deploy"))
    auth.add_token(bot, ttl=MAX_TOKEN_TTL)
    auth.write(lambda tx: tx.remove_bot(bot.id, auth.now))
    again = auth.add_bot()
    auth.now += KEPT_REMOVED
    assert (run(auth).bots, reason(machine.try_renew())) == (0, Reason.BOT_GONE)
    auth.now += DAY
    assert (run(auth).instances, run(auth).bots) == (1, 0)
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN
    auth.now += MAX_TOKEN_TTL
    assert run(auth).tokens == 1
    assert run(auth).bots == 1
    assert auth.write(lambda tx: tx._all("select id from bots")) == [(again.id,)]
    assert auth.write(lambda tx: tx._all("select distinct bot_id from bot_roles")) == [(again.id,)]
    assert run(auth) == NOTHING


def test_tokens_and_locks_go_long_after_their_end(auth: Auth) -> None:
    bot = auth.add_bot()
    auth.add_token(bot, ttl=DAY)
    auth.lock(LockKind.BOT, bot.name, expires_at=auth.now + DAY)
    auth.lock(LockKind.LOGIN, "root")
    auth.now += DAY + KEPT_ENDED
    assert run(auth) == NOTHING
    auth.now += DAY
    assert run(auth) == Pruned(instances=0, tokens=1, locks=1, events=0)
    assert [lock.target.value for lock in auth.locks()] == ["root"]


def test_events_are_kept_for_ever_unless_a_time_is_set(auth: Auth) -> None:
    """Never the newest one, so that numbers go on rising."""
    add_events(auth, 3)
    before = auth.write(lambda tx: tx.list_events(limit=1000))
    auth.advance(days=4000)
    assert run(auth) == NOTHING
    assert run(auth, DAY * 400).events == len(before) - 1
    left = auth.write(lambda tx: tx.list_events(limit=1000))
    assert [one.event.type for one in left] == [EventType.RECORDS_PRUNED, EventType.CLOCK_ACCEPTED]
    assert left[0].event.fields == {"instances": 0, "tokens": 0, "locks": 0, "events": len(before) - 1,
                                    "bots": 0}
    assert left[0].id == before[0].id + 1


def test_one_run_takes_a_batch(auth: Auth) -> None:
    """And says that there may be more."""
    add_events(auth, BATCH + 5)
    auth.advance(days=800)
    first = run(auth, DAY * 400)
    assert (first.events, first.may_have_left_some) == (BATCH, True)
    assert not run(auth, DAY * 400).may_have_left_some
