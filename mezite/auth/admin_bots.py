"""What operators do with bots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from msgspec import Struct

from mezite.auth.admin import note
from mezite.auth.admin_instances import InstanceView, list_instances
from mezite.auth.admin_locks import active_on, add_lock, end_with_certificates, unlock
from mezite.auth.admin_tokens import (
    DEFAULT_TOKEN_TTL,
    NewToken,
    TokenView,
    find_bot,
    list_tokens,
    make_token,
)
from mezite.auth.context import Context, Operator
from mezite.core import rbac
from mezite.core.audit import EventType
from mezite.core.lifetime import asked_ttl
from mezite.core.model import (
    DEFAULT_RENEWABLE_FOR,
    Bot,
    Instance,
    Lock,
    LockKind,
    LockTarget,
    address_block,
)
from mezite.errors import Conflict, InvalidInput, NotFound
from mezite.storage.interface import MAX_PAGE, Page, Transaction

_SHOWN = 100
"""Tokens and instances that `bots show` tells of."""


class BotView(Struct, frozen=True):
    bot: Bot
    locks: tuple[Lock, ...]
    """On the bot itself, those that hold now."""


class BotDetails(Struct, frozen=True):
    bot: Bot
    locks: tuple[Lock, ...]
    tokens: Page[TokenView]
    instances: Page[InstanceView]


class BotRemoved(Struct, frozen=True):
    bot: Bot
    instances: int
    instance_locks: tuple[Lock, ...]
    """On its instances, until their certificates have ended."""
    name_locks: tuple[Lock, ...]
    """On its name, that stay; see :mod:`mezite.auth.admin_locks`."""


def _target(name: str) -> LockTarget:
    return LockTarget(LockKind.BOT, name)


def add_bot(
    context: Context,
    tx: Transaction,
    operator: Operator,
    name: str,
    roles: Sequence[str],
    *,
    token_ttl: timedelta = DEFAULT_TOKEN_TTL,
    uses: int = 1,
    ttl: timedelta | None = None,
    renewable_for: timedelta = DEFAULT_RENEWABLE_FOR,
    max_lineage_age: timedelta | None = None,
    source_address: Sequence[str] = (),
) -> NewToken:
    """A new bot and its first token.

    Refused when its roles do not exist or could never give it a certificate,
    and when a lock from an earlier bot still stands on the name.
    """
    bot = Bot(
        id=context.new_uuid(),
        name=name,
        roles=tuple(dict.fromkeys(roles)),
        created_at=context.clock(),
        ttl=ttl,
        renewable_for=renewable_for,
        max_lineage_age=max_lineage_age,
        source_address=tuple(map(address_block, source_address)),
    )
    if tx.bot(name) is not None:
        raise Conflict(
            f"bot {name} exists already; for a new join token: mezctl bots rotate-token {name}"
        )
    existing = tx.roles(bot.roles)
    missing = [role for role in bot.roles if role not in existing]
    if missing:
        raise NotFound(
            f"there is no role {missing[0]!r}; create it first: mezctl roles create --from-file=FILE"
        )
    granted = rbac.grant([existing[role] for role in bot.roles], asked_ttl=asked_ttl(None, bot))
    if isinstance(granted, rbac.Denied):
        raise InvalidInput(f"no bot can have these roles: {granted}", "roles")
    held = active_on(context, tx, [_target(name)])[_target(name)]
    if held:
        raise Conflict(
            f"the name {name} is still locked from an earlier bot ({held[0].message or held[0].reason}); "
            f"choose another name, or first: mezctl locks rm {held[0].id}"
        )
    tx.add_bot(bot)
    note(context, tx, operator, EventType.BOT_CREATED, "bot", name,
         fields={"id": bot.id, "roles": ",".join(bot.roles)})
    return make_token(context, tx, operator, bot, ttl=token_ttl, uses=uses)


def list_bots(context: Context, tx: Transaction, after: str, limit: int) -> Page[BotView]:
    page = tx.list_bots(after, limit)
    held = active_on(context, tx, [_target(bot.name) for bot in page.items])
    return Page(tuple(BotView(bot, held[_target(bot.name)]) for bot in page.items), page.next)


def show_bot(context: Context, tx: Transaction, name: str) -> BotDetails:
    bot = find_bot(tx, name)
    return BotDetails(
        bot=bot,
        locks=active_on(context, tx, [_target(name)])[_target(name)],
        tokens=list_tokens(context, tx, name, "", _SHOWN),
        instances=list_instances(context, tx, name, "", _SHOWN),
    )


def lock_bot(
    context: Context, tx: Transaction, operator: Operator, name: str, *,
    message: str = "", ttl: timedelta | None = None,
) -> Lock:
    """None of the bot's machines joins, renews or logs in to our nodes."""
    return add_lock(context, tx, operator, _target(name), message=message, ttl=ttl)


def unlock_bot(context: Context, tx: Transaction, operator: Operator, name: str) -> tuple[Lock, ...]:
    find_bot(tx, name)
    return unlock(context, tx, operator, _target(name))


def remove_bot(context: Context, tx: Transaction, operator: Operator, name: str) -> BotRemoved:
    """The bot is gone, with its instances; its tokens admit nobody.

    Certificates that are out end by themselves; until then their instances are
    locked on our nodes.
    """
    bot, now = find_bot(tx, name), context.clock()
    # First: whoever joins by one of them just now is waited for, and seen.
    tx.revoke_tokens(bot.id, now)
    instances = _all_instances(tx, bot)
    tx.remove_bot(bot.id, now)
    note(context, tx, operator, EventType.BOT_DELETED, "bot", name,
         fields={"id": bot.id, "instances": len(instances)})
    instance_locks = end_with_certificates(context, tx, operator, instances)
    name_locks = active_on(context, tx, [_target(name)])[_target(name)]
    return BotRemoved(bot, len(instances), instance_locks, name_locks)


def _all_instances(tx: Transaction, bot: Bot) -> list[Instance]:
    """As they stand until this transaction ends: each is read by itself, which waits for a
    renewal under way."""
    found: list[Instance] = []
    after: str | None = ""
    while after is not None:
        page = tx.list_instances(bot.id, after, MAX_PAGE)
        read = (tx.instance(listed.id) for listed in page.items)
        found += [one for one in read if one is not None and one.removed_at is None]
        after = page.next
    return found
