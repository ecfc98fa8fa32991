"""A proven lineage gets its next generation; a forked one is locked."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from mezite.auth.adoption import STORED_AT, show_older
from mezite.auth.context import Context, Peer
from mezite.auth.forks import left_with
from mezite.auth.issue import Subject, answer_fork, certify, expired, issued, locked, terms
from mezite.auth.older import refuse_joins
from mezite.auth.proof import Provenance, RenewProof
from mezite.core.audit import AuditEvent, EventType
from mezite.core.generation import Advance, ForkSuspected, Judgement, Presented, Stored, judge, judge_left
from mezite.core.model import Instance
from mezite.core.request import Issued, RenewRequest, certificate_hash
from mezite.errors import Reason, Refused
from mezite.storage.interface import Step, Transaction

_ATTEMPTS = 3
"""A step that another writer overtook is judged again, by what is stored then."""


class Unverified(Struct, frozen=True):
    """Nothing was judged: what is stored does not vouch for the certificate.
    Verify it (:func:`~mezite.auth.proof.prove_certificate`), and ask again."""


def _no_wait(_instance_id: str) -> float | None:
    return None


def renew(
    context: Context,
    tx: Transaction,
    request: RenewRequest,
    proof: RenewProof,
    provenance: Provenance | None = None,
    *,
    nonce: bytes,
    peer: Peer,
    wait_of: Callable[[str], float | None] = _no_wait,
) -> Issued | Refused | Unverified:
    """The next generation of an instance, or why not, judged in this order:
    removal, locks, generation, expiry, bot, roles, logins, interval, rate.

    *wait_of* is asked once for each that would be granted: in how many seconds the
    instance may renew, ``None`` for now.  A fork is never kept from being proven by it.

    Without a *provenance*, only a request with the very certificate that was
    given out with the stored generation, to the stored key, is judged.
    """
    for _ in range(_ATTEMPTS):
        outcome = _renew_once(
            context, tx, request, proof, provenance, nonce=nonce, peer=peer, wait_of=wait_of
        )
        if outcome is not None:
            return outcome
    return Refused(Reason.UNAVAILABLE, "the instance is being renewed elsewhere; ask again")


def _is_last_issued(instance: Instance, request: RenewRequest, proof: RenewProof) -> bool:
    """Whether the certificate is, byte for byte, the one that was signed for the
    stored generation and key: what it says is then what is stored."""
    return (instance.generation, instance.lineage_key, instance.certificate_hash) == (
        request.generation,
        proof.lineage_key,
        certificate_hash(request.certificate),
    )


def _renew_once(
    context: Context,
    tx: Transaction,
    request: RenewRequest,
    proof: RenewProof,
    provenance: Provenance | None,
    *,
    nonce: bytes,
    peer: Peer,
    wait_of: Callable[[str], float | None],
) -> Issued | Refused | Unverified | None:
    now = context.clock()
    instance = tx.instance(request.instance_id)
    bot = None if instance is None else tx.bot_by_id(instance.bot_id)
    if provenance is None:
        if instance is None or bot is None or not _is_last_issued(instance, request, proof):
            return Unverified()
        # Nothing can be ahead of the stored generation here; if it were, it would not be adopted.
        provenance = Provenance(bot.name, is_current=False)
    if instance is None:
        return refuse_joins(tx) or Refused(
            Reason.INSTANCE_UNKNOWN,
            f"the server does not know instance {request.instance_id}; join again with a new token",
        )
    stored = Stored(
        instance.generation, instance.lineage_key, instance.previous_key, instance.request_hash
    )
    presented = Presented(request.generation, proof.lineage_key, proof.new_key, proof.request_hash)
    judgement: Judgement | None
    if instance.removed_at is not None:
        if bot is None:
            return Refused(Reason.BOT_GONE, f"the bot {provenance.bot} has been removed")
        judgement = judge_left(stored, left_with(tx, instance.id), presented)
        if judgement is None:
            return Refused(
                Reason.INSTANCE_UNKNOWN,
                f"instance {instance.id} has been removed; join again with a new token",
            )
    else:
        refused = locked(
            tx,
            now,
            bot=bot.name if bot else "",
            instance=instance.id,
            roles=bot.roles if bot else (),
        )
        if refused is not None:
            return refused
        judgement = judge(stored, presented)
    adopted = isinstance(judgement, Advance) and judgement.adopted
    if adopted and not provenance.is_current:
        # What a retired CA has signed, this database has seen: only its stolen key can be ahead.
        return Refused(Reason.BAD_PROOF, "a retired CA proves no generation ahead of this server's")
    if isinstance(judgement, ForkSuspected):
        return answer_fork(
            context,
            tx,
            judgement,
            instance=instance,
            bot_name=provenance.bot,
            nonce=nonce,
            wishes=request.wishes,
            peer=peer,
        )
    if bot is None:
        return Refused(Reason.BOT_GONE, f"the bot {provenance.bot} has been removed")
    over = expired(instance, bot, now)
    if isinstance(over, Refused):
        return over
    agreed = terms(tx, bot, request.ssh_keys, request.wishes, now)
    if isinstance(agreed, Refused):
        return agreed
    wait = wait_of(instance.id)
    if wait is not None:
        return Refused(
            Reason.TOO_OFTEN,
            f"instance {instance.id} renews too often; it may again in {wait:.0f} s",
            retry_after_ms=int(wait * 1000),
        )
    if isinstance(judgement, Advance):
        subject = Subject(bot, instance.id, judgement.to_generation, proof.new_key)
        event = EventType.CERT_ISSUED
    else:
        subject = Subject(bot, instance.id, judgement.generation, instance.lineage_key)
        event = EventType.CERT_REISSUED
    if adopted:
        # First, as it raises the serials above those that the database has forgotten.
        show_older(context, tx, instance)
    certified = certify(context, tx, subject, request.ssh_keys, agreed, now)
    if isinstance(judgement, Advance):
        done = tx.step(
            Step(
                instance_id=instance.id,
                from_generation=instance.generation,
                from_key=instance.lineage_key,
                to_generation=subject.generation,
                to_key=subject.lineage_key,
                previous_key=proof.lineage_key,
                request_hash=proof.request_hash,
                at=now,
                not_after=now + agreed.longest,
                address=peer.address,
                host=request.wishes.host,
                boot_id=request.wishes.boot_id,
                certificate_hash=certificate_hash(certified[0].blob),
            )
        )
    else:
        done = tx.note_reissue(
            instance.id,
            generation=subject.generation,
            lineage_key=subject.lineage_key,
            at=now,
            not_after=now + agreed.longest,
            recovered=over is not None,
        )
    if not done:
        return None
    if adopted:
        tx.add_event(
            AuditEvent(
                EventType.GENERATION_ADOPTED,
                now,
                actor=f"bot/{bot.name}",
                resource_type="instance",
                resource_name=instance.id,
                client_ip=peer.address,
                message="ahead of the database, which was restored from an older copy",
                fields={
                    "stored_generation": instance.generation,
                    "presented_generation": request.generation,
                    STORED_AT: int(instance.renewed_at.timestamp()),
                },
            )
        )
    return issued(context, tx, subject, certified, agreed, now, event=event, peer=peer)
