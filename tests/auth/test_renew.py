"""Renewing: one holder goes on, a second one is found out, nobody is locked by mistake."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.auth import admin, admin_instances
from mezite.auth.context import Peer
from mezite.certs import keys
from mezite.certs.ssh import build_certificate, parse_certificate
from mezite.core.fork import Fork, Holder, Likeness
from mezite.core.model import LockKind
from mezite.core.request import Issued
from mezite.core.template import CertificateTemplate
from mezite.errors import Reason, Refused
from mezite.rpc import messages
from mezite.storage.interface import Step
from tests.auth.test_join import reason
from tests.harness import ROLE, START, Auth, Machine, Pending


def _altered(certificate: bytes, at: int) -> bytes:
    changed = bytearray(certificate)
    changed[at] ^= 1
    return bytes(changed)


def _copied(certificate: bytes, ca: keys.PrivateKey) -> bytes:
    """A certificate that says the same, signed by *ca*."""
    owned = parse_certificate(certificate)
    template = CertificateTemplate(
        1, owned.serial, owned.key_id.decode(), ("deploy",), owned.valid_after, owned.valid_before, (),
        tuple((name.decode(), data[4:].decode() or None) for name, data in owned.extensions),
    )
    return build_certificate(template, owned.subject_blob, ca, owned.nonce)


def test_the_certificate_given_out_last_is_not_verified_again(auth: Auth, machine: Machine) -> None:
    """What is stored with the generation and its key vouches for it, from the join on."""
    for _ in range(3):
        machine.renew()
    assert auth.verified == 0


@pytest.mark.parametrize("renewals", [0, 2])
def test_another_certificate_than_the_last_one_must_prove_itself(
    auth: Auth, machine: Machine, renewals: int
) -> None:
    """Though generation, key and signature are right: one altered anywhere, one of a
    foreign CA, of another instance or of an earlier generation is refused, and changes nothing."""
    first = machine.certificate
    for _ in range(renewals):
        machine.renew()
    other = Machine(auth)
    other.join(auth.add_token(auth.add_bot("other")))
    last, before = machine.certificate, auth.instance(machine.instance_id)
    wrong = [_altered(last, at) for at in (*range(0, len(last), 97), len(last) - 1)]
    wrong += [last + b"\0", last[:-1], _copied(last, keys.generate_ca_key()), other.certificate]
    wrong += [first] if renewals else []
    for certificate in wrong:
        machine.certificate = certificate
        assert reason(machine.try_renew()) is Reason.BAD_PROOF
    assert auth.verified == len(wrong)
    assert auth.instance(machine.instance_id) == before
    machine.certificate = last
    assert machine.renew().generation == renewals + 2


def test_another_certificate_of_the_same_generation_is_verified_and_holds(
    auth: Auth, machine: Machine
) -> None:
    """Of two replies to one request the machine kept the later one."""
    issued = auth.renew(*machine.renew_request())
    again = auth.renew(*machine.renew_request())
    assert isinstance(issued, Issued)
    assert issued.certificates != machine.accept(again).certificates
    verified = auth.verified
    assert machine.renew().generation == 3
    assert auth.verified == verified + 1
    assert machine.renew().generation == 4
    assert auth.verified == verified + 1


def test_the_last_certificate_vouches_for_no_other_key(auth: Auth, machine: Machine) -> None:
    """A thief with the certificate signs with a key of his own, and names that or the stored one."""
    thief = machine.copy()
    thief.lineage, thief.pending = keys.generate_key(), Pending()
    assert reason(thief.try_renew()) is Reason.BAD_PROOF
    request, signed = thief.renew_request()
    named = replace(request, lineage_key=keys.public_blob(machine.lineage))
    assert reason(auth.renew(named, replace(signed, body=messages.renew_body(named)))) is Reason.BAD_PROOF


def test_a_removed_lineage_says_the_same_to_its_last_certificate(auth: Auth, machine: Machine) -> None:
    """Locks, removal and a bot that is gone refuse as they do where it is verified."""
    lock = auth.lock(LockKind.INSTANCE, machine.instance_id)
    assert reason(machine.try_renew()) is Reason.LOCKED
    auth.write(lambda tx: tx.delete_lock(lock.id))
    auth.write(lambda tx: tx.remove_instance(machine.instance_id, auth.now))
    assert reason(machine.try_renew()) is Reason.INSTANCE_UNKNOWN


def test_every_renewal_is_the_next_generation_with_new_keys(machine: Machine) -> None:
    seen = set()
    for generation in range(2, 6):
        issued = machine.renew()
        assert issued.generation == generation
        seen.add(parse_certificate(issued.certificates[0]).subject_blob)
    assert len(seen) == 4


def test_a_lost_reply_is_answered_again_and_nothing_advances(auth: Auth, machine: Machine) -> None:
    lost = auth.renew(*machine.renew_request())
    assert isinstance(lost, Issued)
    for _ in range(3):
        again = auth.renew(*machine.renew_request())
        assert isinstance(again, Issued)
        assert (again.generation, auth.instance(machine.instance_id).generation) == (2, 2)
    machine.accept(again)
    assert machine.renew().generation == 3
    assert auth.locks() == ()


def test_a_lost_reply_is_no_way_to_certificates_for_other_keys(auth: Auth, machine: Machine) -> None:
    """A thief with the pending state cannot have his own SSH key certified unseen."""
    auth.renew(*machine.renew_request())
    thief = machine.copy()
    thief.pending = replace(machine.pending, ssh=keys.generate_key())
    assert reason(thief.try_renew()) is Reason.PROVE


def _answer(holder: Machine) -> Issued | Refused:
    """What the real daemon does: a `prove` is answered at once."""
    outcome = holder.try_renew()
    if isinstance(outcome, Refused) and outcome.reason is Reason.PROVE:
        outcome = holder.try_renew(outcome.nonce)
    return outcome


@pytest.mark.parametrize("thief_first", [True, False])
def test_a_copied_lineage_is_locked_whoever_renews_first(
    auth: Auth, machine: Machine, thief_first: bool
) -> None:
    thief = machine.copy()
    thief.pending = Pending()
    first, second = (thief, machine) if thief_first else (machine, thief)
    first.renew()
    assert reason(_answer(second)) is Reason.GENERATION_MISMATCH
    (lock,) = auth.locks()
    assert (lock.reason, lock.target.value) == ("generation_mismatch", machine.instance_id)
    assert reason(_answer(first)) is Reason.GENERATION_MISMATCH
    (event,) = auth.events("generation_mismatch")
    assert event.event.fields["presented_key"] == keys.fingerprint(keys.public_blob(second.lineage))


def test_a_thief_who_does_not_answer_is_seen_and_locks_nobody(auth: Auth, machine: Machine) -> None:
    """One row an hour, with what a lock would tell; shown until the fork is proven after all."""
    thief = machine.copy()
    thief.pending = Pending()
    thief.wishes = replace(thief.wishes, host="elsewhere")
    machine.renew()

    def shown() -> list[str]:
        found = auth.write(lambda tx: admin.status(auth.context, tx)).asked
        view = auth.write(lambda tx: admin_instances.show_instance(auth.context, tx, machine.instance_id))
        assert (view.asked is not None) == bool(found)
        return [one.event.resource_name for one in found]

    assert shown() == []
    for _ in range(20):
        assert reason(thief.try_renew()) is Reason.PROVE
        auth.advance(minutes=2)
    (row,) = auth.events("renew.prove_asked")
    assert row.event.fields["presented_key"] == keys.fingerprint(keys.public_blob(thief.lineage))
    assert row.event.fields["looks_like"] == "other_host"
    assert shown() == [machine.instance_id]
    auth.advance(hours=1)
    thief.try_renew()
    assert len(auth.events("renew.prove_asked")) == 2
    assert auth.locks() == ()
    machine.renew()
    assert reason(_answer(thief)) is Reason.GENERATION_MISMATCH
    assert shown() == []


def test_the_lock_tells_what_was_seen_of_both_holders(auth: Auth, machine: Machine) -> None:
    """Keys, addresses, host names, boots and times, in the lock and in the audit log; the machine,
    which may be the thief, learns none of it."""
    machine.wishes = replace(machine.wishes, host="ci-7", boot_id="boot-1")
    thief = machine.copy()
    thief.pending = Pending()
    thief.wishes = replace(machine.wishes, host="laptop", boot_id="boot-2")
    auth.advance(minutes=5)
    machine.renew()
    auth.advance(minutes=3)
    request, signed = thief.renew_request()
    asked = auth.renew(request, signed, Peer("198.51.100.9"))
    refused = auth.renew(*thief.renew_request(asked.nonce), Peer("198.51.100.9"))
    (lock,) = auth.locks()
    expected = Fork(
        current=Holder(2, keys.fingerprint(keys.public_blob(machine.lineage)), "192.0.2.7", "ci-7",
                       "boot-1", START + timedelta(minutes=5)),
        other=Holder(1, keys.fingerprint(keys.public_blob(thief.lineage)), "198.51.100.9", "laptop",
                     "boot-2", START + timedelta(minutes=8)),
    )
    assert lock.fork == expected
    assert lock.message == str(expected)
    assert lock.fork.likeness is Likeness.OTHER_HOST
    (event,) = auth.events("generation_mismatch")
    fields = event.event.fields
    assert fields["looks_like"] == "other_host"
    assert fields["stored_boot_id"] == "boot-1"
    assert fields["presented_boot_id"] == "boot-2"
    assert fields["presented_address"] == "198.51.100.9"
    for secret in ("SHA256:", "ci-7", "192.0.2.7", "boot-1"):
        assert secret not in str(refused)


def test_an_old_message_that_arrives_late_locks_nobody(auth: Auth, machine: Machine) -> None:
    """It is asked to prove itself, and nobody is there to answer; the last one
    of all is answered, with certificates for the owner's own keys."""
    recorded = [machine.renew_request()]
    machine.renew()
    recorded.append(machine.renew_request())
    machine.renew()
    older, last = recorded
    assert reason(auth.renew(*older)) is Reason.PROVE
    repeated = auth.renew(*last)
    assert isinstance(repeated, Issued)
    assert parse_certificate(repeated.certificates[0]).subject_blob == last[0].ssh_keys[0].blob
    assert auth.locks() == ()
    assert machine.renew().generation == 4


def test_a_nonce_is_good_for_a_minute_and_for_one_holder(auth: Auth, machine: Machine) -> None:
    thief = machine.copy()
    thief.pending = Pending()
    machine.renew()
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    auth.advance(seconds=61)
    assert reason(thief.try_renew(asked.nonce)) is Reason.PROVE
    assert reason(thief.try_renew(b"\0" * 40)) is Reason.PROVE
    assert auth.locks() == ()
    fresh = thief.try_renew()
    assert isinstance(fresh, Refused)
    assert reason(thief.try_renew(fresh.nonce)) is Reason.GENERATION_MISMATCH


def test_a_restored_database_adopts_a_generation_ahead_of_it(auth: Auth, machine: Machine) -> None:
    before = auth.instance(machine.instance_id)
    for _ in range(3):
        machine.renew()
    now = auth.instance(machine.instance_id)
    auth.write(
        lambda tx: tx.step(
            Step(now.id, now.generation, now.lineage_key, before.generation, before.lineage_key,
                 before.previous_key, before.request_hash, auth.now, auth.now, "", "")
        )
    )
    assert machine.renew().generation == 5
    assert auth.locks() == ()
    (event,) = auth.events("generation_adopted")
    assert event.event.fields == {
        "stored_generation": 1, "presented_generation": 4, "stored_at_unix": int(START.timestamp()),
    }


def test_a_stranger_changes_nothing(auth: Auth, machine: Machine) -> None:
    """Not with the certificate alone, nor with a certificate of his own making."""
    before = auth.instance(machine.instance_id)
    stranger = machine.copy()
    stranger.lineage, stranger.pending = keys.generate_key(), Pending()
    assert reason(stranger.try_renew()) is Reason.BAD_PROOF
    owned = parse_certificate(machine.certificate)
    template = CertificateTemplate(
        1, 1, "x", ("deploy",), 0, 2**63, (),
        tuple((name.decode(), data[4:].decode() or None) for name, data in owned.extensions),
    )
    forged = machine.copy()
    forged.certificate = build_certificate(template, owned.subject_blob, keys.generate_ca_key(), b"n" * 32)
    assert reason(forged.try_renew()) is Reason.BAD_PROOF
    other = machine.copy()
    other.generation = 7
    assert reason(other.try_renew()) is Reason.BAD_PROOF
    assert auth.instance(machine.instance_id) == before
    assert auth.locks() == ()


@pytest.mark.parametrize(
    ("kind", "value"),
    [(LockKind.BOT, "github-deploy"), (LockKind.ROLE, "ci-deployer"), (LockKind.LOGIN, "deploy")],
)
def test_an_operators_lock_stops_renewals_while_it_holds(
    auth: Auth, machine: Machine, kind: LockKind, value: str
) -> None:
    auth.lock(kind, value, expires_at=auth.now + timedelta(minutes=5))
    refused = machine.try_renew()
    assert reason(refused) is Reason.LOCKED
    auth.advance(minutes=5)
    assert machine.renew().generation == 2


def test_a_lineage_renews_until_its_last_renewal_plus_renewable_for(auth: Auth, machine: Machine) -> None:
    auth.advance(days=6, hours=23)
    machine.renew()
    auth.advance(days=7)
    refused = machine.try_renew()
    assert reason(refused) is Reason.EXPIRED
    assert f"mezctl instances recover {machine.instance_id}" in str(refused)


@pytest.mark.parametrize("reply_lost", [False, True])
def test_a_recovery_is_good_for_one_renewal(auth: Auth, machine: Machine, reply_lost: bool) -> None:
    if reply_lost:
        auth.renew(*machine.renew_request())
    auth.advance(days=30)
    auth.write(lambda tx: tx.set_recoverable(machine.instance_id, True))
    assert machine.renew().generation == 2
    assert not auth.instance(machine.instance_id).recoverable
    auth.advance(days=7)
    assert reason(machine.try_renew()) is Reason.EXPIRED


def test_a_lineage_older_than_max_lineage_age_is_expired(auth: Auth) -> None:
    bot = auth.add_bot("old", max_lineage_age=timedelta(days=10))
    machine = Machine(auth)
    machine.join(auth.add_token(bot))
    auth.advance(days=6)
    machine.renew()
    auth.advance(days=4)
    assert reason(machine.try_renew()) is Reason.EXPIRED


def test_removing_the_bot_or_the_instance_ends_the_lineage(auth: Auth, machine: Machine) -> None:
    other = Machine(auth)
    other.join(auth.add_token(auth.add_bot("other")))
    auth.write(lambda tx: tx.remove_instance(other.instance_id, auth.now))
    assert reason(other.try_renew()) is Reason.INSTANCE_UNKNOWN
    bot_id = auth.instance(machine.instance_id).bot_id
    auth.write(lambda tx: tx.remove_bot(bot_id, auth.now))
    assert reason(machine.try_renew()) is Reason.BOT_GONE
    auth.add_bot("github-deploy")
    assert reason(machine.try_renew()) is Reason.BOT_GONE


def test_a_lineage_key_serves_one_generation(machine: Machine) -> None:
    machine.pending = replace(machine.pending, lineage=machine.lineage)
    assert reason(machine.try_renew()) is Reason.INVALID_REQUEST


def test_serials_rise_and_never_repeat(auth: Auth, machine: Machine) -> None:
    serials = [parse_certificate(machine.renew().certificates[0]).serial for _ in range(20)]
    assert serials == sorted(set(serials))


def test_the_ttl_is_the_least_of_what_is_asked_and_allowed(auth: Auth, machine: Machine) -> None:
    machine.wishes = replace(machine.wishes, ttl=timedelta(minutes=10))
    assert machine.renew().ttl == timedelta(minutes=10)
    machine.wishes = replace(machine.wishes, ttl=timedelta(hours=12))
    assert machine.renew().ttl == timedelta(hours=1)


def test_a_retired_ca_proves_no_generation_ahead(auth: Auth, machine: Machine) -> None:
    """Whatever it signed was given out before it was retired, and before any backup
    that knows it as retired: being ahead, it can only be the work of a stolen key."""
    stolen = keys.generate_ca_key()
    owned = parse_certificate(machine.certificate)
    extensions = {name.decode(): data[4:].decode() or None for name, data in owned.extensions}
    extensions["generation@mezite.com"] = "9"
    forged = machine.copy()
    forged.lineage, forged.pending, forged.generation = keys.generate_key(), Pending(), 9
    extensions["lineage-key@mezite.com"] = keys.fingerprint(keys.public_blob(forged.lineage))
    template = CertificateTemplate(1, 1, "x", ("deploy",), 0, 2**63, (), tuple(extensions.items()))
    forged.certificate = build_certificate(template, owned.subject_blob, stolen, b"n" * 32)
    current = auth.loaded.current
    proving = current.proving_user_cas | {keys.public_blob(stolen)}
    retired = replace(current, proving_user_cas=proving)
    auth.context = replace(auth.context, authorities=lambda: retired)
    before = auth.instance(machine.instance_id)
    assert reason(forged.try_renew()) is Reason.BAD_PROOF
    assert auth.instance(machine.instance_id) == before
    trusted = replace(retired, user_cas=(*current.user_cas, keys.public_blob(stolen)))
    auth.context = replace(auth.context, authorities=lambda: trusted)
    assert forged.try_renew().generation == 10


def test_a_short_reissue_hides_no_longer_one(auth: Auth, machine: Machine) -> None:
    """The end that is noted is that of the certificate that lives longest: locks on a
    removed instance last as long."""
    auth.write(lambda tx: tx.put_role(replace(ROLE, max_session_ttl=None)))
    request = replace(machine, wishes=replace(machine.wishes, ttl=timedelta(hours=24)))
    brief = replace(machine, wishes=replace(machine.wishes, ttl=timedelta(minutes=1)))
    assert isinstance(brief.try_renew(), Issued)
    auth.advance(hours=20)
    assert isinstance(request.try_renew(), Issued)
    end = auth.now + timedelta(hours=24)
    auth.advance(hours=1)
    assert isinstance(brief.try_renew(), Issued)
    assert auth.instance(machine.instance_id).not_after == end
