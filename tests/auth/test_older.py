"""A database that was put back, and nobody said so: it is found out, and nobody joins."""

from __future__ import annotations

import pytest

from mezite.auth import admin, admin_bots, admin_tokens, older
from mezite.auth.context import Operator
from mezite.auth.older import Sign
from mezite.auth.restore import begin
from mezite.core.highwater import HighWater
from mezite.core.serials import serial_floor
from mezite.errors import Conflict, Reason
from tests.auth.test_join import reason
from tests.auth.test_restore import declare, put_back, serial, start
from tests.harness import Auth, Machine

OPERATOR = Operator(0, "root")


def begin_with(auth: Auth, mark: HighWater | None, *, good: bool = True) -> older.OlderCopy | None:
    return auth.write(
        lambda tx: begin(auth.context, tx, auth.now, clock_is_good=good, mark=mark, has_mark=True)
    )


def newest(auth: Auth) -> int:
    return auth.write(lambda tx: tx.newest_event())


def sign(auth: Auth) -> Sign | None:
    found = auth.write(older.older_copy)
    return None if found is None else found.sign


def test_a_database_at_its_mark_or_beyond_is_no_copy(auth: Auth) -> None:
    """Beyond: the mark was behind when the power went."""
    assert begin_with(auth, HighWater(newest(auth), 1)) is None
    assert begin_with(auth, HighWater(newest(auth) - 1, 1)) is None
    assert auth.events("database.older") == []


def test_what_was_moved_from_a_file_is_numbered_above_the_marks_of_other_servers(auth: Auth) -> None:
    """With a mark beside it, as in a file, an older copy goes on right above that mark; where several
    servers have marks, far above, so that theirs hold, too."""
    begin_with(auth, HighWater(newest(auth), 1))
    begin_with(auth, HighWater(newest(auth) + 5, 1))
    seen = newest(auth)
    assert seen < 100
    moved = auth.write(
        lambda tx: begin(auth.context, tx, auth.now, clock_is_good=True, mark=HighWater(seen + 5, 1))
    )
    assert moved is not None
    assert newest(auth) > seen + (1 << 20)


def test_one_behind_its_mark_takes_no_joins_until_a_restore_is_declared(auth: Auth, machine: Machine) -> None:
    """And renews machines meanwhile, with serials that were never issued."""
    bot = auth.add_bot("other")
    token = auth.add_token(bot)
    waiting = Machine(auth)
    asked = waiting.join_request(token)
    begin_with(auth, HighWater(newest(auth) + 1, 1 << 52), good=False)
    assert sign(auth) is Sign.MARK
    assert reason(auth.join(*asked)) is Reason.DATABASE_RESTORED
    assert auth.write(lambda tx: tx.token(token.id)).used == 0
    machine.renew()
    assert serial(machine) >= 1 << 52
    with pytest.raises(Conflict, match="mezctl restore"):
        auth.write(lambda tx: admin_tokens.create_token(auth.context, tx, OPERATOR, "other"))
    with pytest.raises(Conflict, match="mezctl restore"):
        auth.write(lambda tx: admin_bots.add_bot(auth.context, tx, OPERATOR, "third", ["ci-deployer"]))
    assert auth.write(lambda tx: admin.status(auth.context, tx)).older is not None
    declare(auth)
    assert sign(auth) is None
    new = auth.write(lambda tx: admin_tokens.rotate_token(auth.context, tx, OPERATOR, "other"))
    assert new[0].text


def test_the_mark_holds_again_and_the_same_copy_shows_again(auth: Auth) -> None:
    """No number of an event is given out twice, and a restart does not hide what was found."""
    copied = newest(auth)
    begin_with(auth, HighWater(copied + 1000, 1))
    assert newest(auth) > copied + 1000
    assert auth.events("database.older")[0].event.fields["newest_event"] == copied
    assert begin_with(auth, HighWater(newest(auth), 1)) is not None
    assert len(auth.events("database.older")) == 1
    declare(auth)
    assert begin_with(auth, HighWater(newest(auth), 1)) is None
    assert begin_with(auth, HighWater(newest(auth) + 1, 1)) is not None


def test_other_servers_marks_hold_again_too(auth: Auth) -> None:
    """Of several on one database each has seen a different last commit; one alarm is enough."""
    copied = newest(auth)

    def server(mark: int) -> older.OlderCopy | None:
        return auth.write(
            lambda tx: begin(auth.context, tx, auth.now, clock_is_good=True, mark=HighWater(mark, 1))
        )

    assert server(copied + 1000) is not None
    declare(auth)
    assert server(copied + 5000) is None
    assert server(newest(auth) + 1) is not None


def test_a_mark_that_is_gone_shows_a_copy_where_one_was_kept(auth: Auth) -> None:
    """As on a new host.  A database that never had one has just been upgraded."""
    assert begin_with(auth, None) is None
    assert begin_with(auth, None) is not None
    assert sign(auth) is Sign.NO_MARK


def test_the_first_machine_that_is_ahead_shows_it(auth: Auth, machine: Machine) -> None:
    """Its own renewal is served, and its serial is above all that could have been issued."""
    start(auth)
    token = auth.add_token(auth.add_bot("other"))
    put_back(auth, machine)
    late = Machine(auth)
    late.wishes = machine.wishes
    auth.advance(seconds=1)
    before = serial(machine)
    machine.renew()
    assert serial(machine) >= serial_floor(auth.now) > before
    assert sign(auth) is Sign.MACHINE
    assert auth.events("database.older")[0].event.fields["instance"] == machine.instance_id
    assert reason(auth.join(*late.join_request(token))) is Reason.DATABASE_RESTORED
    auth.advance(minutes=1)
    declare(auth)
    assert sign(auth) is None
    machine.renew()
    assert sign(auth) is None


def test_a_join_whose_answer_was_lost_is_answered_and_an_unknown_machine_told_to_wait(auth: Auth) -> None:
    """The copy may be the wrong one: no machine ends for it before the operator says that it is right."""
    token = auth.add_token(auth.add_bot())
    known = Machine(auth)
    auth.join(*known.join_request(token))
    forgotten = Machine(auth)
    forgotten.join(auth.add_token(auth.add_bot("other")))
    auth.write(lambda tx: tx._change("", "delete from instances where id = ?", forgotten.instance_id))
    begin_with(auth, HighWater(newest(auth) + 1, 1))
    known.join(token)
    assert reason(forgotten.try_renew()) is Reason.DATABASE_RESTORED
    declare(auth)
    assert reason(forgotten.try_renew()) is Reason.INSTANCE_UNKNOWN


def test_a_machine_late_from_a_declared_restore_does_not_alarm(auth: Auth, machine: Machine) -> None:
    put_back(auth, machine)
    start(auth)
    auth.advance(minutes=1)
    declare(auth)
    machine.renew()
    assert auth.events("generation_adopted")
    assert sign(auth) is None
