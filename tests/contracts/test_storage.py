"""What every implementation of ``Storage`` must do, method by method.

A further database joins by a line in ``conftest.FACTORIES``.  Of pages and
races, commits and futures the other modules here tell.
"""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from mezite.core.audit import EventType
from mezite.core.model import MISMATCH, LockKind, LockTarget
from mezite.errors import Conflict
from mezite.storage.interface import Storage, Transaction
from tests.storage.making import (
    HOUR,
    NOW,
    TICK,
    make_admission,
    make_authority,
    make_bot,
    make_event,
    make_instance,
    make_lock,
    make_role,
    make_step,
    make_token,
    read,
    with_bot,
    write,
)

# --- cluster values, serial numbers, authorities --------------------------------------------


def test_values_are_kept_and_replaced(storage: Storage) -> None:
    """A value is the bytes set last, ``None`` before that."""
    assert read(storage, lambda tx: tx.value("uuid")) is None
    write(storage, lambda tx: tx.set_value("uuid", b"\x00\xff"))
    write(storage, lambda tx: tx.set_value("other", b""))
    assert read(storage, lambda tx: (tx.value("uuid"), tx.value("other"))) == (b"\x00\xff", b"")
    write(storage, lambda tx: tx.set_value("uuid", b"2"))
    assert read(storage, lambda tx: tx.value("uuid")) == b"2"


def test_serials_start_at_one_and_rise(storage: Storage) -> None:
    """Serial numbers rise from 1, across use cases and past any block."""
    first = write(storage, lambda tx: [tx.next_serial() for _ in range(350)])
    second = write(storage, lambda tx: tx.next_serial())
    assert first[0] == 1
    assert first == sorted(set(first))
    assert second > first[-1]


def test_a_serial_of_an_undone_use_case_is_not_given_out_again(storage: Storage) -> None:
    """Rolling back leaves gaps, never repeats: also when a block was reserved in vain."""
    given_out: list[int] = []

    def take_and_fail(tx: Transaction) -> None:
        given_out.extend(tx.next_serial() for _ in range(130))
        raise Conflict("no")

    for _ in range(3):
        given_out.append(write(storage, lambda tx: tx.next_serial()))
        assert isinstance(storage.write(take_and_fail).exception(30), Conflict)
    given_out.append(write(storage, lambda tx: tx.next_serial()))
    assert given_out == sorted(set(given_out))


def test_authorities_come_in_order_of_creation(storage: Storage) -> None:
    """Authorities come oldest first, their key bytes unchanged."""
    older = make_authority("z", created_at=NOW - HOUR, kind="server", public=b"-----BEGIN")
    newer = make_authority("a")

    def add(tx: Transaction) -> None:
        tx.add_authority(newer)
        tx.add_authority(older)

    write(storage, add)
    assert read(storage, lambda tx: tx.authorities()) == (older, newer)


def test_the_state_of_an_authority_changes(storage: Storage) -> None:
    """Only the state of the named authority changes; an unknown one is ``False``."""
    write(storage, lambda tx: (tx.add_authority(make_authority("a")), tx.add_authority(make_authority("b"))))
    assert write(storage, lambda tx: tx.set_authority_state("a", "retired")) is True
    assert write(storage, lambda tx: tx.set_authority_state("x", "retired")) is False
    assert [one.state for one in read(storage, lambda tx: tx.authorities())] == ["retired", "active"]


# --- roles ----------------------------------------------------------------------------------


def test_a_role_comes_back_as_it_went_in(storage: Storage) -> None:
    """Every part of a role survives, and ``put_role`` says whether it was new."""
    role = make_role(port_forwarding=True, file_copy=True)
    assert write(storage, lambda tx: tx.put_role(role)) is True
    assert read(storage, lambda tx: tx.role("deploy")) == role
    changed = make_role()
    assert write(storage, lambda tx: tx.put_role(changed)) is False
    assert read(storage, lambda tx: tx.role("deploy")) == changed


def test_roles_by_name_are_those_that_exist(storage: Storage) -> None:
    """Missing names are left out; none asked for is none found."""
    write(storage, lambda tx: (tx.put_role(make_role("a")), tx.put_role(make_role("b"))))
    assert dict(read(storage, lambda tx: tx.roles(["b", "x", "a"]))) == {
        "a": make_role("a"),
        "b": make_role("b"),
    }
    assert dict(read(storage, lambda tx: tx.roles([]))) == {}
    assert read(storage, lambda tx: tx.role("x")) is None


def test_a_role_is_deleted_once(storage: Storage) -> None:
    """A role may go while a bot names it: that rule is the use case's."""
    write(storage, lambda tx: (tx.put_role(make_role()), tx.add_bot(make_bot())))
    assert write(storage, lambda tx: tx.delete_role("deploy")) is True
    assert write(storage, lambda tx: tx.delete_role("deploy")) is False
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()


# --- bots -----------------------------------------------------------------------------------

FULL_BOT = make_bot(
    "full",
    roles=("zeta", "alpha", "mid"),
    ttl=timedelta(minutes=90),
    renewable_for=timedelta(days=3, microseconds=7),
    max_lineage_age=timedelta(days=400),
    source_address=("192.0.2.0/24", "2001:db8::/32"),
)


@pytest.mark.parametrize("bot", [make_bot(), FULL_BOT], ids=["plain", "full"])
def test_a_bot_comes_back_as_it_went_in(storage: Storage, bot: Any) -> None:
    """By name and by id, its roles in their order, its times to the microsecond."""
    write(storage, lambda tx: tx.add_bot(bot))
    assert read(storage, lambda tx: tx.bot(bot.name)) == bot
    assert read(storage, lambda tx: tx.bot_by_id(bot.id)) == bot
    assert read(storage, lambda tx: tx.list_bots()).items == (bot,)
    assert read(storage, lambda tx: (tx.bot("x"), tx.bot_by_id("x"))) == (None, None)


def test_a_time_in_another_zone_is_the_same_time(storage: Storage) -> None:
    """Times come back in UTC."""
    east = timezone(timedelta(hours=5, minutes=30))
    write(storage, lambda tx: tx.add_bot(replace(make_bot(), created_at=NOW.astimezone(east))))
    found = read(storage, lambda tx: tx.bot("ci")).created_at
    assert (found, found.utcoffset()) == (NOW, timedelta(0))


@pytest.mark.parametrize("bot", [make_bot(id="other"), make_bot("other", id="bot-ci")], ids=["name", "id"])
def test_a_bot_with_a_taken_name_or_id_conflicts(storage: Storage, bot: Any) -> None:
    """The conflict changes nothing, and the use case may go on after it."""
    write(storage, lambda tx: tx.add_bot(make_bot()))

    def add(tx: Transaction) -> None:
        with pytest.raises(Conflict):
            tx.add_bot(bot)
        tx.set_value("went", b"on")

    write(storage, add)
    assert read(storage, lambda tx: tx.list_bots()).items == (make_bot(),)
    assert read(storage, lambda tx: tx.value("went")) == b"on"


def test_bots_with_a_role_are_found_by_it(storage: Storage) -> None:
    """Names are sorted; removed bots do not count."""

    def add(tx: Transaction) -> None:
        tx.add_bot(make_bot("b", roles=("x", "y")))
        tx.add_bot(make_bot("a", roles=("y", "x")))
        tx.add_bot(make_bot("c", roles=("y",)))
        tx.add_bot(make_bot("gone", roles=("x",)))
        tx.remove_bot("bot-gone", NOW)

    write(storage, add)
    assert read(storage, lambda tx: tx.bots_with_role("x")) == ("a", "b")
    assert read(storage, lambda tx: tx.bots_with_role("z")) == ()


def test_removing_a_bot_ends_all_that_is_its_own(storage: Storage) -> None:
    """Its instances are removed, its tokens revoked; another bot's are not."""

    def prepare(tx: Transaction) -> None:
        with_bot(tx)
        tx.add_bot(make_bot("other"))
        tx.add_token(make_token("tok-2", bot_id="bot-other"))
        tx.add_instance(make_instance("inst-2", bot_id="bot-other"))

    write(storage, prepare)
    at = NOW + HOUR
    assert write(storage, lambda tx: tx.remove_bot("bot-ci", at)) is True
    assert write(storage, lambda tx: tx.remove_bot("bot-ci", at + HOUR)) is False
    assert write(storage, lambda tx: tx.remove_bot("nobody", at)) is False
    assert read(storage, lambda tx: (tx.bot("ci"), tx.bot_by_id("bot-ci"))) == (None, None)
    assert read(storage, lambda tx: tx.instance("inst-1")).removed_at == at
    assert read(storage, lambda tx: tx.token("tok-1")).revoked_at == at
    assert read(storage, lambda tx: tx.instance("inst-2")).removed_at is None
    assert read(storage, lambda tx: tx.token("tok-2")).revoked_at is None
    assert [bot.name for bot in read(storage, lambda tx: tx.list_bots()).items] == ["other"]


def test_the_name_of_a_removed_bot_is_free(storage: Storage) -> None:
    """Any number of removed bots may have had a name; the one there now is found."""
    for number in range(3):
        write(storage, lambda tx, n=number: tx.add_bot(make_bot(id=f"id-{n}")))
        assert write(storage, lambda tx, n=number: tx.remove_bot(f"id-{n}", NOW)) is True
    write(storage, lambda tx: tx.add_bot(make_bot(id="id-last")))
    assert read(storage, lambda tx: tx.bot("ci")).id == "id-last"


# --- join tokens and admissions -------------------------------------------------------------


def test_a_token_comes_back_as_it_went_in(storage: Storage) -> None:
    """A token is found by its public id, and added once."""
    token = make_token(uses=5, used=2, revoked_at=NOW + TICK)
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_token(token)))
    assert read(storage, lambda tx: tx.token("tok-1")) == token
    assert read(storage, lambda tx: tx.token("tok-2")) is None
    assert isinstance(storage.write(lambda tx: tx.add_token(token)).exception(30), Conflict)


@pytest.mark.parametrize(
    ("token", "now", "expected"),
    [
        (make_token(), NOW, True),
        (make_token(uses=3, used=2), NOW, True),
        (make_token(used=1), NOW, False),
        (make_token(revoked_at=NOW), NOW, False),
        (make_token(), NOW + HOUR - TICK, True),
        (make_token(), NOW + HOUR, False),
    ],
    ids=["fresh", "last use", "used up", "revoked", "just before its end", "at its end"],
)
def test_a_use_is_counted_when_one_is_left(storage: Storage, token: Any, now: Any, expected: bool) -> None:
    """A refused use counts nothing."""
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_token(token)))
    assert write(storage, lambda tx: tx.use_token("tok-1", now)) is expected
    assert read(storage, lambda tx: tx.token("tok-1")).used == token.used + expected
    assert write(storage, lambda tx: tx.use_token("tok-unknown", now)) is False


def test_tokens_are_revoked_together(storage: Storage) -> None:
    """All of the bot's are; the number is of those that had uses left."""

    def prepare(tx: Transaction) -> None:
        tx.add_bot(make_bot())
        tx.add_bot(make_bot("other"))
        tx.add_token(make_token("left"))
        tx.add_token(make_token("used", used=1))
        tx.add_token(make_token("before", revoked_at=NOW - HOUR))
        tx.add_token(make_token("foreign", bot_id="bot-other"))

    write(storage, prepare)
    assert write(storage, lambda tx: tx.revoke_tokens("bot-ci", NOW)) == 1
    assert write(storage, lambda tx: tx.revoke_tokens("bot-ci", NOW + HOUR)) == 0
    found = {token.id: token.revoked_at for token in read(storage, lambda tx: tx.list_tokens()).items}
    assert found == {"left": NOW, "used": NOW, "before": NOW - HOUR, "foreign": None}


def test_an_admission_outlives_its_token(storage: Storage) -> None:
    """Whatever became of the token, the admission is found by id and key."""
    admission = make_admission()
    write(storage, lambda tx: (with_bot(tx), tx.add_admission(admission)))
    assert write(storage, lambda tx: tx.delete_token("tok-1")) is True
    assert write(storage, lambda tx: tx.delete_token("tok-1")) is False
    assert read(storage, lambda tx: tx.token("tok-1")) is None
    assert read(storage, lambda tx: tx.admission("tok-1", "SHA256:one")) == admission
    assert read(storage, lambda tx: tx.admission("tok-1", "SHA256:two")) is None
    assert isinstance(storage.write(lambda tx: tx.add_admission(admission)).exception(30), Conflict)


def test_admissions_are_the_first_hundred_in_order_of_time(storage: Storage) -> None:
    """Admissions of one token come oldest first, and never more than 100."""

    def add(tx: Transaction) -> None:
        with_bot(tx)
        for number in range(120):
            tx.add_admission(make_admission(key=f"SHA256:{119 - number:03}", at=NOW + number * TICK))
        tx.add_admission(make_admission("tok-2"))

    write(storage, add)
    found = read(storage, lambda tx: tx.admissions("tok-1"))
    assert [one.at for one in found] == [NOW + number * TICK for number in range(100)]


# --- instances ------------------------------------------------------------------------------


def test_an_instance_comes_back_as_it_went_in(storage: Storage) -> None:
    """Every field survives; an instance is added once."""
    instance = make_instance(
        "full", generation=7, previous_key="SHA256:zero", address="2001:db8::1", host="läufer",
        not_after=NOW + TICK, recoverable=True, removed_at=NOW + HOUR,
    )
    write(storage, lambda tx: (with_bot(tx), tx.add_instance(instance)))
    assert read(storage, lambda tx: tx.instance("full")) == instance
    assert read(storage, lambda tx: tx.instance("inst-1")) == make_instance()
    assert read(storage, lambda tx: tx.instance("nobody")) is None
    assert isinstance(storage.write(lambda tx: tx.add_instance(instance)).exception(30), Conflict)


def test_a_step_changes_what_it_names_and_nothing_else(storage: Storage) -> None:
    """The step sets all that it carries and clears the recovery flag."""
    before = make_instance(recoverable=True, address="192.0.2.1", host="old")
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(before)))
    step = make_step(before)
    assert write(storage, lambda tx: tx.step(step)) is True
    assert read(storage, lambda tx: tx.instance("inst-1")) == replace(
        before,
        generation=2,
        lineage_key="SHA256:two",
        previous_key="SHA256:one",
        request_hash=b"new",
        renewed_at=step.at,
        not_after=step.not_after,
        address="192.0.2.7",
        host="runner-7",
        recoverable=False,
    )
    assert write(storage, lambda tx: tx.step(step)) is False


@pytest.mark.parametrize(
    "wrong",
    [{"from_generation": 2}, {"from_key": "SHA256:other"}, {"instance_id": "inst-2"}],
    ids=["generation", "key", "instance"],
)
def test_a_step_from_elsewhere_changes_nothing(storage: Storage, wrong: dict[str, Any]) -> None:
    """The instance must be at that generation with that key."""
    write(storage, with_bot)
    step = make_step(make_instance(), **wrong)
    assert write(storage, lambda tx: tx.step(step)) is False
    assert read(storage, lambda tx: tx.instance("inst-1")) == make_instance()


AT = NOW + HOUR


@pytest.mark.parametrize(
    ("locks", "expected"),
    [
        ([], True),
        ([make_lock("l", LockKind.INSTANCE, "inst-1")], False),
        ([make_lock("l", LockKind.INSTANCE, "inst-1", reason=MISMATCH)], False),
        ([make_lock("l", LockKind.BOT, "ci")], False),
        ([make_lock("l", LockKind.BOT, "ci", expires_at=AT + TICK)], False),
        ([make_lock("l", LockKind.BOT, "ci", expires_at=AT)], True),
        ([make_lock("l", LockKind.INSTANCE, "inst-1", expires_at=AT - HOUR)], True),
        ([make_lock("a", LockKind.BOT, "ci", expires_at=NOW), make_lock("b", LockKind.BOT, "ci")], False),
        ([make_lock("l", LockKind.INSTANCE, "ci"), make_lock("m", LockKind.BOT, "inst-1")], True),
        ([make_lock("l", LockKind.BOT, "CI"), make_lock("m", LockKind.ROLE, "deploy")], True),
    ],
    ids=["none", "instance", "mismatch", "bot", "until later", "until now", "ended", "one of two",
         "names crossed", "others"],
)
def test_a_step_heeds_the_locks_on_instance_and_bot(storage: Storage, locks: Any, expected: bool) -> None:
    """Locks that hold at the step's own time stop it, in the same statement."""
    write(storage, lambda tx: (with_bot(tx), *map(tx.add_lock, locks)))
    assert write(storage, lambda tx: tx.step(make_step(make_instance()))) is expected


def test_a_removed_instance_takes_no_step(storage: Storage) -> None:
    """An instance is removed once, stays readable, and goes no further."""
    write(storage, with_bot)
    assert write(storage, lambda tx: tx.remove_instance("inst-1", NOW)) is True
    assert write(storage, lambda tx: tx.remove_instance("inst-1", AT)) is False
    assert write(storage, lambda tx: tx.step(make_step(make_instance()))) is False
    assert write(storage, lambda tx: tx.set_recoverable("inst-1", True)) is False
    assert read(storage, lambda tx: tx.instance("inst-1")) == make_instance(removed_at=NOW)
    assert read(storage, lambda tx: tx.list_instances()).items == ()


@pytest.mark.parametrize("recovered", [False, True])
def test_a_reissue_is_noted(storage: Storage, recovered: bool) -> None:
    """Only with *recovered* does expiry start anew and the flag go."""
    before = make_instance(recoverable=True)
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(before)))

    def note(tx: Transaction, generation: int = 1, key: str = "SHA256:one") -> bool:
        return tx.note_reissue(
            "inst-1", generation=generation, lineage_key=key, at=AT, not_after=AT + HOUR, recovered=recovered
        )

    assert write(storage, lambda tx: note(tx, generation=2)) is False
    assert write(storage, lambda tx: note(tx, key="SHA256:two")) is False
    assert read(storage, lambda tx: tx.instance("inst-1")) == before
    assert write(storage, note) is True
    expected = replace(before, not_after=AT + HOUR)
    if recovered:
        expected = replace(expected, renewed_at=AT, recoverable=False)
    assert read(storage, lambda tx: tx.instance("inst-1")) == expected


def test_an_operator_decides_which_key_goes_on(storage: Storage) -> None:
    """The instance is at that generation and key; the key it had is the one
    decided against, and no repeated request counts any more."""
    before = make_instance(generation=9, previous_key="SHA256:zero")
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_instance(before)))
    assert write(storage, lambda tx: tx.keep_key("inst-1", generation=4, lineage_key="SHA256:kept")) is True
    assert write(storage, lambda tx: tx.keep_key("nobody", generation=4, lineage_key="SHA256:kept")) is False
    assert read(storage, lambda tx: tx.instance("inst-1")) == replace(
        before,
        generation=4,
        lineage_key="SHA256:kept",
        previous_key=before.lineage_key,
        request_hash=b"",
    )


def test_the_recovery_flag_is_set_and_cleared(storage: Storage) -> None:
    """An unknown instance is ``False``."""
    write(storage, with_bot)
    for flag in (True, False):
        assert write(storage, lambda tx, flag=flag: tx.set_recoverable("inst-1", flag)) is True
        assert read(storage, lambda tx: tx.instance("inst-1")).recoverable is flag
    assert write(storage, lambda tx: tx.set_recoverable("nobody", True)) is False


# --- locks ----------------------------------------------------------------------------------


def test_a_lock_comes_back_as_it_went_in(storage: Storage) -> None:
    """Also with a slash in its target's name; a lock is added and deleted once."""
    lock = make_lock("l", LockKind.LOGIN, "a/b", message="why", expires_at=NOW + TICK, reason=MISMATCH)
    write(storage, lambda tx: tx.add_lock(lock))
    assert read(storage, lambda tx: tx.lock("l")) == lock
    assert isinstance(storage.write(lambda tx: tx.add_lock(lock)).exception(30), Conflict)
    assert write(storage, lambda tx: tx.delete_lock("l")) is True
    assert write(storage, lambda tx: tx.delete_lock("l")) is False
    assert read(storage, lambda tx: tx.lock("l")) is None


def test_locks_are_found_by_their_targets(storage: Storage) -> None:
    """Every lock on one of the targets, ended ones too, oldest first."""
    older = make_lock("z", LockKind.BOT, "ci", created_at=NOW - HOUR, expires_at=NOW - HOUR + TICK)
    newer = make_lock("a", LockKind.BOT, "ci")
    node = make_lock("n", LockKind.NODE, "ci")
    login = make_lock("m", LockKind.LOGIN, "root", created_at=NOW - TICK)
    write(storage, lambda tx: [tx.add_lock(lock) for lock in (newer, node, older, login)])
    targets = [LockTarget(LockKind.BOT, "ci"), LockTarget(LockKind.LOGIN, "root")]
    assert read(storage, lambda tx: tx.locks_on(targets * 2)) == (older, login, newer)
    assert read(storage, lambda tx: tx.locks_on([])) == ()
    assert read(storage, lambda tx: tx.locks_on([LockTarget(LockKind.BOT, "c")])) == ()
    assert set(read(storage, lambda tx: tx.all_locks())) == {older, newer, node, login}


# --- audit and figures ----------------------------------------------------------------------


def test_an_event_comes_back_as_it_went_in(storage: Storage) -> None:
    """Every field survives, the further facts with their types."""
    event = make_event(
        EventType.RENEW_REFUSED, client_ip="2001:db8::1", success=False, reason="locked", message="wärum",
        fields={"serial": (1 << 63) - 1, "key_id": "ci/x/1", "odd": "\ud800'\""},
    )
    write(storage, lambda tx: (tx.add_event(event), tx.add_event(make_event())))
    newest, oldest = read(storage, lambda tx: tx.list_events())
    assert (oldest.event, newest.event) == (event, make_event())
    assert oldest.id < newest.id


def test_events_are_listed_newest_first_by_type_and_resource(storage: Storage) -> None:
    """Filters narrow, ``before`` goes on where a page ended."""

    def add(tx: Transaction) -> None:
        for number in range(24):
            kind = EventType.CERT_ISSUED if number % 2 else EventType.RENEW_REFUSED
            tx.add_event(make_event(kind, f"bot-{number % 3}", at=NOW + number * TICK))

    write(storage, add)

    def numbers(**filters: Any) -> list[int]:
        found: list[int] = []
        page = read(storage, lambda tx: tx.list_events(limit=5, **filters))
        while page:
            assert len(page) <= 5
            found += [(one.event.at - NOW) // TICK for one in page]
            before = page[-1].id
            page = read(storage, lambda tx, id=before: tx.list_events(limit=5, before=id, **filters))
        return found

    everything = list(range(23, -1, -1))
    assert numbers() == everything
    assert numbers(type_name="user.cert.issued") == [n for n in everything if n % 2]
    assert numbers(resource_name="bot-1") == [n for n in everything if n % 3 == 1]
    assert numbers(type_name="user.cert.issued", resource_name="bot-1") == [
        n for n in everything if n % 2 and n % 3 == 1
    ]
    assert numbers(type_name="no.such") == []


def test_counts_are_of_what_is_there(storage: Storage) -> None:
    """Removed bots and instances do not count."""
    assert read(storage, lambda tx: dict(tx.counts())) == dict.fromkeys(
        ("roles", "bots", "instances", "tokens", "locks", "events"), 0
    )

    def add(tx: Transaction) -> None:
        with_bot(tx)
        tx.put_role(make_role())
        tx.add_bot(make_bot("gone"))
        tx.add_instance(make_instance("inst-2", bot_id="bot-gone"))
        tx.remove_bot("bot-gone", NOW)
        tx.add_lock(make_lock("l", LockKind.BOT, "ci"))
        for _ in range(3):
            tx.add_event(make_event())

    write(storage, add)
    assert read(storage, lambda tx: dict(tx.counts())) == {
        "roles": 1, "bots": 1, "instances": 1, "tokens": 1, "locks": 1, "events": 3,
    }
