"""Joining: the token is spent once, last, and never in vain."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.certs import keys
from mezite.certs.ssh import parse_certificate
from mezite.certs.verify import check_user_certificate
from mezite.core.model import LockKind
from mezite.core.request import Issued, Signed, TokenText
from mezite.core.roles import Role
from mezite.errors import Reason, Refused
from tests.harness import START, Auth, Machine, Pending


def reason(outcome: Issued | Refused) -> Reason:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_a_join_makes_an_instance_and_a_certificate_that_names_it(auth: Auth) -> None:
    bot = auth.add_bot()
    machine = Machine(auth)
    issued = machine.join(auth.add_token(bot))
    identity = check_user_certificate(
        parse_certificate(issued.certificates[0]),
        trusted=auth.context.authorities().user_cas,
        now_unix=int(START.timestamp()),
        login="deploy",
        address=None,
    )
    assert identity.bot == "github-deploy"
    assert identity.roles == ("ci-deployer",)
    assert identity.principals == ("deploy",)
    assert (identity.instance, identity.generation) == (issued.instance_id, 1)
    assert identity.lineage_key == keys.fingerprint(keys.public_blob(machine.lineage))
    assert identity.key_id == f"github-deploy/{issued.instance_id}/1"
    assert identity.permissions == {"permit-pty"}
    assert identity.valid_after == int(START.timestamp()) - 60
    assert identity.valid_before == int(START.timestamp()) + 3600
    assert issued.ttl == timedelta(hours=1)
    assert timedelta(minutes=27) <= issued.renew_after <= timedelta(minutes=30)


def test_a_join_whose_reply_was_lost_is_repeated_with_the_same_outcome(auth: Auth) -> None:
    """Whatever became of the token meanwhile: used, rotated, expired, deleted."""
    bot = auth.add_bot()
    token = auth.add_token(bot)
    machine = Machine(auth)
    first = auth.join(*machine.join_request(token))
    auth.write(lambda tx: tx.revoke_tokens(bot.id, auth.now))
    auth.advance(hours=2)
    assert isinstance(auth.join(*machine.join_request(token)), Issued)
    auth.write(lambda tx: tx.delete_token(token.id))
    again = auth.join(*machine.join_request(token))
    assert isinstance(first, Issued)
    assert isinstance(again, Issued)
    assert (again.instance_id, again.generation) == (first.instance_id, 1)
    assert again.certificates != first.certificates
    assert len(auth.write(lambda tx: tx.list_instances()).items) == 1


def test_another_key_does_not_get_in_by_a_used_token(auth: Auth) -> None:
    """The refusal names the instance that the token made, and an event tells of it."""
    token = auth.add_token(auth.add_bot())
    owner = Machine(auth)
    joined = owner.join(token)
    refused = auth.join(*Machine(auth).join_request(token))
    assert reason(refused) is Reason.TOKEN_USED
    assert f"mezctl instances lock {joined.instance_id}" in str(refused)
    (event,) = auth.events("token_reused")
    assert event.event.fields["instance"] == joined.instance_id
    assert event.event.resource_name == token.id


def test_a_repeated_join_for_other_ssh_keys_is_no_lost_reply(auth: Auth) -> None:
    """Else whoever copied the lineage key could get certificates unseen."""
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    auth.join(*machine.join_request(token))
    thief = machine.copy()
    thief.pending = replace(machine.pending, ssh=keys.generate_key())
    assert reason(auth.join(*thief.join_request(token))) is Reason.PROVE


def test_a_join_repeated_after_a_renewal_is_a_fork(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    copy = machine.copy()
    machine.join(token)
    machine.renew()
    refused = auth.join(*copy.join_request(token))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.PROVE
    assert auth.locks() == ()
    assert reason(auth.join(*copy.join_request(token, refused.nonce))) is Reason.GENERATION_MISMATCH
    assert [lock.reason for lock in auth.locks()] == ["generation_mismatch"]


def _mistyped(token: TokenText) -> TokenText:
    return TokenText(token.id, "0" * 32, token.pin)


def test_a_wrong_secret_is_as_unknown_as_a_wrong_id(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    wrong_secret = auth.join(*Machine(auth).join_request(_mistyped(token)))
    wrong_id = auth.join(*Machine(auth).join_request(TokenText("tok-bot-000000000000", token.secret, "")))
    assert reason(wrong_secret) is Reason.TOKEN_UNKNOWN
    assert str(wrong_secret) == str(wrong_id)


def _expire(auth: Auth, token: TokenText) -> None:
    auth.advance(hours=1)


def _rotate(auth: Auth, token: TokenText) -> None:
    stored = auth.write(lambda tx: tx.token(token.id))
    auth.write(lambda tx: tx.revoke_tokens(stored.bot_id, auth.now))


def _remove_bot(auth: Auth, token: TokenText) -> None:
    stored = auth.write(lambda tx: tx.token(token.id))
    auth.write(lambda tx: tx.remove_bot(stored.bot_id, auth.now))


def _lock_bot(auth: Auth, token: TokenText) -> None:
    auth.lock(LockKind.BOT, "github-deploy")


def _lock_role(auth: Auth, token: TokenText) -> None:
    auth.lock(LockKind.ROLE, "ci-deployer")


def _lock_login(auth: Auth, token: TokenText) -> None:
    auth.lock(LockKind.LOGIN, "deploy")


def _delete_role(auth: Auth, token: TokenText) -> None:
    auth.write(lambda tx: tx.delete_role("ci-deployer"))


def _deny_login(auth: Auth, token: TokenText) -> None:
    document = {
        "kind": "role",
        "metadata": {"name": "ci-deployer"},
        "spec": {"allow": {"logins": ["deploy"]}, "deny": {"logins": ["deploy"]}},
    }
    auth.write(lambda tx: tx.put_role(Role.from_document(document)))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_expire, Reason.TOKEN_EXPIRED),
        (_rotate, Reason.TOKEN_ROTATED),
        (_remove_bot, Reason.BOT_GONE),
        (_lock_bot, Reason.LOCKED),
        (_lock_role, Reason.LOCKED),
        (_lock_login, Reason.LOCKED),
        (_delete_role, Reason.ROLE_GONE),
        (_deny_login, Reason.NO_LOGINS),
    ],
)
def test_what_refuses_a_join_leaves_the_token_unused(auth: Auth, spoil, expected: Reason) -> None:  # type: ignore[no-untyped-def]
    token = auth.add_token(auth.add_bot())
    spoil(auth, token)
    assert reason(auth.join(*Machine(auth).join_request(token))) is expected
    assert auth.write(lambda tx: tx.token(token.id)).used == 0


def test_an_interval_as_long_as_the_ttl_is_refused_before_the_token_is_used(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    machine.wishes = replace(machine.wishes, interval=timedelta(hours=1))
    assert reason(auth.join(*machine.join_request(token))) is Reason.INTERVAL_TOO_LONG
    machine.wishes = replace(machine.wishes, interval=timedelta(minutes=59))
    assert machine.join(token).generation == 1


def test_a_clock_off_by_more_than_a_day_is_refused_before_the_token_is_used(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    machine.wishes = replace(machine.wishes, client_time=START - timedelta(hours=25))
    assert reason(auth.join(*machine.join_request(token))) is Reason.CLOCK_SKEW
    machine.wishes = replace(machine.wishes, client_time=START - timedelta(hours=1))
    assert machine.join(token).generation == 1


def test_a_token_of_three_uses_admits_three_machines(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot(), uses=3)
    joined = {Machine(auth).join(token).instance_id for _ in range(3)}
    assert len(joined) == 3
    assert reason(auth.join(*Machine(auth).join_request(token))) is Reason.TOKEN_USED


def test_a_request_signed_for_another_cluster_or_method_proves_nothing(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    request, signed = machine.join_request(token)
    other = Machine(auth)
    other.pending = Pending(lineage=machine.pending.lineage)
    for forged in (
        Signed(signed.body + b"\x00", signed.signature),
        Signed(signed.body, signed.signature, nonce=b"x" * 40),
        Signed(signed.body, keys.sign(machine.pending.lineage, signed.body)),
        Signed(signed.body, keys.sign(keys.generate_key(), signed.body)),
    ):
        assert reason(auth.join(request, forged)) is Reason.BAD_PROOF
    assert auth.write(lambda tx: tx.token(token.id)).used == 0


@pytest.mark.parametrize("days", [8, 100])
def test_a_repeated_join_is_no_way_around_expiry(auth: Auth, days: int) -> None:
    """Else a copy of a job's directory, which never renews, would get certificates for ever."""
    token = auth.add_token(auth.add_bot("job", max_lineage_age=timedelta(days=30)))
    machine = Machine(auth)
    copied = machine.join_request(token)
    machine.join(token)
    auth.advance(days=days)
    refused = auth.join(*copied)
    assert reason(refused) is Reason.EXPIRED
    assert f"mezctl instances recover {machine.instance_id}" in str(refused)


def test_a_lost_join_goes_on_when_an_operator_recovers_it(auth: Auth) -> None:
    """Once: the recovery is used up, and the lineage's time starts anew."""
    token = auth.add_token(auth.add_bot())
    machine = Machine(auth)
    lost = auth.join(*machine.join_request(token))
    assert isinstance(lost, Issued)
    auth.advance(days=8)
    assert reason(auth.join(*machine.join_request(token))) is Reason.EXPIRED
    auth.write(lambda tx: tx.set_recoverable(lost.instance_id, True))
    again = auth.join(*machine.join_request(token))
    assert isinstance(again, Issued)
    stored = auth.instance(again.instance_id)
    assert (stored.recoverable, stored.renewed_at) == (False, auth.now)
    machine.accept(again)
    auth.advance(days=6)
    machine.renew()


def test_a_used_token_shown_again_and_again_does_not_fill_the_audit_log(auth: Auth) -> None:
    """Its secret may lie in the log of a job, for anybody to play with."""
    bot = auth.add_bot()
    token = auth.add_token(bot)
    Machine(auth).join(token)
    for _ in range(40):
        assert reason(auth.join(*Machine(auth).join_request(token))) is Reason.TOKEN_USED
    assert len(auth.events("token_reused")) == 10
    auth.advance(minutes=10)
    assert reason(auth.join(*Machine(auth).join_request(token))) is Reason.TOKEN_USED
    other = auth.add_token(bot)
    Machine(auth).join(other)
    auth.join(*Machine(auth).join_request(other))
    assert len(auth.events("token_reused")) == 12
