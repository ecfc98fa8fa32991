"""Bots, roles and locks, held in memory between the transactions of one writer.

Correctness never depends on it.  The database counts every change of them, in
the transaction that makes it; before anything held here is used, that number is
read in the transaction that uses it, and one that differs empties all of it.  So
another process's change is seen by the next transaction, as without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mezite.core.model import Bot, Lock, LockTarget
from mezite.core.roles import Role
from mezite.storage import sql
from mezite.storage.statements import Statements

K = TypeVar("K")
V = TypeVar("V")

TOPICS = frozenset({"bots", "roles", "locks"})
MOST = 10_000
"""Entries of a kind, until that kind is read anew."""
MOST_INSTANCE_LOCKS = 1_000
"""Held; where there are more, each machine's are read from the database."""


class Held:
    """What has been read; ``None`` or an empty tuple stands for what is not there.

    Locks are held by target, ``None`` until they have been read; those on instances,
    of which there may be as many as machines, if *has_instance_locks*.
    """

    __slots__ = ("bots", "has_instance_locks", "locks", "roles")

    def __init__(self) -> None:
        self.bots: dict[str, Bot | None] = {}
        self.roles: dict[str, Role | None] = {}
        self.locks: dict[LockTarget, tuple[Lock, ...]] | None = None
        self.has_instance_locks = False


class PolicyCache:
    """What one writer holds.  Whoever rolls a transaction back calls :meth:`forget`."""

    def __init__(self) -> None:
        self._held = Held()
        self._version: int | None = None
        self._is_checked = False

    def begin(self) -> None:
        """A transaction begins: others may have changed anything before it."""
        self._is_checked = False

    def forget(self) -> None:
        """Something has changed in the open transaction, or was rolled back."""
        self._held, self._version, self._is_checked = Held(), None, False

    def current(self, statements: Statements) -> Held:
        """What is held and holds, in the transaction of *statements*."""
        if not self._is_checked:
            ((version,),) = statements.select(sql.POLICY_VERSION)
            if version != self._version:
                self._held, self._version = Held(), int(version)
            self._is_checked = True
        return self._held


def recall(held: dict[K, V], keys: Sequence[K], read: Callable[[Sequence[K]], Mapping[K, V]]) -> dict[K, V]:
    """What is held of *keys*; *read* gives something for each of those that are not."""
    if len(held) > MOST:
        held.clear()
    missing = [key for key in keys if key not in held]
    if missing:
        held.update(read(missing))
    return {key: held[key] for key in keys}
