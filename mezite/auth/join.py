"""A machine redeems its join token and becomes an instance, at generation 1."""

from __future__ import annotations

from datetime import timedelta

from mezite.auth.context import Context, Peer
from mezite.auth.forks import left_with
from mezite.auth.issue import Subject, answer_fork, certify, expired, issued, locked, terms
from mezite.auth.older import refuse_joins
from mezite.auth.proof import JoinProof
from mezite.core.audit import AuditEvent, EventType
from mezite.core.duration import format_duration
from mezite.core.generation import ForkSuspected, Stored, judge_repeated_join
from mezite.core.lifetime import CLIENT_SKEW
from mezite.core.model import Instance, JoinToken
from mezite.core.request import Issued, JoinRequest, Wishes, certificate_hash, secret_matches
from mezite.errors import Reason, Refused
from mezite.storage.interface import Admission, Transaction

_MOST_REUSED = 10
_REUSED_WITHIN = timedelta(minutes=10)
"""A token that is shown again and again leaves so many rows in this time."""


def join(
    context: Context,
    tx: Transaction,
    request: JoinRequest,
    proof: JoinProof,
    *,
    nonce: bytes,
    peer: Peer,
) -> Issued | Refused:
    """The first identity of a machine, or why not.

    The token is used last, by one conditional UPDATE, after everything else
    that could refuse.  The key that redeemed it may repeat the join while the
    instance is at generation 1, whatever became of the token meanwhile.
    """
    now = context.clock()
    # The key that redeemed the token has shown the secret already.
    admission = tx.admission(request.token_id, proof.lineage_key)
    if admission is not None:
        return _repeat(context, tx, request, proof, admission, nonce=nonce, peer=peer)
    refused = refuse_joins(tx)
    if refused is not None:
        return refused
    token = tx.token(request.token_id)
    if token is None or not secret_matches(request.token_secret, token.secret_hash):
        return Refused(
            Reason.TOKEN_UNKNOWN,
            "the server knows no such join token; check that it was copied whole, or make a new one",
        )
    bot = tx.bot_by_id(token.bot_id)
    if bot is None:
        return Refused(Reason.BOT_GONE, f"the bot of token {token.id} has been removed")
    state = token.state(now)
    if state != "active":
        return _redeemed_by_itself(context, tx, request, proof, nonce=nonce, peer=peer) or _spent(
            context, tx, token, state, bot.name, peer
        )
    refused = locked(tx, now, bot=bot.name, instance="", roles=bot.roles) or _skewed(request.wishes, context)
    if refused is not None:
        return refused
    agreed = terms(tx, bot, request.ssh_keys, request.wishes, now)
    if isinstance(agreed, Refused):
        return agreed
    if not tx.use_token(token.id, now):
        return _redeemed_by_itself(context, tx, request, proof, nonce=nonce, peer=peer) or _spent(
            context, tx, token, "used", bot.name, peer
        )
    subject = Subject(bot, context.new_uuid(), 1, proof.lineage_key)
    certified = certify(context, tx, subject, request.ssh_keys, agreed, now)
    instance = Instance(
        id=subject.instance_id,
        bot_id=bot.id,
        generation=1,
        lineage_key=proof.lineage_key,
        previous_key="",
        request_hash=proof.request_hash,
        token_id=token.id,
        created_at=now,
        renewed_at=now,
        address=peer.address,
        host=request.wishes.host,
        boot_id=request.wishes.boot_id,
        not_after=now + agreed.longest,
        certificate_hash=certificate_hash(certified[0].blob),
    )
    tx.add_instance(instance)
    tx.add_admission(Admission(token.id, proof.lineage_key, instance.id, now, peer.address))
    tx.add_event(
        AuditEvent(
            EventType.INSTANCE_JOINED,
            now,
            actor=f"bot/{bot.name}",
            resource_type="instance",
            resource_name=instance.id,
            client_ip=peer.address,
            fields={"token": token.id, "lineage_key": proof.lineage_key, "host": request.wishes.host},
        )
    )
    return issued(context, tx, subject, certified, agreed, now, event=EventType.CERT_ISSUED, peer=peer)


def _skewed(wishes: Wishes, context: Context) -> Refused | None:
    """Refuses a clock so wrong that what we issue would be of no use to it."""
    skew: timedelta = abs(wishes.client_time - context.clock())
    if skew <= CLIENT_SKEW:
        return None
    return Refused(
        Reason.CLOCK_SKEW,
        f"this machine's clock is off by {format_duration(skew)}; set it right and start again, "
        "the token has not been used",
    )


def _redeemed_by_itself(
    context: Context, tx: Transaction, request: JoinRequest, proof: JoinProof, *, nonce: bytes, peer: Peer
) -> Issued | Refused | None:
    """The answer when this very key has redeemed the token since we looked: a machine
    that was not answered in time by one server asks another one."""
    admission = tx.admission(request.token_id, proof.lineage_key)
    if admission is None:
        return None
    return _repeat(context, tx, request, proof, admission, nonce=nonce, peer=peer)


def _spent(
    context: Context, tx: Transaction, token: JoinToken, state: str, bot_name: str, peer: Peer
) -> Refused:
    """Refuses a token that admits nobody any more.

    Whoever shows the secret of a used one may be the machine it was meant for:
    so the instance that it made is named, and the event kept.
    """
    admissions = tx.admissions(token.id)
    if admissions and state in ("used", "rotated") and _is_news(tx, token, context):
        made = admissions[-1]
        tx.add_event(
            AuditEvent(
                EventType.TOKEN_REUSED,
                context.clock(),
                actor=f"bot/{bot_name}",
                resource_type="token",
                resource_name=token.id,
                client_ip=peer.address,
                success=False,
                reason=f"token_{state}",
                message=f"{token.id} was presented again by another key",
                fields={"instance": made.instance_id, "instance_address": made.address},
            )
        )
    if state == "used" and admissions:
        made = admissions[-1]
        return Refused(
            Reason.TOKEN_USED,
            f"{token.id} was used by instance {made.instance_id} from {made.address} at "
            f"{made.at:%Y-%m-%dT%H:%M:%SZ}; if that was not you: mezctl instances lock {made.instance_id}",
        )
    remedy = f"make a new one: mezctl bots rotate-token {bot_name}"
    if state == "expired":
        return Refused(
            Reason.TOKEN_EXPIRED, f"{token.id} expired at {token.expires_at:%Y-%m-%dT%H:%M:%SZ}; {remedy}"
        )
    if state == "rotated":
        return Refused(
            Reason.TOKEN_ROTATED,
            f"{token.id} has been voided: a newer token replaced it, or its database was restored; {remedy}",
        )
    return Refused(Reason.TOKEN_USED, f"{token.id} has been used; {remedy}")


def _is_news(tx: Transaction, token: JoinToken, context: Context) -> bool:
    """Whether few rows tell of this lately: a used token's secret may be known
    to many, and none of them may fill the disk with it."""
    told = tx.list_events(
        type_name=EventType.TOKEN_REUSED.event_name, resource_name=token.id, limit=_MOST_REUSED
    )
    return len(told) < _MOST_REUSED or context.clock() - told[-1].event.at >= _REUSED_WITHIN


def _repeat(
    context: Context,
    tx: Transaction,
    request: JoinRequest,
    proof: JoinProof,
    admission: Admission,
    *,
    nonce: bytes,
    peer: Peer,
) -> Issued | Refused:
    """The key that redeemed the token asks again: its reply may have been lost."""
    now = context.clock()
    removed = Refused(
        Reason.INSTANCE_UNKNOWN,
        f"instance {admission.instance_id} has been removed; join again with a new token",
    )
    instance = tx.instance(admission.instance_id)
    if instance is None:
        return removed
    stored = Stored(
        instance.generation, instance.lineage_key, instance.previous_key, instance.request_hash
    )
    judgement = judge_repeated_join(stored, proof.lineage_key, proof.request_hash)
    bot = tx.bot_by_id(instance.bot_id)
    if instance.removed_at is not None:
        # Whoever ended it has had the answer that this one asks for.
        if bot is None or left_with(tx, instance.id) is None:
            return removed
        judgement = ForkSuspected(stored.generation, 1, stored.lineage_key, proof.lineage_key)
    else:
        refused = locked(
            tx, now, bot=bot.name if bot else "", instance=instance.id, roles=bot.roles if bot else ()
        )
        if refused is not None:
            return refused
    if isinstance(judgement, ForkSuspected):
        return answer_fork(
            context,
            tx,
            judgement,
            instance=instance,
            bot_name=bot.name if bot else "",
            nonce=nonce,
            wishes=request.wishes,
            peer=peer,
        )
    if bot is None:
        return Refused(Reason.BOT_GONE, "the bot has been removed")
    over = expired(instance, bot, now)
    if isinstance(over, Refused):
        return over
    agreed = terms(tx, bot, request.ssh_keys, request.wishes, now)
    if isinstance(agreed, Refused):
        return agreed
    if not tx.note_reissue(
        instance.id,
        generation=1,
        lineage_key=instance.lineage_key,
        at=now,
        not_after=now + agreed.longest,
        recovered=over is not None,
    ):
        return Refused(Reason.UNAVAILABLE, "the instance was changed or locked just now; ask again")
    subject = Subject(bot, instance.id, 1, instance.lineage_key)
    certified = certify(context, tx, subject, request.ssh_keys, agreed, now)
    return issued(context, tx, subject, certified, agreed, now, event=EventType.CERT_REISSUED, peer=peer)
