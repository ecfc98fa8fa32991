"""What joins and renewals share: the terms, the fork, the certificates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from msgspec import Struct

from mezite.auth.context import Context, Peer, Transaction
from mezite.auth.forks import fork_fields, note_asked
from mezite.auth.proof import make_nonce, nonce_holds
from mezite.core import locks, rbac
from mezite.core.audit import AuditEvent, EventType
from mezite.core.fork import Fork, Holder
from mezite.core.generation import ForkSuspected
from mezite.core.lifetime import (
    IntervalTooLong,
    LineageExpired,
    asked_ttl,
    lineage_expiry,
    renew_after,
    renewal_interval,
)
from mezite.core.model import MISMATCH, Bot, Instance, Lock, LockKind, LockTarget
from mezite.core.rbac import Denied, Granted
from mezite.core.request import Issued, SshKey, Wishes
from mezite.core.roles import Role
from mezite.core.template import user_certificate
from mezite.errors import Reason, Refused


class Terms(Struct, frozen=True):
    """What a machine gets for each of its keys, and when it is to come back."""

    granted: tuple[Granted, ...]
    interval: timedelta

    @property
    def shortest(self) -> timedelta:
        return min(granted.ttl for granted in self.granted)

    @property
    def longest(self) -> timedelta:
        return max(granted.ttl for granted in self.granted)


def locked(
    tx: Transaction, now: datetime, *, bot: str, instance: str, roles: Sequence[str] = ()
) -> Refused | None:
    """The refusal for the first lock that holds for this subject, a final one first."""
    targets = locks.subject_targets(bot=bot, instance=instance, roles=roles)
    found = tx.locks_on(targets)
    held = locks.holding(found, targets, now) if found else ()
    if not held:
        return None
    lock = held[0]
    if lock.is_final:
        return mismatch(instance)
    until = f" until {lock.expires_at:%Y-%m-%dT%H:%M:%SZ}" if lock.expires_at else ""
    why = f": {lock.message}" if lock.message else ""
    return Refused(Reason.LOCKED, f"{lock.target} is locked{until}{why}")


def mismatch(instance_id: str) -> Refused:
    return Refused(
        Reason.GENERATION_MISMATCH,
        f"two holders of instance {instance_id} have renewed, so it is locked for good; "
        "join again with a new token, and find out who holds the copy",
    )


def expired(instance: Instance, bot: Bot, now: datetime) -> LineageExpired | Refused | None:
    """Whether the lineage renews no more by itself: a refusal, or why this one
    needs, and uses up, what `instances recover` allowed."""
    found = lineage_expiry(instance, bot, now)
    if found is None or instance.recoverable:
        return found
    return Refused(
        Reason.EXPIRED,
        f"{found}; an operator can allow one more renewal: mezctl instances recover {instance.id}",
    )


def terms(
    tx: Transaction, bot: Bot, ssh_keys: Sequence[SshKey], wishes: Wishes, now: datetime
) -> Terms | Refused:
    """What the bot's roles, as they stand now, give to these keys and *wishes*: all of it, or nothing."""
    roles = rbac.find_roles(bot.roles, tx.roles(bot.roles))
    if isinstance(roles, Denied):
        return Refused(roles.reason, f"bot {bot.name}: {roles}")
    locked_logins = locks.locked_logins(tx.locks_on(_login_targets(roles)), now)
    granted = []
    for key in ssh_keys:
        one = _grant(roles, key.roles, asked_ttl(key.ttl or wishes.ttl, bot), locked_logins)
        if isinstance(one, Denied):
            output = f", output {key.output}" if key.roles is not None else ""
            return Refused(one.reason, f"bot {bot.name}{output}: {one}")
        granted.append(one)
    interval = renewal_interval(wishes.interval, min(one.ttl for one in granted))
    if isinstance(interval, IntervalTooLong):
        return Refused(Reason.INTERVAL_TOO_LONG, str(interval))
    return Terms(tuple(granted), interval)


# Machines of one bot ask alike.


@lru_cache(maxsize=1024)
def _login_targets(roles: tuple[Role, ...]) -> tuple[LockTarget, ...]:
    logins = dict.fromkeys(login for role in roles for login in role.allow.logins)
    return tuple(LockTarget(LockKind.LOGIN, login) for login in logins)


@lru_cache(maxsize=1024)
def _grant(
    roles: tuple[Role, ...], names: tuple[str, ...] | None, ttl: timedelta, locked_logins: tuple[str, ...]
) -> Granted | Denied:
    """By those of *roles* with these *names*, or by all."""
    if names is None:
        return rbac.grant(roles, asked_ttl=ttl, locked_logins=locked_logins)
    chosen = rbac.choose(roles, names)
    if isinstance(chosen, Denied):
        return chosen
    return rbac.grant(chosen[0], asked_ttl=ttl, locked_logins=locked_logins, left_out=chosen[1])


def answer_fork(
    context: Context,
    tx: Transaction,
    fork: ForkSuspected,
    *,
    instance: Instance,
    bot_name: str,
    nonce: bytes,
    wishes: Wishes,
    peer: Peer,
) -> Refused:
    """``prove`` with a nonce (a row tells of it), or, when this request answers one, the final lock.

    Only somebody who holds the presented key now can answer, so neither a late
    nor a recorded message locks anybody.
    """
    now = context.clock()
    key = fork.presented_key
    nonce_key = context.cluster.nonce_key
    seen = Fork(
        current=Holder(
            fork.stored_generation, fork.stored_key, instance.address, instance.host, instance.boot_id,
            instance.renewed_at,
        ),
        other=Holder(fork.presented_generation, key, peer.address, wishes.host, wishes.boot_id, now),
    )
    if not nonce_holds(nonce, nonce_key, instance.id, key, now):
        note_asked(context, tx, seen, instance.id, bot_name)
        return Refused(
            Reason.PROVE,
            f"generation {fork.presented_generation} is not the one given out last; "
            "sign the request again over the nonce",
            nonce=make_nonce(nonce_key, instance.id, key, now),
        )
    tx.add_lock(
        Lock(
            id=context.new_uuid(),
            target=LockTarget(LockKind.INSTANCE, instance.id),
            reason=MISMATCH,
            message=str(seen),
            created_by="system",
            created_at=now,
            fork=seen,
        )
    )
    tx.add_event(
        AuditEvent(
            EventType.GENERATION_MISMATCH,
            now,
            actor=f"bot/{bot_name}",
            resource_type="instance",
            resource_name=instance.id,
            client_ip=peer.address,
            success=False,
            reason=Reason.GENERATION_MISMATCH.code,
            message=f"two holders of one lineage; the instance is locked; {seen.likeness.text}",
            fields=fork_fields(seen),
        )
    )
    return mismatch(instance.id)


class Subject(Struct, frozen=True):
    """Whom certificates are for."""

    bot: Bot
    instance_id: str
    generation: int
    lineage_key: str
    """Fingerprint."""


class Certified(Struct, frozen=True):
    """A certificate that is signed, and not given out yet."""

    output: str
    granted: Granted
    serial: int
    valid_before: int
    blob: bytes


def certify(
    context: Context,
    tx: Transaction,
    subject: Subject,
    ssh_keys: Sequence[SshKey],
    terms: Terms,
    now: datetime,
) -> tuple[Certified, ...]:
    """One signed certificate for each of the *ssh_keys*, at least one."""
    signer = context.authorities().signer
    certified = []
    for key, granted in zip(ssh_keys, terms.granted, strict=True):
        template = user_certificate(
            granted,
            subject.bot,
            instance=subject.instance_id,
            generation=subject.generation,
            lineage_key=subject.lineage_key,
            serial=tx.next_serial(),
            now=now,
        )
        blob = signer.sign_user(template, key.blob)
        certified.append(Certified(key.output, granted, template.serial, template.valid_before, blob))
    return tuple(certified)


def issued(
    context: Context,
    tx: Transaction,
    subject: Subject,
    certified: Sequence[Certified],
    terms: Terms,
    now: datetime,
    *,
    event: EventType,
    peer: Peer,
) -> Issued:
    """What gives the certificates out, with an audit row for each of them."""
    for one in certified:
        tx.add_event(
            AuditEvent(
                event,
                now,
                actor=f"bot/{subject.bot.name}",
                resource_type="instance",
                resource_name=subject.instance_id,
                client_ip=peer.address,
                fields={
                    "serial": one.serial,
                    "generation": subject.generation,
                    "output": one.output,
                    "logins": ",".join(one.granted.logins),
                    "roles": ",".join(one.granted.roles),
                    "valid_before_unix": one.valid_before,
                },
            )
        )
    return Issued(
        instance_id=subject.instance_id,
        bot=subject.bot.name,
        generation=subject.generation,
        certificates=tuple(one.blob for one in certified),
        trust=context.trust(),
        server_time=now,
        ttl=terms.shortest,
        renew_after=renew_after(terms.interval, context.chance()),
    )
