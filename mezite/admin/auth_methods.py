"""The methods of the server's operator socket: decode, call one use case, encode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from mezite.admin import records
from mezite.admin.caller import Caller
from mezite.admin.params import Params
from mezite.admin.records import Object
from mezite.auth import admin, admin_bots, admin_instances, admin_locks, admin_tokens, restore
from mezite.auth.admin_tokens import DEFAULT_TOKEN_TTL
from mezite.auth.context import Context, Operator, Transaction
from mezite.core.model import DEFAULT_RENEWABLE_FOR, LockKind, LockTarget
from mezite.core.roles import Role
from mezite.errors import InvalidInput

T = TypeVar("T")

Method = Callable[[Caller, Mapping[str, Any]], Awaitable[Object]]
"""As :mod:`mezite.admin.connection` takes it; named here without its Twisted."""


class Run(Protocol):
    """Runs a use case in a transaction of its own; awaited, it gives the result
    once it is committed, or raises what the use case raised."""

    def __call__(self, use_case: Callable[[Transaction], T], *, write: bool) -> Awaitable[T]: ...


def auth_methods(context: Context, run: Run) -> dict[str, Method]:
    """The table for :class:`~mezite.admin.protocol.SocketService`, status_methods.py aside."""
    methods = _Methods(context, run)
    return {
        "bots.add": methods.bots_add,
        "bots.ls": methods.bots_ls,
        "bots.show": methods.bots_show,
        "bots.rm": methods.bots_rm,
        "bots.rotate_token": methods.bots_rotate_token,
        "bots.lock": methods.bots_lock,
        "bots.unlock": methods.bots_unlock,
        "tokens.create": methods.tokens_create,
        "tokens.ls": methods.tokens_ls,
        "tokens.rm": methods.tokens_rm,
        "instances.ls": methods.instances_ls,
        "instances.show": methods.instances_show,
        "instances.lock": methods.instances_lock,
        "instances.unlock": methods.instances_unlock,
        "instances.recover": methods.instances_recover,
        "instances.rm": methods.instances_rm,
        "locks.add": methods.locks_add,
        "locks.ls": methods.locks_ls,
        "locks.rm": methods.locks_rm,
        "roles.put": methods.roles_put,
        "roles.get": methods.roles_get,
        "roles.ls": methods.roles_ls,
        "roles.delete": methods.roles_delete,
        "nodes.ls": methods.nodes_ls,
        "ca.export": methods.ca_export,
        "audit.ls": methods.audit_ls,
        "restore": methods.restore,
    }


class _Methods:
    def __init__(self, context: Context, run: Run) -> None:
        self._context = context
        self._run = run

    async def _read(self, use_case: Callable[[Transaction], T]) -> T:
        return await self._run(use_case, write=False)

    async def _write(self, caller: Caller, use_case: Callable[..., T], *values: Any, **named: Any) -> T:
        """*use_case* of the context, the transaction, the operator and the rest."""
        operator = Operator(caller.uid, caller.name)

        def in_transaction(tx: Transaction) -> T:
            return use_case(self._context, tx, operator, *values, **named)

        return await self._run(in_transaction, write=True)

    # Bots.

    async def bots_add(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(
            values, "name", "roles", "token_ttl", "uses", "ttl", "renewable_for", "max_lineage_age",
            "source_address",
        )
        new = await self._write(
            caller,
            admin_bots.add_bot,
            params.text("name"),
            params.texts("roles"),
            token_ttl=params.duration("token_ttl") or DEFAULT_TOKEN_TTL,
            uses=_uses(params),
            ttl=params.duration("ttl"),
            renewable_for=params.duration("renewable_for") or DEFAULT_RENEWABLE_FOR,
            max_lineage_age=params.duration("max_lineage_age"),
            source_address=_source_address(params),
        )
        return {"bot": records.bot(new.bot), **self._new_token(new)}

    async def bots_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        after, limit = _paging(Params(values, "after", "limit"))
        found = await self._read(lambda tx: admin_bots.list_bots(self._context, tx, after, limit))
        return records.page(
            "bots", ((view.bot.name, records.bot_view(view)) for view in found.items), found.next
        )

    async def bots_show(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        name = Params(values, "name").text("name")
        found = await self._read(lambda tx: admin_bots.show_bot(self._context, tx, name))
        return {
            "bot": {
                **records.bot_view(admin_bots.BotView(found.bot, found.locks)),
                "tokens": [records.token_view(view) for view in found.tokens.items],
                "more_tokens": found.tokens.next is not None,
                "instances": [records.instance_view(view) for view in found.instances.items],
                "more_instances": found.instances.next is not None,
            }
        }

    async def bots_rm(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        name = Params(values, "name").text("name")
        removed = await self._write(caller, admin_bots.remove_bot, name)
        return {
            "bot": records.bot(removed.bot),
            "instances": removed.instances,
            "instance_locks": len(removed.instance_locks),
            "name_locks": [records.lock(lock) for lock in removed.name_locks],
        }

    async def bots_rotate_token(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "name", "token_ttl")
        new, revoked = await self._write(
            caller,
            admin_tokens.rotate_token,
            params.text("name"),
            ttl=params.duration("token_ttl") or DEFAULT_TOKEN_TTL,
        )
        return {**self._new_token(new), "revoked": revoked}

    async def bots_lock(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "name", "reason", "ttl")
        return await self._lock(caller, admin_bots.lock_bot, params.text("name"), params)

    async def bots_unlock(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        name = Params(values, "name").text("name")
        gone = await self._write(caller, admin_bots.unlock_bot, name)
        return {"locks": [records.lock(lock) for lock in gone]}

    async def _lock(self, caller: Caller, use_case: Callable[..., Any], name: str, params: Params) -> Object:
        lock = await self._write(
            caller, use_case, name, message=params.optional_text("reason") or "", ttl=params.duration("ttl")
        )
        return {"lock": records.lock(lock)}

    # Tokens.

    async def tokens_create(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "bot", "uses", "ttl")
        new = await self._write(
            caller,
            admin_tokens.create_token,
            params.text("bot"),
            ttl=params.duration("ttl") or DEFAULT_TOKEN_TTL,
            uses=_uses(params),
        )
        return self._new_token(new)

    def _new_token(self, new: admin_tokens.NewToken) -> Object:
        """The one place where a join token leaves the server; where it is good for something goes with it."""
        return {
            "join_token": new.text,
            "token": records.token(new.token, new.bot.name, "active"),
            "auth_server": self._context.cluster.public_addr,
        }

    async def tokens_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "bot", "after", "limit")
        bot_name = params.optional_text("bot")
        after, limit = _paging(params)
        found = await self._read(
            lambda tx: admin_tokens.list_tokens(self._context, tx, bot_name, after, limit)
        )
        return records.page(
            "tokens", ((view.token.id, records.token_view(view)) for view in found.items), found.next
        )

    async def tokens_rm(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        token_id = Params(values, "id").text("id")
        gone = await self._write(caller, admin_tokens.remove_token, token_id)
        return {"id": gone.id, "uses": gone.uses, "used": gone.used}

    # Instances.

    async def instances_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "bot", "after", "limit")
        bot_name = params.optional_text("bot")
        after, limit = _paging(params)
        found = await self._read(
            lambda tx: admin_instances.list_instances(self._context, tx, bot_name, after, limit)
        )
        return records.page(
            "instances", ((view.instance.id, records.instance_view(view)) for view in found.items), found.next
        )

    async def instances_show(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        instance_id = Params(values, "id").text("id")
        view = await self._read(lambda tx: admin_instances.show_instance(self._context, tx, instance_id))
        return {"instance": records.instance_view(view)}

    async def instances_lock(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "id", "reason", "ttl")
        return await self._lock(caller, admin_instances.lock_instance, params.text("id"), params)

    async def instances_unlock(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "id", "keep_key")
        done = await self._write(
            caller,
            admin_instances.unlock_instance,
            params.text("id"),
            keep_key=params.optional_text("keep_key"),
        )
        return {"locks": [records.lock(lock) for lock in done.locks], "risk": done.risk or None}

    async def instances_recover(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        instance_id = Params(values, "id").text("id")
        view = await self._write(caller, admin_instances.recover_instance, instance_id)
        return {"instance": records.instance_view(view)}

    async def instances_rm(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        instance_id = Params(values, "id").text("id")
        gone, left = await self._write(caller, admin_instances.remove_instance, instance_id)
        return {"id": gone.id, "locks": [records.lock(lock) for lock in left]}

    # Locks.

    async def locks_add(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "kind", "target", "reason", "ttl")
        kind = params.choice("kind", [one.value for one in LockKind])
        target = LockTarget.from_text(kind, params.text("target"))
        lock = await self._write(
            caller,
            admin_locks.add_lock,
            target,
            message=params.optional_text("reason") or "",
            ttl=params.duration("ttl"),
        )
        return {"lock": records.lock(lock)}

    async def locks_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "ended", "after", "limit")
        ended = params.boolean("ended")
        after, limit = _paging(params)
        found = await self._read(
            lambda tx: admin_locks.list_locks(self._context, tx, after, limit, ended=ended)
        )
        return records.page("locks", ((lock.id, records.lock(lock)) for lock in found.items), found.next)

    async def locks_rm(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        lock_id = Params(values, "id").text("id")
        return {"lock": records.lock(await self._write(caller, admin_locks.remove_lock, lock_id))}

    # Roles.

    async def roles_put(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        role = Role.from_document(Params(values, "document").document("document"))
        created = await self._write(caller, admin.put_role, role)
        return {"role": role.to_document(), "created": created}

    async def roles_get(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        name = Params(values, "name").text("name")
        role = await self._read(lambda tx: admin.get_role(tx, name))
        return {"role": role.to_document()}

    async def roles_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        after, limit = _paging(Params(values, "after", "limit"))
        found = await self._read(lambda tx: admin.list_roles(tx, after, limit))
        return records.page("roles", ((role.name, role.to_document()) for role in found.items), found.next)

    async def roles_delete(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        name = Params(values, "name").text("name")
        await self._write(caller, admin.delete_role, name)
        return {"name": name}

    # The cluster.

    async def nodes_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        Params(values, "after", "limit")  # one page holds them all
        nodes = admin.list_nodes(self._context)
        return records.page("nodes", ((node.name, records.node(node)) for node in nodes), None)

    async def ca_export(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        kind = Params(values, "type").choice("type", [one.value for one in admin.CaType])
        found = admin.export_ca(self._context, admin.CaType(kind))
        return {"type": kind, "keys": [records.ca_key(key) for key in found]}

    async def audit_ls(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "type", "resource", "after", "limit")
        after, limit = _paging(params)
        if after and not (after.isascii() and after.isdigit() and len(after) <= 18):
            raise InvalidInput(f"{after!r} is not what `next` was; it is a number there", "after")
        type_name, resource = params.optional_text("type"), params.optional_text("resource")
        before = int(after) if after else None
        found = await self._read(
            lambda tx: admin.list_events(
                tx, before=before, limit=limit, type_name=type_name, resource=resource
            )
        )
        following = str(found[-1].id) if len(found) == limit else None
        return records.page("events", ((str(one.id), records.event(one)) for one in found), following)

    async def restore(self, caller: Caller, values: Mapping[str, Any]) -> Object:
        since = Params(values, "since").moment("since")
        return records.restored(await self._write(caller, restore.restore, since))


def _source_address(params: Params) -> tuple[str, ...]:
    """A list that is there and empty is refused: it must not mean "anywhere"."""
    found = params.texts("source_address")
    if not found and params.has("source_address"):
        raise InvalidInput(
            "it names no address; leave it out for certificates that are good from anywhere", "source_address"
        )
    return found


def _paging(params: Params) -> tuple[str, int]:
    return params.optional_text("after") or "", params.integer("limit", 100, least=1, most=admin.MAX_PAGE)


def _uses(params: Params) -> int:
    return params.integer("uses", 1, least=1, most=admin_tokens.MAX_USES)
