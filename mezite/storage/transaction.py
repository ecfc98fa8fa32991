"""One open transaction, written against the statements of ``sql``.

Both databases share it: an adapter gives the :class:`Statements` that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from mezite.core.audit import AuditEvent
from mezite.core.model import Bot, Instance, JoinToken, Lock, LockKind, LockTarget
from mezite.core.roles import Role
from mezite.errors import Conflict, StorageFailure
from mezite.storage import policy, rows, sql
from mezite.storage.interface import MAX_PAGE, Admission, Page, Step, StoredAuthority, StoredEvent
from mezite.storage.policy import Held, PolicyCache, recall
from mezite.storage.rows import Row, to_us
from mezite.storage.statements import Ended, Serials, Statements

__all__ = ["Serials", "SqlTransaction", "Statements"]

T = TypeVar("T")

COUNTED = ("roles", "bots", "instances", "tokens", "locks", "events")
_NO_EVENT_YET = (1 << 63) - 1


class SqlTransaction:
    """See :class:`~mezite.storage.interface.Transaction`, which says what is true.

    Without *serials* it only reads.  *policy* is what its writer holds in memory,
    if it does.
    ``changed`` are the topics it touched.
    """

    __slots__ = ("_policy", "_serials", "_statements", "changed")

    def __init__(
        self, statements: Statements, serials: Serials | None, policy: PolicyCache | None = None
    ) -> None:
        self._statements = statements
        self._serials = serials
        self._policy = policy
        self.changed: set[str] = set()

    def end(self) -> None:
        """Whoever kept the transaction gets ``StorageFailure`` from now on."""
        self._statements = Ended()

    # --- what the methods are made of ---

    def _all(self, statement: str, *values: object) -> list[Any]:
        return self._statements.select(statement, values)

    def _one(self, statement: str, *values: object) -> Any:
        found = self._statements.select(statement, values)
        return found[0] if found else None

    def _change(self, topic: str, statement: str, *values: object) -> bool:
        """Whether the statement changed a row; if so, *topic* has changed."""
        return self._count(topic, statement, *values) > 0

    def _count(self, topic: str, statement: str, *values: object) -> int:
        """How many rows the statement changed."""
        if self._serials is None:
            raise StorageFailure("this use case changes the database; give it to write, not to read")
        changed = self._statements.change(statement, values)
        if changed > 0 and topic:
            self.changed.add(topic)
            if topic in policy.TOPICS:
                self._statements.change(sql.POLICY_CHANGED)
                if self._policy is not None:
                    self._policy.forget()
        return max(0, changed)

    def _held(self) -> Held:
        return Held() if self._policy is None else self._policy.current(self._statements)

    def _add(self, topic: str, what: str, statement: str, row: Row) -> None:
        if not self._change(topic, statement, *row):
            raise Conflict(f"{what} exists already")

    # --- cluster values, serial numbers, authorities ---

    def value(self, key: str) -> bytes | None:
        row = self._one(sql.VALUE, key)
        return None if row is None else bytes(row[0])

    def set_value(self, key: str, value: bytes) -> None:
        self._change("", sql.SET_VALUE, key, value)

    def next_serial(self) -> int:
        if self._serials is None:
            raise StorageFailure("a use case that takes a serial number is given to write, not to read")
        return self._serials.take(self._statements)

    def raise_serials(self, least: int) -> None:
        if self._serials is None:
            raise StorageFailure("a use case that raises serial numbers is given to write, not to read")
        self._serials.raise_to(self._statements, least)

    def add_authority(self, authority: StoredAuthority) -> None:
        what = f"the authority {authority.id}"
        self._add("authorities", what, sql.ADD_AUTHORITY, rows.authority_row(authority))

    def authorities(self) -> tuple[StoredAuthority, ...]:
        return tuple(map(rows.authority, self._all(sql.AUTHORITIES)))

    def set_authority_state(self, authority_id: str, state: str) -> bool:
        return self._change("authorities", sql.SET_AUTHORITY_STATE, state, authority_id)

    # --- roles ---

    def put_role(self, role: Role) -> bool:
        document = rows.role_document(role)
        if self._change("roles", sql.ADD_ROLE, role.name, document):
            return True
        self._change("roles", sql.SET_ROLE, document, role.name)
        return False

    def role(self, name: str) -> Role | None:
        row = self._one(sql.ROLE, name)
        return None if row is None else rows.role(row)

    def roles(self, names: Sequence[str]) -> Mapping[str, Role]:
        found = recall(self._held().roles, names, self._read_roles)
        return {name: role for name, role in found.items() if role is not None}

    def _read_roles(self, names: Sequence[str]) -> dict[str, Role | None]:
        found = self._all(sql.roles(len(names)), *names)
        return dict.fromkeys(names) | {row[0]: rows.role(row) for row in found}

    def list_roles(self, after: str = "", limit: int = 100) -> Page[Role]:
        limit = _bounded(limit)
        found = [rows.role(row) for row in self._all(sql.LIST_ROLES, after, limit + 1)]
        return _page(found, [role.name for role in found], limit)

    def delete_role(self, name: str) -> bool:
        return self._change("roles", sql.DELETE_ROLE, name)

    # --- bots ---

    def add_bot(self, bot: Bot) -> None:
        self._add("bots", f"the bot {bot.name}", sql.ADD_BOT, rows.bot_row(bot))
        for position, role in enumerate(bot.roles):
            self._change("bots", sql.ADD_BOT_ROLE, bot.id, position, role)

    def bot(self, name: str) -> Bot | None:
        found = self._all(sql.BOT, name)
        return rows.bot(found) if found else None

    def bot_by_id(self, bot_id: str) -> Bot | None:
        return recall(self._held().bots, (bot_id,), self._read_bots)[bot_id]

    def _read_bots(self, bot_ids: Sequence[str]) -> dict[str, Bot | None]:
        found = {bot_id: self._all(sql.BOT_BY_ID, bot_id) for bot_id in bot_ids}
        return {bot_id: rows.bot(of_bot) if of_bot else None for bot_id, of_bot in found.items()}

    def list_bots(self, after: str = "", limit: int = 100) -> Page[Bot]:
        limit = _bounded(limit)
        found = rows.bots(self._all(sql.LIST_BOTS, after, limit + 1))
        return _page(found, [bot.name for bot in found], limit)

    def bots_with_role(self, role: str) -> tuple[str, ...]:
        return tuple(row[0] for row in self._all(sql.BOTS_WITH_ROLE, role))

    def remove_bot(self, bot_id: str, at: datetime) -> bool:
        if not self._change("bots", sql.REMOVE_BOT, to_us(at), bot_id):
            return False
        self._change("instances", sql.REMOVE_INSTANCES_OF_BOT, to_us(at), bot_id)
        self._change("", sql.REVOKE_TOKENS, to_us(at), bot_id)
        return True

    # --- join tokens and admissions ---

    def add_token(self, token: JoinToken) -> None:
        self._add("", f"the token {token.id}", sql.ADD_TOKEN, rows.token_row(token))

    def token(self, token_id: str) -> JoinToken | None:
        row = self._one(sql.TOKEN, token_id)
        return None if row is None else rows.token(row)

    def list_tokens(self, bot_id: str | None = None, after: str = "", limit: int = 100) -> Page[JoinToken]:
        limit = _bounded(limit)
        if bot_id is None:
            found = self._all(sql.LIST_TOKENS, after, limit + 1)
        else:
            found = self._all(sql.LIST_TOKENS_OF_BOT, bot_id, after, limit + 1)
        return _page([rows.token(row) for row in found], [row[0] for row in found], limit)

    def use_token(self, token_id: str, now: datetime) -> bool:
        return self._change("", sql.USE_TOKEN, token_id, to_us(now))

    def revoke_tokens(self, bot_id: str, at: datetime) -> int:
        (usable,) = self._one(sql.COUNT_USABLE_TOKENS, bot_id)
        self._change("", sql.REVOKE_TOKENS, to_us(at), bot_id)
        return int(usable)

    def void_token(self, token_id: str, at: datetime) -> bool:
        return self._change("", sql.VOID_TOKEN, to_us(at), token_id)

    def delete_token(self, token_id: str) -> bool:
        return self._change("", sql.DELETE_TOKEN, token_id)

    def add_admission(self, admission: Admission) -> None:
        what = f"an admission of this key by the token {admission.token_id}"
        self._add("", what, sql.ADD_ADMISSION, rows.admission_row(admission))

    def admission(self, token_id: str, lineage_key: str) -> Admission | None:
        row = self._one(sql.ADMISSION, token_id, lineage_key)
        return None if row is None else rows.admission(row)

    def admissions(self, token_id: str) -> tuple[Admission, ...]:
        return tuple(map(rows.admission, self._all(sql.ADMISSIONS, token_id)))

    # --- instances ---

    def add_instance(self, instance: Instance) -> None:
        what = f"the instance {instance.id}"
        self._add("instances", what, sql.ADD_INSTANCE, rows.instance_row(instance))

    def instance(self, instance_id: str) -> Instance | None:
        row = self._one(sql.INSTANCE, instance_id)
        return None if row is None else rows.instance(row)

    def list_instances(
        self, bot_id: str | None = None, after: str = "", limit: int = 100
    ) -> Page[Instance]:
        limit = _bounded(limit)
        if bot_id is None:
            found = self._all(sql.LIST_INSTANCES, after, limit + 1)
        else:
            found = self._all(sql.LIST_INSTANCES_OF_BOT, bot_id, after, limit + 1)
        return _page([rows.instance(row) for row in found], [row[0] for row in found], limit)

    def step(self, step: Step) -> bool:
        at = to_us(step.at)
        return self._change(
            "instances",
            sql.STEP,
            *(step.to_generation, step.to_key, step.previous_key, step.request_hash, at),
            *(to_us(step.not_after), step.address, step.host, step.boot_id, step.certificate_hash),
            *(step.instance_id, step.from_generation, step.from_key, at, at),
        )

    def note_reissue(
        self, instance_id: str, *, generation: int, lineage_key: str, at: datetime,
        not_after: datetime, recovered: bool,
    ) -> bool:
        now, end = to_us(at), to_us(not_after)
        where = (instance_id, generation, lineage_key, now, now)
        if recovered:
            return self._change("instances", sql.NOTE_RECOVERY, end, end, now, *where)
        return self._change("instances", sql.NOTE_REISSUE, end, end, *where)

    def keep_key(self, instance_id: str, *, generation: int, lineage_key: str) -> bool:
        return self._change("instances", sql.KEEP_KEY, generation, lineage_key, b"", instance_id)

    def set_recoverable(self, instance_id: str, recoverable: bool) -> bool:
        return self._change("instances", sql.SET_RECOVERABLE, int(recoverable), instance_id)

    def remove_instance(self, instance_id: str, at: datetime) -> bool:
        return self._change("instances", sql.REMOVE_INSTANCE, to_us(at), instance_id)

    # --- locks ---

    def add_lock(self, lock: Lock) -> None:
        self._add("locks", f"the lock {lock.id}", sql.ADD_LOCK, rows.lock_row(lock))

    def lock(self, lock_id: str) -> Lock | None:
        row = self._one(sql.LOCK, lock_id)
        return None if row is None else rows.lock(row)

    def list_locks(self, after: str = "", limit: int = 100) -> Page[Lock]:
        limit = _bounded(limit)
        found = [rows.lock(row) for row in self._all(sql.LIST_LOCKS, after, limit + 1)]
        return _page(found, [lock.id for lock in found], limit)

    def locks_on(self, targets: Sequence[LockTarget]) -> tuple[Lock, ...]:
        asked, found = targets, list[Lock]()
        if self._policy is not None:
            held = self._held()
            by_target = self._read_locks(held) if held.locks is None else held.locks
            if by_target:
                for target in dict.fromkeys(targets):
                    found += by_target.get(target, ())
            asked = [] if held.has_instance_locks else [
                target for target in targets if target.kind is LockKind.INSTANCE
            ]
        if asked:
            texts = [rows.target_text(target) for target in asked]
            found += map(rows.lock, self._all(sql.locks_on(len(texts)), *texts))
        return tuple(sorted(found, key=lambda lock: (lock.created_at, lock.id)))

    def _read_locks(self, held: Held) -> Mapping[LockTarget, tuple[Lock, ...]]:
        """All locks, but those on instances if these are too many to be held."""
        read = self._all(sql.SHARED_LOCKS)
        of_instances = self._all(sql.INSTANCE_LOCKS, policy.MOST_INSTANCE_LOCKS + 1)
        held.has_instance_locks = len(of_instances) <= policy.MOST_INSTANCE_LOCKS
        if held.has_instance_locks:
            read += of_instances
        held.locks = {}
        for lock in map(rows.lock, read):
            held.locks[lock.target] = (*held.locks.get(lock.target, ()), lock)
        return held.locks

    def all_locks(self) -> tuple[Lock, ...]:
        return tuple(map(rows.lock, self._all(sql.ALL_LOCKS)))

    def delete_lock(self, lock_id: str) -> bool:
        return self._change("locks", sql.DELETE_LOCK, lock_id)

    # --- audit and figures ---

    def add_event(self, event: AuditEvent, above: int = 0) -> None:
        if above and above >= self.newest_event():
            self._change("", sql.ADD_NUMBERED_EVENT, above + 1, *rows.event_row(event))
        else:
            self._change("", sql.ADD_EVENT, *rows.event_row(event))

    def newest_event(self) -> int:
        return int(self._one(sql.NEWEST_EVENT)[0])

    def list_events(
        self, *, before: int | None = None, limit: int = 100, type_name: str | None = None,
        resource_name: str | None = None,
    ) -> tuple[StoredEvent, ...]:
        end = (_NO_EVENT_YET if before is None else before, _bounded(limit))
        if type_name is None and resource_name is None:
            found = self._all(sql.LIST_EVENTS, *end)
        elif resource_name is None:
            found = self._all(sql.LIST_EVENTS_OF_TYPE, type_name, *end)
        elif type_name is None:
            found = self._all(sql.LIST_EVENTS_ON, resource_name, *end)
        else:
            found = self._all(sql.LIST_EVENTS_OF_TYPE_ON, type_name, resource_name, *end)
        return tuple(map(rows.event, found))

    def stale_instances(
        self, *, removed_before: datetime, renewed_before: datetime, limit: int
    ) -> tuple[str, ...]:
        times = (to_us(removed_before), to_us(renewed_before))
        return tuple(row[0] for row in self._all(sql.STALE_INSTANCES, *times, _bounded(limit)))

    def prune_instance(
        self, instance_id: str, *, removed_before: datetime, renewed_before: datetime
    ) -> bool:
        times = (to_us(removed_before), to_us(renewed_before))
        if not self._change("instances", sql.PRUNE_INSTANCE, instance_id, *times):
            return False
        self._change("", sql.PRUNE_ADMISSIONS, instance_id)
        target = LockTarget(LockKind.INSTANCE, instance_id)
        self._change("locks", sql.PRUNE_LOCKS_ON, rows.target_text(target))
        return True

    def stale_bots(self, *, removed_before: datetime, limit: int) -> tuple[str, ...]:
        return tuple(row[0] for row in self._all(sql.STALE_BOTS, to_us(removed_before), _bounded(limit)))

    def prune_bot(self, bot_id: str, *, removed_before: datetime) -> bool:
        self._change("", sql.PRUNE_BOT_ROLES, bot_id, to_us(removed_before))
        return self._change("", sql.PRUNE_BOT, bot_id, to_us(removed_before))

    def prune_tokens(self, expired_before: datetime, limit: int) -> int:
        return self._count("", sql.PRUNE_TOKENS, to_us(expired_before), _bounded(limit))

    def prune_locks(self, ended_before: datetime, limit: int) -> int:
        return self._count("locks", sql.PRUNE_LOCKS, to_us(ended_before), _bounded(limit))

    def prune_events(self, before: datetime, limit: int) -> int:
        return self._count("", sql.PRUNE_EVENTS, to_us(before), _bounded(limit))

    def counts(self) -> Mapping[str, int]:
        return dict(zip(COUNTED, self._one(sql.COUNTS), strict=True))


def _bounded(limit: int) -> int:
    """*limit*, brought to 1 or ``MAX_PAGE`` where it is beyond them."""
    return max(1, min(limit, MAX_PAGE))


def _page(found: Sequence[T], keys: Sequence[str], limit: int) -> Page[T]:
    """The page of *found*, of which one more than *limit* was asked for."""
    return Page(tuple(found[:limit]), keys[limit - 1] if len(found) > limit else None)
