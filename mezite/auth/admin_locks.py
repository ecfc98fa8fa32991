"""What operators do with locks.

A lock stands on a name (a bot's, a role's, a login's, a node's) or on an
instance's id.  Certificates outlive what is removed, by up to 24 hours, and on
our nodes locks are what stops them.  Hence three decisions:

- A lock on a bot's name stays when the bot is removed; and as a new bot of that
  name would be locked from its start, ``bots add`` is refused until the operator
  removes the lock himself.  So a lock neither hits a stranger nor goes away in
  silence.
- An instance that is removed, itself or with its bot, is locked until its last
  certificate has ended; a lock it has stays until then.  Ids are never used
  again, so that hits nobody else.
- While its instance is there, the final lock of a proven fork goes away with
  ``instances unlock --keep-key`` only, never with ``locks rm``, which would let
  whoever comes first go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from mezite.auth.admin import get_role, note
from mezite.auth.adoption import last_event
from mezite.auth.context import Actor, Context, Operator
from mezite.core import locks
from mezite.core.audit import EventType, plain
from mezite.core.model import (
    MAX_CERTIFICATE_TTL,
    OPERATOR,
    Instance,
    Lock,
    LockKind,
    LockTarget,
    check_login,
    check_name,
)
from mezite.errors import Conflict, NotFound
from mezite.storage.interface import Page, Transaction

_TARGETS_AT_ONCE = 200
"""SQLite before 3.32 takes 999 values in one statement, a target is two."""


def active_on(
    context: Context, tx: Transaction, targets: Sequence[LockTarget]
) -> Mapping[LockTarget, tuple[Lock, ...]]:
    """The locks that hold now on each of *targets*, final ones first."""
    now = context.clock()
    found: list[Lock] = []
    for start in range(0, len(targets), _TARGETS_AT_ONCE):
        found += tx.locks_on(targets[start : start + _TARGETS_AT_ONCE])
    return {target: locks.holding(found, [target], now) for target in targets}


def add_lock(
    context: Context,
    tx: Transaction,
    operator: Operator,
    target: LockTarget,
    *,
    message: str = "",
    ttl: timedelta | None = None,
) -> Lock:
    """*target*, which must exist, is locked for *ttl*, or until unlocked.

    A lock of an operator's that lasts as long stands already: that one is returned.
    """
    _check_target(tx, target)
    now = context.clock()
    expires_at = None if ttl is None else now + ttl
    for held in active_on(context, tx, [target])[target]:
        if held.reason == OPERATOR and _lasts(held, expires_at):
            return held
    lock = Lock(
        id=context.new_uuid(),
        target=target,
        reason=OPERATOR,
        message=plain(message),
        created_by=str(operator),
        created_at=now,
        expires_at=expires_at,
    )
    tx.add_lock(lock)
    _note(context, tx, operator, EventType.LOCK_CREATED, lock)
    return lock


def _lasts(held: Lock, until: datetime | None) -> bool:
    return held.expires_at is None or (until is not None and held.expires_at >= until)


def _check_target(tx: Transaction, target: LockTarget) -> None:
    """A lock on a name that is mistyped would protect nobody, in silence."""
    name = target.value
    if target.kind is LockKind.BOT:
        if tx.bot(name) is None:
            raise NotFound(f"there is no bot {name!r}; mezctl bots ls shows them all")
    elif target.kind is LockKind.INSTANCE:
        instance = tx.instance(name)
        if instance is None or instance.removed_at is not None:
            raise NotFound(f"there is no instance {name!r}; mezctl instances ls shows them all")
    elif target.kind is LockKind.ROLE:
        get_role(tx, name)
    elif target.kind is LockKind.LOGIN:
        check_login(name, "login")
    else:
        check_name(name, "node")


def unlock(context: Context, tx: Transaction, operator: Operator, target: LockTarget) -> tuple[Lock, ...]:
    """No operator's lock holds on *target* any more; those that did."""
    held = active_on(context, tx, [target])[target]
    final = [lock for lock in held if lock.is_final]
    if final:
        raise Conflict(_final(final[0]))
    if not held:
        raise Conflict(f"{target.kind.value} {target.value} is not locked; what is: mezctl locks ls")
    for lock in held:
        drop(context, tx, operator, lock)
    return held


def drop(context: Context, tx: Transaction, operator: Actor, lock: Lock, why: str = "") -> None:
    """*lock* is gone, whatever its reason; the audit log keeps it."""
    tx.delete_lock(lock.id)
    _note(context, tx, operator, EventType.LOCK_DELETED, lock, why)


def end_with_certificates(
    context: Context, tx: Transaction, operator: Actor, instances: Sequence[Instance]
) -> tuple[Lock, ...]:
    """Removed *instances* are locked until no certificate of theirs is good any
    more, so that our nodes refuse them; those locks."""
    now = context.clock()
    forgotten = _forgotten_until(tx)
    ends = {_target(instance): _last_certificate_ends(instance, forgotten) for instance in instances}
    left: list[Lock] = []
    for target, held in active_on(context, tx, list(ends)).items():
        kept = []
        for lock in held:
            if ends[target] <= now:
                drop(context, tx, operator, lock, "its instance was removed")
                continue
            if lock.expires_at is None or lock.expires_at > ends[target]:
                lock = replace(lock, expires_at=ends[target])
                tx.delete_lock(lock.id)
                tx.add_lock(lock)
                _note(context, tx, operator, EventType.LOCK_SHORTENED, lock, "its instance was removed")
            kept.append(lock)
        if ends[target] > now and not any(lock.expires_at == ends[target] for lock in kept):
            lock = Lock(
                id=context.new_uuid(),
                target=target,
                reason=OPERATOR,
                message="it was removed",
                created_by=str(operator),
                created_at=now,
                expires_at=ends[target],
            )
            tx.add_lock(lock)
            _note(context, tx, operator, EventType.LOCK_CREATED, lock, lock.message)
            kept.append(lock)
        left += kept
    return tuple(left)


def _target(instance: Instance) -> LockTarget:
    return LockTarget(LockKind.INSTANCE, instance.id)


def _last_certificate_ends(instance: Instance, forgotten: datetime | None) -> datetime:
    """At the latest: an earlier certificate may have been given a longer life, and what
    was given out until *forgotten* may not be in the database."""
    given_out = instance.renewed_at if forgotten is None else max(instance.renewed_at, forgotten)
    longest = given_out + MAX_CERTIFICATE_TTL
    return longest if instance.not_after is None else max(longest, instance.not_after)


def _forgotten_until(tx: Transaction) -> datetime | None:
    """When the database was last found or said to be an older copy, if it ever was."""
    told = (last_event(tx, kind) for kind in (EventType.DATABASE_OLDER, EventType.DATABASE_RESTORED))
    return max((one.event.at for one in told if one is not None), default=None)


def list_locks(
    context: Context, tx: Transaction, after: str, limit: int, *, ended: bool = False
) -> Page[Lock]:
    """Those that hold now, or with *ended* all of them; a page may be short or empty."""
    now = context.clock()
    page = tx.list_locks(after, limit)
    if ended:
        return page
    return Page(tuple(lock for lock in page.items if locks.is_active(lock, now)), page.next)


def remove_lock(context: Context, tx: Transaction, operator: Operator, lock_id: str) -> Lock:
    lock = tx.lock(lock_id)
    if lock is None:
        raise NotFound(f"there is no lock {lock_id!r}; mezctl locks ls shows them all")
    if lock.is_final:
        instance = tx.instance(lock.target.value)
        if instance is not None and instance.removed_at is None:
            raise Conflict(_final(lock))
    drop(context, tx, operator, lock)
    return lock


def _final(lock: Lock) -> str:
    instance = lock.target.value
    return (
        f"the lock on instance {instance} is final (generation_mismatch: its lineage has two holders); "
        f"let the machine join again and mezctl instances rm {instance}, or, knowing which key is "
        f"the honest one, mezctl instances unlock {instance} --keep-key FINGERPRINT"
    )


def _note(
    context: Context, tx: Transaction, operator: Actor, event: EventType, lock: Lock, why: str = ""
) -> None:
    fields: dict[str, str | int] = {"target": str(lock.target), "lock_reason": lock.reason}
    if lock.expires_at is not None:
        fields["expires_at"] = f"{lock.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    note(context, tx, operator, event, "lock", lock.id, message=why or lock.message, fields=fields)
