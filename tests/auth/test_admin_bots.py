"""Bots and their join tokens: what operators do with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mezite.auth import admin_bots, admin_locks, admin_tokens
from mezite.auth.admin_bots import BotRemoved
from mezite.auth.admin_tokens import NewToken
from mezite.auth.context import Operator
from mezite.core.model import DEFAULT_RENEWABLE_FOR, LockKind, LockTarget
from mezite.core.request import TokenText, secret_matches
from mezite.core.roles import Role, Rules
from mezite.errors import Conflict, InvalidInput, MeziteError, NotFound, Reason, Refused
from tests.harness import START, Auth, Machine

ANN = Operator(1000, "ann")


def add(auth: Auth, name: str = "ci", roles: tuple[str, ...] = ("ci-deployer",), **settings: Any) -> NewToken:
    return auth.write(lambda tx: admin_bots.add_bot(auth.context, tx, ANN, name, roles, **settings))


def rotate(auth: Auth, name: str = "ci", **settings: Any) -> tuple[NewToken, int]:
    return auth.write(lambda tx: admin_tokens.rotate_token(auth.context, tx, ANN, name, **settings))


def remove(auth: Auth, name: str = "ci") -> BotRemoved:
    return auth.write(lambda tx: admin_bots.remove_bot(auth.context, tx, ANN, name))


def tokens(auth: Auth, name: str | None = "ci") -> list[tuple[str, str, str]]:
    page = auth.write(lambda tx: admin_tokens.list_tokens(auth.context, tx, name, "", 100))
    return [(view.token.id, view.bot_name, view.state) for view in page.items]


def refusal(outcome: object) -> Reason:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_a_new_bots_token_admits_a_machine(auth: Auth) -> None:
    """The text printed once is the whole token, with the pin of the server's CA."""
    new = add(auth)
    text = TokenText.from_text(new.text)
    assert text.pin == auth.context.authorities().server_pin
    assert (new.token.uses, new.token.expires_at) == (1, START + timedelta(hours=1))
    assert new.bot.renewable_for == DEFAULT_RENEWABLE_FOR
    assert Machine(auth).join(text).bot == "ci"


def test_blocks_of_addresses_are_written_as_sshd_reads_them(auth: Auth) -> None:
    """It takes no mask but a number of bits: with any other no server lets the certificate in."""
    given = ["10.0.0.0/255.0.0.0", "192.0.2.0/0.0.0.255", "2001:DB8::/32", "192.0.2.7"]
    assert add(auth, source_address=given).bot.source_address == (
        "10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "192.0.2.7/32"
    )


def test_the_secret_is_neither_stored_nor_told(auth: Auth) -> None:
    new = add(auth)
    secret = TokenText.from_text(new.text).secret
    stored = auth.write(lambda tx: tx.token(new.token.id))
    assert stored is not None
    assert secret_matches(secret, stored.secret_hash)
    events = auth.write(lambda tx: tx.list_events(limit=100))
    assert secret not in repr((new, stored, events))


def test_a_new_bot_has_what_was_asked_for(auth: Auth) -> None:
    bot = add(
        auth,
        ttl=timedelta(minutes=30),
        renewable_for=timedelta(days=2),
        max_lineage_age=timedelta(days=60),
        source_address=["192.0.2.0/24"],
        roles=("ci-deployer", "ci-deployer"),
    ).bot
    assert auth.write(lambda tx: tx.bot("ci")) == bot
    assert (bot.ttl, bot.renewable_for, bot.max_lineage_age, bot.source_address, bot.roles) == (
        timedelta(minutes=30), timedelta(days=2), timedelta(days=60), ("192.0.2.0/24",), ("ci-deployer",)
    )


def test_adding_is_audited(auth: Auth) -> None:
    new = add(auth)
    (bot,), (token,) = auth.events("bot.created"), auth.events("token.created")
    assert (bot.event.actor, bot.event.resource_name) == ("uid:1000(ann)", "ci")
    assert (token.event.resource_name, token.event.fields["bot"]) == (new.token.id, "ci")


REFUSED: list[tuple[dict[str, Any], type[MeziteError], str]] = [
    ({"name": "a b"}, InvalidInput, "name: 'a b' is not a name"),
    ({"roles": ()}, InvalidInput, "roles: a bot needs at least one role"),
    ({"roles": ("ci-deployer", "nobody")}, NotFound, "there is no role 'nobody'; create it first"),
    ({"roles": ("human",)}, InvalidInput, "roles: no bot can have these roles: .*require_session_mfa"),
    ({"roles": ("loginless",)}, InvalidInput, "roles: no bot can have these roles: no login is left"),
    ({"token_ttl": timedelta(days=91)}, InvalidInput, "token_ttl: 91d is out of bounds; .* 1s to 90d"),
    ({"uses": 0}, InvalidInput, "uses: 0 is out of bounds"),
    ({"ttl": timedelta(hours=25)}, InvalidInput, "ttl: 1d1h is out of bounds"),
    ({"renewable_for": timedelta(days=91)}, InvalidInput, "renewable_for: 91d is out of bounds"),
    ({"source_address": ["everywhere"]}, InvalidInput, "source_address: 'everywhere'"),
    ({"source_address": ["fe80::%eth0/64"]}, InvalidInput, "source_address: 'fe80::%eth0/64' names"),
]


@pytest.mark.parametrize(("asked", "kind", "told"), REFUSED)
def test_a_bot_that_could_not_work_is_refused_and_nothing_is_left(
    auth: Auth, asked: dict[str, Any], kind: type[MeziteError], told: str
) -> None:
    unfit = Role("human", require_session_mfa=True, allow=Rules(logins=("deploy",)))
    auth.write(lambda tx: (tx.put_role(unfit), tx.put_role(Role("loginless"))))
    with pytest.raises(kind, match=told):
        add(auth, **asked)
    assert auth.events("bot.created") == []
    assert auth.write(lambda tx: tx.list_bots()).items == ()
    assert tokens(auth, None) == []


def test_a_name_is_taken_once(auth: Auth) -> None:
    add(auth)
    with pytest.raises(Conflict, match=r"bot ci exists already; .* mezctl bots rotate-token ci$"):
        add(auth)


def test_a_token_of_several_uses_admits_that_many(auth: Auth) -> None:
    text = TokenText.from_text(add(auth, uses=2).text)
    Machine(auth).join(text)
    Machine(auth).join(text)
    third = Machine(auth)
    assert refusal(auth.join(*third.join_request(text))) is Reason.TOKEN_USED


def test_rotation_replaces_every_token(auth: Auth) -> None:
    """Those with uses left are counted; machines that have joined go on."""
    first = add(auth)
    machine = Machine(auth)
    machine.join(TokenText.from_text(first.text))
    second = auth.write(lambda tx: admin_tokens.create_token(auth.context, tx, ANN, "ci"))
    third, replaced = rotate(auth, ttl=timedelta(minutes=5))
    assert replaced == 1
    assert third.token.expires_at == START + timedelta(minutes=5)
    assert {one: state for one, _, state in tokens(auth)} == {
        first.token.id: "rotated", second.token.id: "rotated", third.token.id: "active"
    }
    late = Machine(auth)
    assert refusal(auth.join(*late.join_request(TokenText.from_text(second.text)))) is Reason.TOKEN_ROTATED
    machine.renew()
    Machine(auth).join(TokenText.from_text(third.text))
    (stored,) = auth.events("token.rotated")
    assert stored.event.fields == {"bot": "ci", "uses": 1, "ttl": "5m", "replaced": 1}


def test_a_further_token_leaves_the_others_good(auth: Auth) -> None:
    first = add(auth)
    second = auth.write(lambda tx: admin_tokens.create_token(auth.context, tx, ANN, "ci", uses=5))
    assert second.token.uses == 5
    for new in (first, second):
        Machine(auth).join(TokenText.from_text(new.text))


def test_tokens_are_listed_with_their_state(auth: Auth) -> None:
    spent = add(auth, "spent")
    Machine(auth).join(TokenText.from_text(spent.text))
    gone = add(auth, "gone")
    remove(auth, "gone")
    auth.advance(minutes=30)
    fresh = add(auth, "fresh")
    auth.advance(minutes=31)
    later = auth.write(lambda tx: admin_tokens.create_token(auth.context, tx, ANN, "spent"))
    auth.advance(minutes=28)
    assert set(tokens(auth, None)) == {
        (spent.token.id, "spent", "used"),
        (gone.token.id, "", "rotated"),
        (fresh.token.id, "fresh", "active"),
        (later.token.id, "spent", "active"),
    }
    auth.advance(minutes=1)
    assert tokens(auth, "fresh") == [(fresh.token.id, "fresh", "expired")]


@pytest.mark.parametrize("whole", [False, True])
def test_a_token_is_removed_by_its_id_or_its_text(auth: Auth, whole: bool) -> None:
    new = add(auth)
    name = new.text if whole else new.token.id
    auth.write(lambda tx: admin_tokens.remove_token(auth.context, tx, ANN, name))
    late = Machine(auth)
    assert refusal(auth.join(*late.join_request(TokenText.from_text(new.text)))) is Reason.TOKEN_UNKNOWN
    (stored,) = auth.events("token.deleted")
    assert stored.event.resource_name == new.token.id


def test_removing_no_token_is_told_without_a_secret(auth: Auth) -> None:
    missing = TokenText.from_random(bytes(22), "0" * 32)
    with pytest.raises(NotFound) as caught:
        auth.write(lambda tx: admin_tokens.remove_token(auth.context, tx, ANN, missing.to_text()))
    assert str(caught.value) == f"there is no token '{missing.id}'; mezctl tokens ls shows them all"


UNKNOWN = [
    lambda auth, tx: rotate_in(auth, tx),
    lambda auth, tx: admin_tokens.create_token(auth.context, tx, ANN, "nobody"),
    lambda auth, tx: admin_tokens.list_tokens(auth.context, tx, "nobody", "", 1),
    lambda auth, tx: admin_bots.show_bot(auth.context, tx, "nobody"),
    lambda auth, tx: admin_bots.remove_bot(auth.context, tx, ANN, "nobody"),
    lambda auth, tx: admin_bots.lock_bot(auth.context, tx, ANN, "nobody"),
    lambda auth, tx: admin_bots.unlock_bot(auth.context, tx, ANN, "nobody"),
]


def rotate_in(auth: Auth, tx: Any) -> object:
    return admin_tokens.rotate_token(auth.context, tx, ANN, "nobody")


@pytest.mark.parametrize("use_case", UNKNOWN)
def test_an_unknown_bot_is_told(auth: Auth, use_case: Any) -> None:
    with pytest.raises(NotFound, match="there is no bot 'nobody'; mezctl bots ls shows them all"):
        auth.write(lambda tx: use_case(auth, tx))


def test_a_locked_bots_machines_are_refused_until_it_is_unlocked(auth: Auth) -> None:
    new = add(auth)
    machine = Machine(auth)
    machine.join(TokenText.from_text(new.text))
    auth.write(lambda tx: admin_bots.lock_bot(auth.context, tx, ANN, "ci", message="odd\x1b"))
    outcome = machine.try_renew()
    assert refusal(outcome) is Reason.LOCKED
    assert "odd\\x1b" in str(outcome)
    auth.write(lambda tx: admin_bots.unlock_bot(auth.context, tx, ANN, "ci"))
    machine.renew()
    for name in ("lock.created", "lock.deleted"):
        assert [stored.event.actor for stored in auth.events(name)] == ["uid:1000(ann)"]


def test_a_lock_that_ends_lets_go_by_itself(auth: Auth) -> None:
    new = add(auth)
    auth.write(lambda tx: admin_bots.lock_bot(auth.context, tx, ANN, "ci", ttl=timedelta(minutes=5)))
    shown = auth.write(lambda tx: admin_bots.list_bots(auth.context, tx, "", 10)).items
    assert [bool(view.locks) for view in shown] == [True]
    auth.advance(minutes=5)
    shown = auth.write(lambda tx: admin_bots.list_bots(auth.context, tx, "", 10)).items
    assert [bool(view.locks) for view in shown] == [False]
    Machine(auth).join(TokenText.from_text(new.text))


def test_a_bot_is_shown_with_what_is_its_own(auth: Auth) -> None:
    add(auth, "other")
    new = add(auth)
    joined = Machine(auth).join(TokenText.from_text(new.text))
    auth.write(lambda tx: admin_bots.lock_bot(auth.context, tx, ANN, "ci"))
    shown = auth.write(lambda tx: admin_bots.show_bot(auth.context, tx, "ci"))
    assert shown.bot == new.bot
    assert [view.token.id for view in shown.tokens.items] == [new.token.id]
    assert [(view.instance.id, view.state) for view in shown.instances.items] == [
        (joined.instance_id, "locked")
    ]
    assert len(shown.locks) == 1


def test_a_removed_bot_takes_everything_with_it(auth: Auth) -> None:
    """Its machines are told that it is gone, and stay locked as long as their
    certificates might open a node."""
    new = add(auth, uses=3)
    text = TokenText.from_text(new.text)
    first, second = Machine(auth), Machine(auth)
    first.join(text)
    second.join(text)
    auth.lock(LockKind.INSTANCE, first.instance_id)
    removed = remove(auth)
    assert (removed.instances, len(removed.instance_locks), removed.name_locks) == (2, 2, ())
    assert {lock.target.value for lock in auth.locks()} == {first.instance_id, second.instance_id}
    assert {lock.expires_at for lock in auth.locks()} == {auth.now + timedelta(hours=24)}
    assert refusal(second.try_renew()) is Reason.BOT_GONE
    assert refusal(first.try_renew()) is Reason.BOT_GONE
    late = Machine(auth)
    assert refusal(auth.join(*late.join_request(text))) is Reason.BOT_GONE
    (bot,), (lock,) = auth.events("bot.deleted"), auth.events("lock.shortened")
    assert bot.event.fields["instances"] == 2
    assert lock.event.message == "its instance was removed"
    assert lock.event.fields["expires_at"] == "2026-03-25T14:00:00Z"


def test_a_lock_on_a_removed_bots_name_neither_hits_a_stranger_nor_goes_in_silence(auth: Auth) -> None:
    """It stays, a new bot of the name is refused, and the operator removes the lock himself."""
    old = add(auth).bot
    lock = auth.write(lambda tx: admin_bots.lock_bot(auth.context, tx, ANN, "ci", message="stolen"))
    assert remove(auth).name_locks == (lock,)
    with pytest.raises(Conflict, match=rf"still locked from an earlier bot \(stolen\).*locks rm {lock.id}"):
        add(auth)
    auth.write(lambda tx: admin_locks.remove_lock(auth.context, tx, ANN, lock.id))
    new = add(auth)
    assert new.bot.id != old.id
    Machine(auth).join(TokenText.from_text(new.text))


def test_an_ended_lock_on_the_name_is_in_nobodys_way(auth: Auth) -> None:
    auth.lock(LockKind.BOT, "ci", expires_at=START)
    add(auth)


def test_bots_are_listed_in_pages(auth: Auth) -> None:
    for number in range(5):
        add(auth, f"bot-{number}")
    page = auth.write(lambda tx: admin_bots.list_bots(auth.context, tx, "", 2))
    assert [view.bot.name for view in page.items] == ["bot-0", "bot-1"]
    assert page.next is not None
    page = auth.write(lambda tx: admin_bots.list_bots(auth.context, tx, page.next, 10))
    assert [view.bot.name for view in page.items] == ["bot-2", "bot-3", "bot-4"]
    assert page.next is None


def test_many_targets_are_asked_for_in_parts(auth: Auth) -> None:
    """An old SQLite takes 999 values in one statement."""
    auth.lock(LockKind.BOT, "bot-799")
    targets = [LockTarget(LockKind.BOT, f"bot-{number}") for number in range(800)]
    held = auth.write(lambda tx: admin_locks.active_on(auth.context, tx, targets))
    assert [target.value for target, locks in held.items() if locks] == ["bot-799"]
