"""Role documents, strictly read: each fault names its place and the way out."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

from mezite.core.model import LockTarget
from mezite.core.roles import Role
from mezite.errors import InvalidInput

DOCUMENT: dict[str, Any] = {
    "kind": "role",
    "metadata": {"name": "ci-deployer", "description": "CI/CD deploy pipeline SSH access"},
    "spec": {
        "options": {"max_session_ttl": "1h"},
        "allow": {"node_labels": {"env": ["staging", "production"]}, "logins": ["deploy"]},
        "deny": {"logins": ["root"]},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split("/")
    inner = document
    for key in parents:
        inner = inner.setdefault(key, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return document


def test_the_documented_role_is_read_and_written_back() -> None:
    role = Role.from_document(DOCUMENT)
    assert role.max_session_ttl == timedelta(hours=1)
    assert Role.from_document(role.to_document()) == role


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("kind", "user", "kind: expected role, found 'user'; write kind: role"),
        ("kind", ..., "kind: expected role, found None"),
        ("version", "v9", "version: unknown version 'v9'; write v1"),
        ("metadata", ..., "metadata: missing"),
        ("metadata/name", ..., "metadata.name: missing"),
        ("metadata/name", "a b", "metadata.name: 'a b' is not a name"),
        ("metadata/name", 7, "metadata.name: 7 is not a name"),
        ("spec", [], "spec: expected a mapping, found []"),
        ("spec/alow", {}, "spec.alow: unknown key; did you mean allow?"),
        ("spec/options/max_session_tll", "1h", "spec.options.max_session_tll: unknown key; did you mean"),
        (
            "spec/options/max_session_ttl",
            "1 hour",
            "spec.options.max_session_ttl: '1 hour' is not a duration",
        ),
        ("spec/options/max_session_ttl", 3600, "spec.options.max_session_ttl: 3600 is not a duration"),
        ("spec/options/max_session_ttl", "0s", "spec.options.max_session_ttl: '0s' is no time at all"),
        ("spec/options/port_forwarding", "yes", "spec.options.port_forwarding: expected true or false"),
        ("spec/allow/logins", [], "spec.allow.logins: an empty list means nothing here"),
        ("spec/allow/logins", {}, "spec.allow.logins: expected a list of texts"),
        ("spec/allow/logins", [7], "spec.allow.logins[0]: expected a text, found 7; quote it"),
        ("spec/allow/logins", ["ok", "*"], "spec.allow.logins[1]: '*' is not a login name"),
        ("spec/allow/logins", ["a\0b"], "spec.allow.logins[0]: 'a\\x00b' is not a login name"),
        ("spec/allow/node_labels", {}, "spec.allow.node_labels: empty means no node"),
        ("spec/allow/node_labels/env", [], "spec.allow.node_labels.env: an empty list"),
        ("spec/allow/node_labels/env", "^(a$", "spec.allow.node_labels.env: bad regular expression"),
        ("spec/allow/node_labels/env", "stag*", "spec.allow.node_labels.env: 'stag*': \"*\" stands alone"),
        ("spec/allow/node_labels/*", "staging", 'spec.allow.node_labels.*: the key "*" takes the value'),
        ("spec/deny/node_labels", ["env"], "spec.deny.node_labels: expected a mapping of labels"),
    ],
)
def test_a_fault_names_its_place_and_the_way_out(path: str, value: Any, fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Role.from_document(changed(path, value))
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "role", 3, {1: 2}])
def test_what_is_no_document_at_all_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInput):
        Role.from_document(document)


@pytest.mark.parametrize(
    ("value", "demands"), [("off", False), ("", False), (False, False), ("session", True)]
)
def test_session_mfa_is_kept_so_that_it_can_be_refused_for_bots(value: Any, demands: bool) -> None:
    role = Role.from_document(changed("spec/options/require_session_mfa", value))
    assert role.require_session_mfa is demands


def test_a_lock_target_is_one_of_the_known_kinds() -> None:
    assert str(LockTarget.from_text("bot", "github-deploy")) == "bot/github-deploy"
    for kind, value in (("user", "x"), ("bot", ""), ("bot", 3), ("bot", "a\nb")):
        with pytest.raises(InvalidInput):
            LockTarget.from_text(kind, value)
