"""A daemon's status as text: what a person needs first, and nothing that a machine needs."""

from __future__ import annotations

from typing import Any

import pytest

from mezite.cli.identity_text import facts, length

STATUS: dict[str, Any] = {
    "state": "holding", "bot": "github-deploy", "instance": "358a1b7b", "generation": 42,
    "cluster": "example", "principals": ["deploy"], "roles": ["ci-deployer", "logs"],
    "valid_before": "2026-03-24T15:00:00Z",
    "seconds_left": 3125.2, "next_attempt_in_seconds": 1325.0, "last_error": None, "clock_skew_seconds": 0.4,
    "clock_skew_give_or_take_seconds": 0.1, "destination": "/d", "outputs": ["files", "agent"],
    "server": "auth:3025", "ready": True, "not_ready_reason": None,
}


def test_all_is_well() -> None:
    assert facts(STATUS) == {
        "State": "ready",
        "Bot": "github-deploy (roles: ci-deployer, logs)",
        "Instance": "358a1b7b, generation 42",
        "Cluster": "example, served by auth:3025",
        "Logins": "deploy",
        "Certificate": "until 2026-03-24T15:00:00Z, 52m 5s left",
        "Next renewal": "in 22m 5s",
        "Last error": "none",
        "Clock": "agrees with the server's",
        "Written to": "/d (files, agent)",
    }


def test_trouble_comes_with_its_remedy() -> None:
    error = {"code": "locked", "message": "bot/x is locked", "remedy": "an operator has locked it"}
    told = facts({
        **STATUS, "ready": False, "not_ready_reason": "the server refuses the renewal", "state": "waiting",
        "last_error": error, "seconds_left": 0, "next_attempt_in_seconds": 0.2, "clock_skew_seconds": -90.0,
    })
    assert told["State"] == "NOT READY: the server refuses the renewal"
    assert told["Last error"] == "bot/x is locked (locked)"
    assert told["What to do"] == "an operator has locked it"
    assert told["Certificate"] == "ENDED (until 2026-03-24T15:00:00Z)"
    assert told["Next try"] == "now"
    assert told["Clock"] == "1m 30s ahead of the server's, give or take 0.1 s"


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("6 renewals in a row have failed: cannot reach it", "cannot reach it",
         "6 renewals in a row have failed"),
        ("the server refuses the renewal: bot/x is locked: freeze; an operator has locked it (locked)",
         "bot/x is locked: freeze", "the server refuses the renewal"),
        ("there is no identity yet", "the server is down", "there is no identity yet"),
        ("there is no identity yet", "", "there is no identity yet"),
        (None, "", "no reason was told"),
    ],
)
def test_why_it_is_not_ready_is_not_told_twice(reason: str | None, message: str, told: str) -> None:
    error = {"code": "locked", "message": message, "remedy": ""}
    found = facts({**STATUS, "ready": False, "not_ready_reason": reason, "last_error": error})
    assert found["State"] == f"NOT READY: {told}"
    assert found["Last error"] == f"{message} (locked)"


def test_before_the_first_certificate() -> None:
    told = facts({"ready": False, "not_ready_reason": "there is no identity yet", "server": "auth:3025"})
    assert told["Server"] == "auth:3025"
    assert "Certificate" not in told


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (-3, "0s"), (45.9, "45s"), (60, "1m"), (750, "12m 30s"), (11100, "3h 5m"), (10800, "3h"),
     (525600, "6d 2h"), (86405, "1d")],
)
def test_lengths_have_two_units_at_most(seconds: float, expected: str) -> None:
    assert length(seconds) == expected
