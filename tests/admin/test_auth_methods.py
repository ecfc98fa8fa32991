"""The methods of the operator socket: what goes in, what comes out."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezite.admin import jsonrpc, records
from mezite.admin.caller import Caller
from mezite.core.model import LockKind
from mezite.core.request import TokenText
from mezite.core.roles import Role, Rules
from mezite.errors import InvalidInput, MeziteError, NotFound
from tests.fakes_admin import Admin
from tests.harness import Machine

ANN = Caller(uid=1000, gid=1000, pid=7, name="ann")


def test_a_bot_comes_with_its_token_and_where_to_use_it(admin: Admin) -> None:
    answer = admin.call("bots.add", name="ci", roles=["ci-deployer"], token_ttl="2h", ttl="30m")
    token = TokenText.from_text(answer["join_token"])
    assert answer == {
        "bot": {
            "name": "ci",
            "id": answer["bot"]["id"],
            "roles": ["ci-deployer"],
            "created_at": "2026-03-24T14:00:00Z",
            "ttl": "30m",
            "renewable_for": "7d",
            "max_lineage_age": None,
            "source_address": [],
        },
        "join_token": token.to_text(),
        "token": {
            "id": token.id,
            "bot": "ci",
            "state": "active",
            "uses": 1,
            "used": 0,
            "created_at": "2026-03-24T14:00:00Z",
            "expires_at": "2026-03-24T16:00:00Z",
            "revoked_at": None,
        },
        "auth_server": "auth.example.com:3025",
    }


def test_the_callers_name_is_in_the_audit_log(admin: Admin) -> None:
    admin.call("bots.add", ANN, name="ci", roles=["ci-deployer"])
    (event,) = admin.call("audit.ls", type="bot.created")["events"]
    assert event["user_name"] == "uid:1000(ann)"
    assert (event["event_code"], event["resource_type"], event["resource_name"], event["success"]) == (
        "M1200I", "bot", "ci", True
    )


def test_no_answer_but_the_one_that_makes_a_token_has_its_secret(admin: Admin) -> None:
    text = TokenText.from_text(admin.call("bots.add", name="ci", roles=["ci-deployer"])["join_token"])
    Machine(admin.auth).join(text)
    for method, params in [
        ("bots.ls", {}), ("bots.show", {"name": "ci"}), ("tokens.ls", {}), ("audit.ls", {}), ("status", {}),
        ("instances.ls", {}), ("locks.ls", {}), ("tokens.rm", {"id": text.to_text()}),
    ]:
        told = json.dumps(admin.call(method, **params))
        assert text.secret not in told, method


def test_a_role_goes_in_and_comes_out_as_a_document(admin: Admin) -> None:
    document = {
        "kind": "role",
        "version": "v1",
        "metadata": {"name": "backup", "description": "nightly"},
        "spec": {
            "options": {"max_session_ttl": "30m", "file_copy": True},
            "allow": {"node_labels": {"team": ["^db-.*$"]}, "logins": ["backup"]},
            "deny": {"logins": ["root"]},
        },
    }
    assert admin.call("roles.put", document=document) == {"role": document, "created": True}
    assert admin.call("roles.put", document=document)["created"] is False
    assert admin.call("roles.get", name="backup") == {"role": document}
    assert admin.call("roles.ls")["roles"][0] == document
    assert admin.call("roles.delete", name="backup") == {"name": "backup"}
    with pytest.raises(NotFound):
        admin.call("roles.get", name="backup")


def test_a_fault_in_a_role_is_told_with_its_place(admin: Admin) -> None:
    document = {"kind": "role", "metadata": {"name": "x"}, "spec": {"allow": {"logins": ["*"]}}}
    with pytest.raises(InvalidInput, match=r"^spec\.allow\.logins\[0\]: '\*' is not a login name"):
        admin.call("roles.put", document=document)


def test_an_instance_is_shown_with_its_keys_and_locks(admin: Admin) -> None:
    machine = Machine(admin.auth)
    machine.join(admin.auth.add_token(admin.auth.add_bot()))
    lock = admin.auth.lock(LockKind.INSTANCE, machine.instance_id)
    stored = admin.auth.instance(machine.instance_id)
    assert admin.call("instances.show", id=machine.instance_id)["instance"] == {
        "id": machine.instance_id,
        "bot": "github-deploy",
        "state": "locked",
        "generation": 1,
        "lineage_key": stored.lineage_key,
        "previous_key": None,
        "token": stored.token_id,
        "joined_at": "2026-03-24T14:00:00Z",
        "renewed_at": "2026-03-24T14:00:00Z",
        "valid_until": "2026-03-24T15:00:00Z",
        "address": "192.0.2.7",
        "host": "ci-7",
        "boot_id": None,
        "locks": [
            {
                "id": lock.id,
                "kind": "instance",
                "target": machine.instance_id,
                "reason": "operator",
                "message": "looked odd",
                "created_by": "uid:0(root)",
                "created_at": "2026-03-24T14:00:00Z",
                "expires_at": None,
                "fork": None,
            }
        ],
        "prove_asked": None,
    }


def test_status_has_the_clock_the_refusals_and_the_encryption(admin: Admin) -> None:
    admin.refusals["locked"] += 2
    told = admin.call("status")
    assert (told["clock_fault"], told["refusals"], told["ca_keys_encrypted"]) == (None, {"locked": 2}, False)
    admin.guard.hold(admin.auth.write(admin.guard.commit))
    admin.auth.advance(hours=-3)
    assert admin.call("status")["clock_fault"] == "the server's clock is 3h behind its last commit"
    assert admin.call("clock.accept") == {"server_time": "2026-03-24T11:00:00Z"}
    assert admin.call("status")["clock_fault"] is None


# --- lists ---------------------------------------------------------------------------------


def pages(admin: Admin, method: str, noun: str, limit: int, **params: Any) -> list[list[Any]]:
    """Every page of a list, by its `next`."""
    found = []
    after = None
    while True:
        given = params if after is None else {**params, "after": after}
        answer = admin.call(method, **given, limit=limit)
        assert set(answer) == {noun, "next"}
        found.append(answer[noun])
        after = answer["next"]
        if after is None:
            return found


def test_every_list_goes_on_where_its_page_ended(admin: Admin) -> None:
    for number in range(5):
        admin.call("bots.add", name=f"bot-{number}", roles=["ci-deployer"])
        admin.call("locks.add", kind="login", target=f"login{number}")
        admin.call("roles.put", document={"kind": "role", "metadata": {"name": f"r{number}"}, "spec": {}})
        text = admin.call("tokens.create", bot="bot-0")["join_token"]
        Machine(admin.auth).join(TokenText.from_text(text))
    for method, noun, key, count in [
        ("bots.ls", "bots", "name", 5), ("locks.ls", "locks", "id", 5), ("tokens.ls", "tokens", "id", 10),
        ("instances.ls", "instances", "id", 5), ("audit.ls", "events", "id", None),
    ]:
        (whole,) = pages(admin, method, noun, 1000)
        parts = pages(admin, method, noun, 2)
        assert [one for part in parts for one in part] == whole
        assert all(len(part) == 2 for part in parts[:-1])
        assert len({one[key] for one in whole}) == len(whole)
        assert count is None or len(whole) == count
    assert [len(part) for part in pages(admin, "roles.ls", "roles", 4)] == [4, 2]


def test_a_page_whose_records_are_large_is_cut_before_the_line_is_full(admin: Admin) -> None:
    """A hundred roles of a hundred long logins each would make several MiB."""
    logins = tuple(f"{number:03}" + "x" * 200 for number in range(100))

    def fill(tx: Any) -> None:
        for number in range(100):
            tx.put_role(Role(f"role-{number:03}", allow=Rules(logins=logins)))

    admin.auth.write(fill)
    parts = pages(admin, "roles.ls", "roles", 1000)
    assert len(parts) > 2
    assert sum(map(len, parts)) == 101
    assert all(len(jsonrpc.result_line(1, {"roles": part})) < jsonrpc.MAX_LINE for part in parts)


def test_a_record_larger_than_a_page_still_comes() -> None:
    """One record a page: a list never stops in the middle."""
    large = {"x": "y" * 800_000}
    assert records.page("things", [("a", large), ("b", large)], None) == {"things": [large], "next": "a"}


def test_a_page_token_of_the_audit_log_is_checked(admin: Admin) -> None:
    with pytest.raises(InvalidInput, match=r"^after: "):
        admin.call("audit.ls", after="x")


# --- anything else -------------------------------------------------------------------------


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2000) | st.sampled_from(
        ["", "ci", "ci-deployer", "1h", "bot", "user", "deploy", "\x00", "zz\u202e", "12345", "-1"]
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "name", "role"]), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["name", "roles", "token_ttl", "uses", "ttl", "after", "limit", "bot", "id", "keep_key", "kind", "target",
     "document", "type", "resource", "reason", "ended", "unknown"]
)


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_parameters_are_answered_or_told(admin: Admin, data: st.DataObject) -> None:
    """Nothing but our own errors comes out, each of one line; and every answer is JSON."""
    method = data.draw(st.sampled_from(sorted(admin.methods)))
    params = data.draw(st.dictionaries(NAMES, JSON, max_size=4))
    try:
        told = jsonrpc.result_line(1, admin.call(method, **{"caller": ANN, **params}))
    except MeziteError as fault:
        told = f"{fault}\n".encode()
    assert told.count(b"\n") == 1
    assert b"\0" not in told


def test_every_method_refuses_what_it_does_not_know(admin: Admin) -> None:
    for method in admin.methods:
        with pytest.raises(InvalidInput, match="unknown parameter"):
            admin.call(method, nonsense=1)


def test_times_are_in_utc() -> None:
    moment = datetime(2026, 3, 24, 16, 0, 0, 999_999, timezone(timedelta(hours=1)))
    assert records.when(moment) == "2026-03-24T15:00:00Z"
