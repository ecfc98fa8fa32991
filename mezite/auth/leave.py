"""A machine ends its own instance: the last step of a job that joined for itself."""

from __future__ import annotations

from mezite.auth.admin_locks import end_with_certificates
from mezite.auth.adoption import show_older
from mezite.auth.context import Context, Peer
from mezite.auth.forks import left_with
from mezite.auth.issue import answer_fork, locked
from mezite.auth.proof import LeaveProof, Provenance
from mezite.core.audit import AuditEvent, EventType
from mezite.core.generation import ForkSuspected, Judgement, Presented, Stored, judge, judge_left
from mezite.core.request import LeaveRequest, Wishes
from mezite.errors import Reason, Refused
from mezite.storage.interface import Transaction


def leave(
    context: Context,
    tx: Transaction,
    request: LeaveRequest,
    proof: LeaveProof,
    provenance: Provenance,
    *,
    nonce: bytes,
    peer: Peer,
) -> Refused | None:
    """The instance is removed; ``None`` also when it was already: the reply was lost.

    Judged as a renewal is: locks, then the generation.  An old copy ends nobody's
    lineage, and whoever proves a fork by leaving locks it, also where the other
    holder has left before.  The certificates that are out are refused by our nodes
    until they have ended.
    """
    instance = tx.instance(request.instance_id)
    if instance is None:
        return Refused(
            Reason.INSTANCE_UNKNOWN, f"the server does not know instance {request.instance_id}"
        )
    now, name = context.clock(), provenance.bot
    stored = Stored(
        instance.generation, instance.lineage_key, instance.previous_key, instance.request_hash
    )
    presented = Presented(request.generation, proof.lineage_key, "", b"")
    judgement: Judgement | None
    if instance.removed_at is not None:
        judgement = judge_left(stored, left_with(tx, instance.id), presented)
        if judgement is None:
            return None
    else:
        refused = locked(tx, now, bot=name, instance=instance.id)
        if refused is not None:
            return refused
        judgement = judge(stored, presented)
    if isinstance(judgement, ForkSuspected):
        return answer_fork(
            context, tx, judgement, instance=instance, bot_name=name, nonce=nonce,
            wishes=Wishes(None, None, now), peer=peer,
        )
    if request.generation != instance.generation and not provenance.is_current:
        return Refused(Reason.BAD_PROOF, "a retired CA proves no generation ahead of this server's")
    if request.generation != instance.generation:
        show_older(context, tx, instance)
    tx.remove_instance(instance.id, now)
    actor = f"bot/{name}"
    tx.add_event(
        AuditEvent(
            EventType.INSTANCE_LEFT,
            now,
            actor=actor,
            resource_type="instance",
            resource_name=instance.id,
            client_ip=peer.address,
            fields={"bot": name, "generation": request.generation},
        )
    )
    end_with_certificates(context, tx, actor, [instance])
    return None
