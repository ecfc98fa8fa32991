"""The node's view of its cluster: read when needed, dropped on every change that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed

from mezite.certs import keys
from mezite.core.audit import AuditEvent
from mezite.core.model import LockKind
from mezite.ssh.cluster import ClusterAccess, read_rules
from mezite.ssh.policy import Policy
from tests.harness import Auth


class Node:
    """The access of a node in *auth*, and how often it has read."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.reads = 0
        self.held: list[Deferred[Any]] | None = None
        """Reads that tests answer, where it is a list."""
        self.events: list[AuditEvent] = []
        self.authorities = auth.loaded.current
        context = replace(auth.context, authorities=lambda: self.authorities)
        self.access = ClusterAccess(context, self.read, self.events.append)

    def read(self, use_case: Callable[[Any], Any]) -> Deferred[Any]:
        self.reads += 1
        found = self.auth.write(use_case)
        if self.held is None:
            return succeed(found)
        self.held.append(Deferred())
        waiting = self.held[-1]
        waiting.addCallback(lambda _: found)
        return waiting

    def policy(self) -> Policy:
        found: list[Policy] = []
        self.access.policy().addCallback(found.append)
        return found[0]


@pytest.fixture
def node() -> Iterator[Node]:
    auth = Auth()
    yield Node(auth)
    auth.close()


def test_the_policy_is_read_once_for_many_logins(node: Node) -> None:
    assert node.policy() is node.policy()
    assert node.reads == 1
    assert set(node.policy().roles) == {"ci-deployer"}


@pytest.mark.parametrize("topic", ["roles", "locks", "authorities"])
def test_changes_that_matter_make_the_next_login_read_again(node: Node, topic: str) -> None:
    node.policy()
    node.auth.lock(LockKind.LOGIN, "deploy")
    assert node.access.forget({topic, "instances"})
    assert len(node.policy().locks) == 1


def test_other_changes_cost_nothing(node: Node) -> None:
    """Renewals above all: they are most of what a server does."""
    node.policy()
    assert not node.access.forget({"instances", "bots", "events"})
    node.policy()
    assert node.reads == 1


def test_authorities_are_those_of_the_moment(node: Node) -> None:
    """One that is added is trusted, one that is taken away is not, from the next login on."""
    before = node.policy().user_cas
    added = keys.public_blob(keys.generate_ca_key())
    node.authorities = replace(node.authorities, user_cas=(*before, added))
    node.access.forget({"authorities"})
    assert node.policy().user_cas == (*before, added)
    node.authorities = replace(node.authorities, user_cas=(added,))
    node.access.forget({"authorities"})
    assert node.policy().user_cas == (added,)


def test_a_change_during_a_read_is_not_lost(node: Node) -> None:
    """The reader gets what it has read; nobody after it does."""
    node.held = []
    late: list[Policy] = []
    node.access.policy().addCallback(late.append)
    node.auth.lock(LockKind.BOT, "ci")
    node.access.forget({"locks"})
    node.held[0].callback(None)
    node.held = None
    assert late[0].locks == ()
    assert len(node.policy().locks) == 1


def test_all_roles_are_read_however_many(node: Node) -> None:
    role = node.auth.write(read_rules)[0]["ci-deployer"]

    def add(tx: Any) -> None:
        for number in range(1500):
            tx.put_role(replace(role, name=f"role-{number}"))

    node.auth.write(add)
    assert len(node.policy().roles) == 1501
