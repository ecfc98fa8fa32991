"""The node's view of the cluster it runs in: kept in memory, read again on change."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred, succeed

from mezite.auth.context import Context, Transaction
from mezite.core.audit import AuditEvent
from mezite.core.model import Lock
from mezite.core.roles import Role
from mezite.ssh.policy import Policy

Rules = tuple[dict[str, Role], tuple[Lock, ...]]
"""All roles by name, and all locks."""

TOPICS = frozenset({"roles", "locks", "authorities"})
"""Changes that the policy depends on."""


def read_rules(tx: Transaction) -> Rules:
    roles: dict[str, Role] = {}
    after: str | None = ""
    while after is not None:
        page = tx.list_roles(after, 1000)
        roles.update((role.name, role) for role in page.items)
        after = page.next
    return roles, tx.all_locks()


class ClusterAccess:
    """Implements :class:`mezite.ssh.policy.Access`.

    *read* runs a use case on a snapshot and gives a Deferred.  A change that
    is committed while a read is under way makes the next login read again.
    """

    def __init__(
        self,
        context: Context,
        read: Callable[[Callable[[Transaction], Rules]], Deferred[Rules]],
        record: Callable[[AuditEvent], None],
    ) -> None:
        self._context = context
        self._read = read
        self._record = record
        self._policy: Policy | None = None
        self._version = 0

    def policy(self) -> Deferred[Policy]:
        if self._policy is not None:
            return succeed(self._policy)
        version = self._version

        def keep(rules: Rules) -> Policy:
            roles, locks = rules
            policy = Policy(self._context.authorities().user_cas, roles, locks)
            if version == self._version:
                self._policy = policy
            return policy

        return self._read(read_rules).addCallback(keep)

    def audit(self, event: AuditEvent) -> None:
        self._record(event)

    def forget(self, topics: Collection[str]) -> bool:
        """Drops what *topics* made stale; whether that was anything."""
        if TOPICS.isdisjoint(topics):
            return False
        self._version += 1
        self._policy = None
        return True
