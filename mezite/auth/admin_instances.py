"""What operators do with instances: the machines that have joined."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from mezite.auth.admin import note
from mezite.auth.admin_locks import active_on, add_lock, drop, end_with_certificates, unlock
from mezite.auth.admin_tokens import find_bot
from mezite.auth.context import Context, Operator
from mezite.auth.forks import asked
from mezite.core.audit import EventType
from mezite.core.lifetime import lineage_expiry
from mezite.core.model import MAX_CERTIFICATE_TTL, Bot, Instance, Lock, LockKind, LockTarget
from mezite.errors import Conflict, InvalidInput, NotFound
from mezite.storage.interface import Page, StoredEvent, Transaction


class InstanceView(Struct, frozen=True):
    """An instance, and what stands in the way of its next renewal."""

    instance: Instance
    bot_name: str
    state: str
    """``forked`` (locked for good), ``locked`` (itself or its bot), ``recoverable``,
    ``expired`` or ``active``."""
    locks: tuple[Lock, ...]
    """On the instance or its bot, those that hold now."""
    asked: StoredEvent | None = None
    """Somebody presented a generation of before, and has not proven it; for one instance only."""


def list_instances(
    context: Context, tx: Transaction, bot_name: str | None, after: str, limit: int
) -> Page[InstanceView]:
    """Those not removed; *bot_name* must exist where it is given."""
    bot_id = None if bot_name is None else find_bot(tx, bot_name).id
    page = tx.list_instances(bot_id, after, limit)
    return Page(_views(context, tx, page.items), page.next)


def show_instance(context: Context, tx: Transaction, instance_id: str) -> InstanceView:
    view = _views(context, tx, [_find(tx, instance_id)])[0]
    return replace(view, asked=asked(tx, instance_id))


def _find(tx: Transaction, instance_id: str) -> Instance:
    instance = tx.instance(instance_id)
    if instance is None or instance.removed_at is not None:
        gone = "has been removed" if instance else "does not exist"
        raise NotFound(f"instance {instance_id!r} {gone}; mezctl instances ls shows them all")
    return instance


def _target(instance: Instance) -> LockTarget:
    return LockTarget(LockKind.INSTANCE, instance.id)


def _views(context: Context, tx: Transaction, instances: Sequence[Instance]) -> tuple[InstanceView, ...]:
    bots = {bot_id: tx.bot_by_id(bot_id) for bot_id in {instance.bot_id for instance in instances}}
    names = {bot.name for bot in bots.values() if bot}
    held = active_on(
        context,
        tx,
        [*map(_target, instances), *(LockTarget(LockKind.BOT, name) for name in sorted(names))],
    )
    views = []
    for instance in instances:
        bot = bots[instance.bot_id]
        found = held[_target(instance)]
        if bot is not None:
            found += held[LockTarget(LockKind.BOT, bot.name)]
        state = _state(context, instance, bot, found)
        views.append(InstanceView(instance, bot.name if bot else "", state, found))
    return tuple(views)


def _state(context: Context, instance: Instance, bot: Bot | None, held: Sequence[Lock]) -> str:
    if any(lock.is_final for lock in held):
        return "forked"
    if held:
        return "locked"
    if bot is not None and lineage_expiry(instance, bot, context.clock()) is not None:
        return "recoverable" if instance.recoverable else "expired"
    return "active"


def lock_instance(
    context: Context, tx: Transaction, operator: Operator, instance_id: str, *,
    message: str = "", ttl: timedelta | None = None,
) -> Lock:
    return add_lock(context, tx, operator, _target(_find(tx, instance_id)), message=message, ttl=ttl)


class Unlocked(Struct, frozen=True):
    """What an unlock took away, and what the operator has taken on by it."""

    locks: tuple[Lock, ...]
    risk: str = ""


_RISK_CURRENT = (
    "the holder of the key given out last goes on; the other one gets nothing, but its next renewal locks "
    "the instance again: make sure that it is destroyed; if you chose wrong, the thief keeps the identity"
)
_RISK_PREVIOUS = (
    "the lineage is put back by one generation: whoever has a copy of that key can go on with it, and the "
    "next renewal by the other side locks the instance again; make sure that the other copy is destroyed"
)


def unlock_instance(
    context: Context, tx: Transaction, operator: Operator, instance_id: str, *, keep_key: str | None = None
) -> Unlocked:
    """The instance may renew again.

    The final lock of a fork asks for *keep_key*: the fingerprint of the lineage
    key whose holder goes on, the one given out last or the one before it.  No
    other key can be kept: the server no longer knows that it was ever given out.
    """
    instance = _find(tx, instance_id)
    held = active_on(context, tx, [_target(instance)])[_target(instance)]
    if keep_key is None:
        return Unlocked(unlock(context, tx, operator, _target(instance)))
    if not any(lock.is_final for lock in held):
        raise Conflict(
            f"instance {instance.id} is not locked for a fork; unlock it without --keep-key"
            if held else f"instance {instance.id} is not locked; what is: mezctl locks ls"
        )
    # After an earlier decision the previous key is the one that it went against.
    previous = instance.previous_key if instance.request_hash else ""
    if keep_key not in (instance.lineage_key, previous) or not keep_key:
        known = [f"{instance.lineage_key} (generation {instance.generation}, given out last)"]
        if previous:
            known.append(f"{previous} (generation {instance.generation - 1})")
        raise InvalidInput(f"{keep_key!r} is no key of this instance; known: {', '.join(known)}", "keep_key")
    kept, risk = instance.generation, _RISK_CURRENT
    if keep_key != instance.lineage_key:
        kept, risk = instance.generation - 1, _RISK_PREVIOUS
        tx.keep_key(instance.id, generation=kept, lineage_key=keep_key)
    if context.clock() < instance.renewed_at + MAX_CERTIFICATE_TTL:
        risk += "; until they end, the certificates that both hold open our nodes again"
    note(
        context, tx, operator, EventType.INSTANCE_KEPT, "instance", instance.id, message=risk,
        fields={"kept_key": keep_key, "kept_generation": kept, "stored_generation": instance.generation},
    )
    for lock in held:
        if lock.is_final:
            drop(context, tx, operator, lock)
    return Unlocked(tuple(lock for lock in held if lock.is_final), risk)


def recover_instance(context: Context, tx: Transaction, operator: Operator, instance_id: str) -> InstanceView:
    """An expired instance may renew once more, and then goes on as usual; one past
    its bot's ``max_lineage_age`` is expired again after that renewal."""
    instance = _find(tx, instance_id)
    bot = tx.bot_by_id(instance.bot_id)
    held = active_on(context, tx, [_target(instance)])[_target(instance)]
    if any(lock.is_final for lock in held):
        raise Conflict(
            f"instance {instance.id} is locked for good (generation_mismatch); the machine needs a new token"
        )
    if bot is None or lineage_expiry(instance, bot, context.clock()) is None:
        raise Conflict(
            f"instance {instance.id} is not expired, so there is nothing to recover; how it is: "
            f"mezctl instances show {instance.id}"
        )
    tx.set_recoverable(instance.id, True)
    note(context, tx, operator, EventType.INSTANCE_RECOVERED, "instance", instance.id,
         fields={"bot": bot.name, "generation": instance.generation})
    return show_instance(context, tx, instance.id)


def remove_instance(
    context: Context, tx: Transaction, operator: Operator, instance_id: str
) -> tuple[Instance, tuple[Lock, ...]]:
    """The instance is gone, its machine needs a new token; and the locks on it,
    final ones too, until its last certificate has ended.  Of one that left, and was
    locked for a fork then, nothing but that lock is there to be removed."""
    gone = tx.instance(instance_id)
    if gone is not None and gone.removed_at is not None:
        held = active_on(context, tx, [_target(gone)])[_target(gone)]
        if any(lock.is_final and lock.expires_at is None for lock in held):
            return gone, end_with_certificates(context, tx, operator, [gone])
    instance = _find(tx, instance_id)
    bot = tx.bot_by_id(instance.bot_id)
    tx.remove_instance(instance.id, context.clock())
    note(context, tx, operator, EventType.INSTANCE_REMOVED, "instance", instance.id,
         fields={"bot": bot.name if bot else "", "generation": instance.generation})
    return instance, end_with_certificates(context, tx, operator, [instance])
