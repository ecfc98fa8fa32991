"""Authorities take turns in three steps: whom a step lets in, the next one lets in, too."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.auth import admin, admin_instances, authorities
from mezite.auth.admin import CaType
from mezite.auth.context import AuthoritySet, Operator
from mezite.auth.rotation import DEFAULT_GRACE, Rotated, Stage, rotate
from mezite.certs import keys, verify
from mezite.certs.ssh import parse_certificate
from mezite.core.model import Bot
from mezite.core.rbac import Granted
from mezite.core.template import user_certificate
from mezite.errors import CertificateRejected, Conflict, Reason, Refused
from tests.auth.test_join import reason
from tests.harness import START, Auth, Machine, Pending

ANN = Operator(1000, "ann")


def step(auth: Auth, kind: CaType = CaType.USER, **how: object) -> Rotated:
    """One step; the server then has what the database says."""
    given = {"grace": DEFAULT_GRACE, "passphrase": None, **how}
    done = auth.write(lambda tx: rotate(auth.context, tx, ANN, kind, **given))  # type: ignore[arg-type]
    loaded = auth.write(lambda tx: authorities.load_authorities(tx, None, auth.random))
    auth.context = replace(auth.context, authorities=lambda: loaded.current)
    return done


def lets_in(trusted: AuthoritySet, certificate: bytes, auth: Auth) -> bool:
    try:
        verify.check_user_certificate(
            parse_certificate(certificate), trusted=trusted.user_cas, now_unix=int(auth.now.timestamp()),
            login="deploy", address="192.0.2.1",
        )
    except CertificateRejected:
        return False
    return True


@pytest.mark.parametrize("kind", CaType)
def test_three_steps_put_a_new_authority_in_place_of_the_old_one(kind: CaType, auth: Auth) -> None:
    def published() -> list[str]:
        return [one.fingerprint for one in admin.export_ca(auth.context, kind)]

    (old,) = published()
    done = step(auth, kind)
    assert (done.stage, done.next_stage, done.not_before) == (
        Stage.ANNOUNCE, Stage.SWITCH, auth.now + DEFAULT_GRACE
    )
    new = done.fingerprint
    assert published() == [old, new], "the one that signs comes first"
    auth.now += DEFAULT_GRACE
    assert step(auth, kind).next_stage is Stage.RETIRE
    assert published() == [new, old]
    auth.now += DEFAULT_GRACE
    done = step(auth, kind)
    assert (done.stage, done.fingerprint, done.next_stage) == (Stage.RETIRE, old, None)
    assert published() == [new]
    assert step(auth, kind).stage is Stage.ANNOUNCE, "the next rotation"
    told = [event.event.fields["stage"] for event in auth.events("ca.rotated")]
    assert told == ["announce", "retire", "switch", "announce"]
    assert {event.event.actor for event in auth.events("ca.rotated")} == {"uid:1000(ann)"}


def test_steps_wait_for_machines_to_hear_of_the_one_before(auth: Auth) -> None:
    step(auth)
    auth.now += timedelta(hours=71)
    with pytest.raises(Conflict, match=r"Wait until 2026-03-27T14:00:00Z \(3d\), or give --now"):
        step(auth)
    told = r"next step for the user CA is switch, not retire; .*=user --stage=switch$"
    with pytest.raises(Conflict, match=told):
        step(auth, stage=Stage.RETIRE)
    assert step(auth, CaType.HOST).stage is Stage.ANNOUNCE, "each kind by itself"
    assert step(auth, in_haste=True).stage is Stage.SWITCH
    assert step(auth, grace=timedelta(0), stage=Stage.RETIRE).stage is Stage.RETIRE


def test_every_certificate_is_good_wherever_its_step_is_known(auth: Auth, machine: Machine) -> None:
    """A node that is one step behind or ahead lets the same machines in, until the old CA is retired."""
    held, known = [machine.certificate], [auth.context.authorities()]
    for _ in range(2):
        step(auth, in_haste=True)
        known.append(auth.context.authorities())
        machine.renew()
        held.append(machine.certificate)
    for number, certificate in enumerate(held):
        for behind in (number - 1, number, number + 1):
            if 0 <= behind < len(known):
                assert lets_in(known[behind], certificate, auth), (number, behind)
    step(auth, in_haste=True)
    assert [lets_in(auth.context.authorities(), one, auth) for one in held] == [False, False, True]


def test_a_machine_that_slept_through_a_rotation_renews(auth: Auth, machine: Machine) -> None:
    """Its certificate is by a retired CA, which still proves its lineage."""
    for _ in range(3):
        step(auth, in_haste=True)
    issued = machine.renew()
    assert issued.trust.user_cas == auth.context.authorities().user_cas
    assert lets_in(auth.context.authorities(), machine.certificate, auth)


def test_a_machine_hears_of_each_step_when_it_renews(auth: Auth, machine: Machine) -> None:
    for kind in CaType:
        for count in (2, 2, 1):
            step(auth, kind, in_haste=True)
            trust = machine.renew().trust
            cas = {CaType.USER: trust.user_cas, CaType.HOST: trust.host_cas, CaType.SERVER: trust.server_cas}
            assert len(cas[kind]) == count


def test_new_keys_are_encrypted_as_the_first_ones(auth: Auth) -> None:
    step(auth, passphrase=None)
    with_passphrase = {"grace": DEFAULT_GRACE, "passphrase": b"secret"}
    auth.write(lambda tx: rotate(auth.context, tx, ANN, CaType.HOST, **with_passphrase))  # type: ignore[arg-type]
    stored = auth.write(lambda tx: tx.authorities())
    encrypted = [one.kind for one in stored if b"ENCRYPTED" in one.private_pem]
    assert encrypted == ["host"]
    assert len(stored) == 5


def test_a_stolen_user_ca_that_is_retired_can_have_instances_locked_and_nothing_more(
    auth: Auth, machine: Machine
) -> None:
    """The price of forks that are proven after a rotation, told in docs/authorities.md; and the way back."""
    machine.renew()
    stored = auth.loaded.current.signer
    for _ in range(3):
        step(auth, in_haste=True)
    thief = machine.copy()
    thief.lineage, thief.pending = keys.generate_key(), Pending()
    subject = keys.public_blob(thief.lineage)

    def forge(generation: int) -> None:
        thief.generation = generation
        template = user_certificate(
            Granted(("ci-deployer",), ("deploy",), timedelta(hours=1), False),
            Bot("id", "github-deploy", ("ci-deployer",), START),
            instance=machine.instance_id, generation=generation, lineage_key=keys.fingerprint(subject),
            serial=1, now=auth.now,
        )
        thief.certificate = stored.sign_user(template, subject)

    forge(7)
    assert not lets_in(auth.context.authorities(), thief.certificate, auth)
    assert reason(thief.try_renew()) is Reason.BAD_PROOF
    forge(1)
    asked = thief.try_renew()
    assert isinstance(asked, Refused)
    assert reason(thief.try_renew(asked.nonce)) is Reason.GENERATION_MISMATCH
    assert reason(machine.try_renew()) is Reason.GENERATION_MISMATCH
    kept = auth.instance(machine.instance_id).lineage_key
    auth.write(
        lambda tx: admin_instances.unlock_instance(auth.context, tx, ANN, machine.instance_id, keep_key=kept)
    )
    assert machine.renew().generation == 3
