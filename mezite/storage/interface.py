"""The seam to the database: all that other code knows of it.

A *use case* is a plain synchronous function of a :class:`Transaction`.
:class:`Storage` opens the transaction, runs the use case, and ends it: a
return is a commit, a raise is a rollback of that use case alone.  What a
refusal must leave behind (a lock, an audit row) is therefore written and
*returned*, never raised.  A use case may be run again after a serialization
failure, so it changes nothing but the transaction.

``tests/contracts/test_storage.py`` says what every implementation must do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from mezite.core.audit import AuditEvent
from mezite.core.model import Bot, Instance, JoinToken, Lock, LockTarget
from mezite.core.roles import Role
from mezite.discreet import Discreet

T = TypeVar("T")

MAX_PAGE = 1000
SHARED_TOPICS = frozenset({"authorities", "bots", "locks", "roles"})
"""Of the topics that a commit changes, those that other processes keep something of."""


class Page(Struct, Generic[T], frozen=True):
    """Some rows in the order of their key, and where the next ones start."""

    items: tuple[T, ...]
    next: str | None
    """Give it as ``after`` to go on; ``None`` at the end."""


class Admission(Struct, frozen=True):
    """A proof of admission, tied to the key that redeemed it."""

    token_id: str
    lineage_key: str
    """Fingerprint of the key of generation 1."""
    instance_id: str
    at: datetime
    address: str


class StoredAuthority(Discreet, frozen=True):
    """A certificate authority as it lies in the database."""

    hidden = ("public", "private_pem")

    id: str
    kind: str
    """``user``, ``host`` (SSH) or ``server`` (X.509)."""
    state: str
    """``active`` signs; ``trusted`` is still published; ``retired`` only proves forks."""
    public: bytes
    """SSH wire blob, or the PEM certificate of a server CA."""
    private_pem: bytes
    """PKCS#8 PEM, encrypted where a passphrase is set."""
    created_at: datetime


class StoredEvent(Struct, frozen=True):
    """An audit event with the number its row has; numbers rise with time."""

    id: int
    event: AuditEvent


class Step(Struct, frozen=True):
    """The generation step of one instance: one conditional UPDATE."""

    instance_id: str
    from_generation: int
    from_key: str
    to_generation: int
    to_key: str
    previous_key: str
    """Fingerprint that becomes ``previous_key``."""
    request_hash: bytes
    at: datetime
    not_after: datetime
    address: str
    host: str
    boot_id: str = ""
    certificate_hash: str = ""
    """Of the certificate given out with it (core.request); empty: unknown."""


class Transaction(Protocol):
    """One open transaction.  Methods raise nothing but ``StorageFailure``, and
    :class:`~mezite.errors.Conflict` from the ``add_*`` methods when the key is taken.

    Lists are ordered and paged by key; ``limit`` is 1 to ``MAX_PAGE``, and is
    brought there when it is not.
    """

    # Cluster values and serial numbers.
    def value(self, key: str) -> bytes | None: ...
    def set_value(self, key: str, value: bytes) -> None: ...
    def next_serial(self) -> int:
        """A certificate serial never given out before; rising, from 1; gaps allowed."""
        ...

    def raise_serials(self, least: int) -> None:
        """No serial given out from now on is below *least*."""
        ...

    # Authorities.
    def add_authority(self, authority: StoredAuthority) -> None: ...
    def authorities(self) -> tuple[StoredAuthority, ...]:
        """All of them, in order of creation."""
        ...

    def set_authority_state(self, authority_id: str, state: str) -> bool: ...

    # Roles, by name.
    def put_role(self, role: Role) -> bool:
        """*role* is stored, in place of one of its name; whether it is new."""
        ...

    def role(self, name: str) -> Role | None: ...
    def roles(self, names: Sequence[str]) -> Mapping[str, Role]:
        """Those of *names* that exist."""
        ...

    def list_roles(self, after: str = "", limit: int = 100) -> Page[Role]: ...
    def delete_role(self, name: str) -> bool: ...

    # Bots, by name among those not removed; removed ones stay as tombstones.
    def add_bot(self, bot: Bot) -> None: ...
    def bot(self, name: str) -> Bot | None: ...
    def bot_by_id(self, bot_id: str) -> Bot | None:
        """Also ``None`` once it has been removed."""
        ...

    def list_bots(self, after: str = "", limit: int = 100) -> Page[Bot]: ...
    def bots_with_role(self, role: str) -> tuple[str, ...]:
        """Names of the bots that use *role*, sorted."""
        ...

    def remove_bot(self, bot_id: str, at: datetime) -> bool:
        """The bot, its instances and its tokens are marked as removed or revoked."""
        ...

    # Join tokens, by public id.
    def add_token(self, token: JoinToken) -> None: ...
    def token(self, token_id: str) -> JoinToken | None: ...
    def list_tokens(
        self, bot_id: str | None = None, after: str = "", limit: int = 100
    ) -> Page[JoinToken]: ...
    def use_token(self, token_id: str, now: datetime) -> bool:
        """One use is counted, unless it is used up, revoked or expired at *now*:
        one conditional UPDATE."""
        ...

    def revoke_tokens(self, bot_id: str, at: datetime) -> int:
        """Every token of the bot not yet revoked is; how many had uses left."""
        ...

    def void_token(self, token_id: str, at: datetime) -> bool:
        """The token is revoked, if it is not yet."""
        ...

    def delete_token(self, token_id: str) -> bool: ...

    # Admissions.
    def add_admission(self, admission: Admission) -> None: ...
    def admission(self, token_id: str, lineage_key: str) -> Admission | None: ...
    def admissions(self, token_id: str) -> tuple[Admission, ...]:
        """At most 100, in order of time."""
        ...

    # Instances, by id.
    def add_instance(self, instance: Instance) -> None: ...
    def instance(self, instance_id: str) -> Instance | None:
        """Removed ones too."""
        ...

    def list_instances(
        self, bot_id: str | None = None, after: str = "", limit: int = 100
    ) -> Page[Instance]:
        """Those not removed."""
        ...

    def step(self, step: Step) -> bool:
        """The step is made and the recovery flag cleared; ``False`` when the
        instance is not at ``from_generation`` with ``from_key``, is removed, or
        is locked, itself or its bot, at ``step.at``: one conditional UPDATE."""
        ...

    def note_reissue(
        self, instance_id: str, *, generation: int, lineage_key: str, at: datetime,
        not_after: datetime, recovered: bool,
    ) -> bool:
        """Fresh certificates went out for a generation already given out, and the
        noted end moves to *not_after* where that is later; with
        *recovered* the expiry starts anew from *at* and the flag is cleared.
        ``False`` when the instance is no longer at that generation and key, or is locked
        at *at*, itself or by its bot."""
        ...

    def keep_key(self, instance_id: str, *, generation: int, lineage_key: str) -> bool:
        """An operator decided which key a forked instance goes on with: it is at
        that generation, the key it had is its previous one, as the one decided
        against, and the request hash is empty, which marks this, and keeps a
        reissue or a repeated join from following from what was before."""
        ...

    def set_recoverable(self, instance_id: str, recoverable: bool) -> bool: ...
    def remove_instance(self, instance_id: str, at: datetime) -> bool: ...

    # Locks, by id.
    def add_lock(self, lock: Lock) -> None: ...
    def lock(self, lock_id: str) -> Lock | None: ...
    def list_locks(self, after: str = "", limit: int = 100) -> Page[Lock]: ...
    def locks_on(self, targets: Sequence[LockTarget]) -> tuple[Lock, ...]:
        """Locks with one of these targets, ended ones too."""
        ...

    def all_locks(self) -> tuple[Lock, ...]: ...
    def delete_lock(self, lock_id: str) -> bool: ...

    # Audit.
    def add_event(self, event: AuditEvent, above: int = 0) -> None:
        """Its number, and so every later one, is higher than *above*."""
        ...

    def newest_event(self) -> int:
        """The number of the newest event; 0 where there is none."""
        ...

    def list_events(
        self, *, before: int | None = None, limit: int = 100, type_name: str | None = None,
        resource_name: str | None = None,
    ) -> tuple[StoredEvent, ...]:
        """Newest first, those with an id below *before*."""
        ...

    # Pruning.  A use case that prunes takes few rows at a time: others wait for it.
    def stale_instances(
        self, *, removed_before: datetime, renewed_before: datetime, limit: int
    ) -> tuple[str, ...]:
        """Ids of some instances that were removed, or renewed last, before these times."""
        ...

    def prune_instance(
        self, instance_id: str, *, removed_before: datetime, renewed_before: datetime
    ) -> bool:
        """The instance is gone, with its admission and every lock on it, if it is
        still one of those; else nothing has changed."""
        ...

    def stale_bots(self, *, removed_before: datetime, limit: int) -> tuple[str, ...]:
        """Ids of some bots that were removed before that time, and of which no
        instance and no token is left."""
        ...

    def prune_bot(self, bot_id: str, *, removed_before: datetime) -> bool:
        """The bot is gone, if it is still one of those; else nothing has changed."""
        ...

    def prune_tokens(self, expired_before: datetime, limit: int) -> int: ...
    def prune_locks(self, ended_before: datetime, limit: int) -> int: ...
    def prune_events(self, before: datetime, limit: int) -> int:
        """Of the oldest *limit* events those before that time are gone, never the newest one."""
        ...

    # Figures for `status`.
    def counts(self) -> Mapping[str, int]:
        """``roles``, ``bots``, ``instances``, ``tokens``, ``locks``, ``events``."""
        ...


Listener = Callable[[frozenset[str]], None]
Deliver = Callable[[Sequence[Callable[[], None]]], None]
Committed = Callable[[int, int], None]
"""Gets the number of the newest event and the end of the reserved serials, after
each commit and before its futures resolve; never fails (mark.py)."""


class Waiter(Protocol):
    """A use case, and who is told what came of it."""

    use_case: Callable[[Transaction], Any]

    @property
    def is_reading(self) -> bool: ...

    def start(self) -> bool:
        """Called once, before it is run; ``False``: it is not wanted any more."""
        ...

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Where a future would be resolved; never fails."""
        ...


class Storage(Protocol):
    """Runs use cases.  The future resolves only after COMMIT.

    Futures are resolved, and listeners called, by *deliver* (a constructor
    argument): at once in the worker thread by default, once per batch in the
    reactor's thread when it is given.
    """

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        """Use cases run one after the other, over all servers of the database.

        A *concurrent* one may run beside others, and see between its statements
        what they commit: its invariants are conditional statements, and an
        instance that it has read is nobody else's until it ends.
        """
        ...

    def write_together(self, waiters: Sequence[Waiter]) -> None:
        """As :meth:`write` for each, *concurrent*; those that run on one connection, in their
        order.  A storage may run them in the thread that calls this, where it need not wait
        for anything.  When it raises, none of them is started."""
        ...

    def read(self, use_case: Callable[[Transaction], T]) -> Future[T]:
        """Like :meth:`write`, on a snapshot that is not older than this call, for use cases that
        change nothing."""
        ...

    def subscribe(self, listener: Listener) -> None:
        """*listener* gets the topics that a commit changed, before its futures
        resolve: ``roles``, ``locks``, ``bots``, ``instances``, ``authorities``."""
        ...

    def close(self) -> None:
        """What was submitted is finished; further calls raise ``StorageFailure``."""
        ...
