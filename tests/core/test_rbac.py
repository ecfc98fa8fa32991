"""Who may get what: deny over allow, and empty never means all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.core.rbac import Admitted, Denied, Granted, admit, find_roles, grant
from mezite.core.roles import LabelMatcher, Role, Rules
from mezite.errors import Reason

HOUR = timedelta(hours=1)
STAGING = {"env": "staging", "team": "eng-web"}


def role(name: str = "r", **spec: object) -> Role:
    return Role.from_document({"kind": "role", "metadata": {"name": name}, "spec": spec})


DEPLOY = role(
    "deploy",
    options={"max_session_ttl": "30m"},
    allow={"node_labels": {"env": ["staging", "production"]}, "logins": ["deploy", "app"]},
    deny={"logins": ["root"]},
)


def test_a_grant_is_the_union_of_logins_less_the_denied_and_the_shortest_ttl() -> None:
    other = role("other", allow={"logins": ["root", "ops", "app"]}, options={"port_forwarding": True})
    assert grant([DEPLOY, other], asked_ttl=HOUR) == Granted(
        ("deploy", "other"), ("deploy", "app", "ops"), timedelta(minutes=30), True
    )


@pytest.mark.parametrize(
    ("roles", "locked", "reason"),
    [
        ([role(allow={"logins": ["a"]}, deny={"logins": ["a"]})], (), Reason.NO_LOGINS),
        ([role(allow={"node_labels": {"env": "x"}})], (), Reason.NO_LOGINS),
        ([role()], (), Reason.NO_LOGINS),
        ([DEPLOY], ("deploy", "app"), Reason.LOCKED),
        ([DEPLOY, role("m", options={"require_session_mfa": "session"})], (), Reason.ROLE_UNFIT),
    ],
)
def test_what_is_not_granted(roles: list[Role], locked: tuple[str, ...], reason: Reason) -> None:
    outcome = grant(roles, asked_ttl=HOUR, locked_logins=locked)
    assert isinstance(outcome, Denied)
    assert outcome.reason is reason


def test_a_missing_role_denies_everything_because_it_may_have_denied_something() -> None:
    outcome = find_roles(["deploy", "gone"], {"deploy": DEPLOY})
    assert isinstance(outcome, Denied)
    assert outcome.reason is Reason.ROLE_GONE
    assert isinstance(find_roles([], {}), Denied)


@pytest.mark.parametrize(
    ("roles", "labels", "login", "admitted"),
    [
        ([DEPLOY], STAGING, "deploy", True),
        ([DEPLOY], STAGING, "root", False),
        ([DEPLOY], STAGING, "Deploy", False),
        ([DEPLOY], {"env": "dev"}, "deploy", False),
        ([DEPLOY], {}, "deploy", False),
        # Labels of one role and the login of another do not add up.
        ([DEPLOY, role("all", allow={"node_labels": {"*": "*"}, "logins": ["ops"]})], {}, "deploy", False),
        # Deny of any role counts, by login or by label.
        ([DEPLOY, role("no", deny={"logins": ["deploy"]})], STAGING, "deploy", False),
        ([DEPLOY, role("no", deny={"node_labels": {"team": "^eng-.*$"}})], STAGING, "deploy", False),
        ([DEPLOY, role("no", deny={"node_labels": {"team": "ops"}})], STAGING, "deploy", True),
        # No labels allowed is no node; a wildcard is every node, labelled or not.
        ([role(allow={"logins": ["deploy"]})], STAGING, "deploy", False),
        ([role(allow={"node_labels": {"*": "*"}, "logins": ["deploy"]})], {}, "deploy", True),
        ([role(allow={"node_labels": {"env": "*"}, "logins": ["deploy"]})], {}, "deploy", False),
        # Every key must match.
        (
            [role(allow={"node_labels": {"env": "staging", "team": "x"}, "logins": ["a"]})],
            STAGING,
            "a",
            False,
        ),
        (
            [role(allow={"node_labels": {"env": "staging", "team": "^eng-.*$"}, "logins": ["a"]})],
            STAGING,
            "a",
            True,
        ),
        # A pattern matches the whole value, with no line break to hide behind.
        ([role(allow={"node_labels": {"team": "^eng$"}, "logins": ["a"]})], {"team": "eng\n"}, "a", False),
    ],
)
def test_admit(roles: list[Role], labels: dict[str, str], login: str, admitted: bool) -> None:
    assert isinstance(admit(roles, labels=labels, login=login), Admitted) == admitted


def test_permissions_are_those_of_the_roles_that_allow_it_here() -> None:
    elsewhere = role(
        "else",
        allow={"node_labels": {"env": "dev"}, "logins": ["deploy"]},
        options={"port_forwarding": True, "file_copy": True},
    )
    outcome = admit([DEPLOY, elsewhere], labels=STAGING, login="deploy")
    assert outcome == Admitted("deploy", port_forwarding=False, file_copy=False)


logins = st.sampled_from(["a", "b", "c"])
labels = st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"]))
matchers = st.lists(
    st.builds(LabelMatcher, st.sampled_from(["k", "l"]), st.tuples(st.sampled_from(["1", "2", "*"]))),
    max_size=2,
).map(tuple)
rules = st.builds(Rules, matchers, st.lists(logins, max_size=2).map(tuple))
roles = st.lists(st.builds(Role, st.just("r"), allow=rules, deny=rules), max_size=3)


@given(roles, labels, logins, st.builds(Rules, matchers, st.lists(logins, max_size=2).map(tuple)))
def test_another_denying_role_never_lets_anybody_in(
    some: list[Role], where: dict[str, str], login: str, deny: Rules
) -> None:
    """Denials only ever take away, and what gets in is allowed by one role alone."""
    before = admit(some, labels=where, login=login)
    after = admit([*some, Role("d", deny=deny)], labels=where, login=login)
    assert isinstance(before, Admitted) or isinstance(after, Denied)
    if isinstance(before, Admitted):
        assert any(isinstance(admit([one], labels=where, login=login), Admitted) for one in some)
