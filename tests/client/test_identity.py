"""An identity inside a program: the same outcomes under asyncio and under Twisted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EXPECTED: dict[str, object] = {
    "joins_and_gives_a_credential_that_is_good": [1, ["deploy"], True],
    "the_lineage_key_is_in_the_state_and_nowhere_else": [".mezite"],
    "a_renewal_brings_another_key_and_is_told": [2, 3],
    "it_renews_by_itself": [2, 3],
    "the_next_start_needs_no_token_and_no_server": 0,
    "a_join_whose_answer_is_lost_is_asked_for_again_with_the_same_keys": ["unreachable", 1],
    "a_token_that_is_not_known_ends_at_once": ["token_unknown", 1],
    "a_server_of_another_pin_is_told_nothing": ["untrusted_server", 0],
    "nobody_is_there": ("unreachable", "cannot reach the auth server at 127.0.0.1:1: connection refused"),
    "a_server_that_is_silent": ("unreachable", "no answer yet from the auth server at 127.0.0.1:"),
    "a_cancelled_start_leaves_nothing": ["CancelledError", 1],
    "a_lock_is_told_while_the_certificate_lasts": ["locked", 1],
    "a_copied_state_is_proven_and_ends_both": [*["generation_mismatch"] * 4, 1],
    "two_programs_cannot_hold_one_directory": ("state", "is already in use by another process"),
    "what_a_callback_raises_harms_nobody": 3,
    "without_a_token_there_is_nothing_to_begin_with": ("usage", " yet; give the join_token that "),
    "without_a_server_there_is_nobody_to_ask": ("usage", "no auth server is known; give auth_server"),
    "a_file_of_a_ca_that_is_not_there": ("usage", "ca_file: /"),
    "no_error_names_an_option_of_the_command_line": [10, False],
    "a_stopped_identity_says_so": ("usage", "not running; start it first"),
    "two_who_stop_it_both_wait_for_its_end": [True, "unreachable"],
    "it_leaves_and_nothing_is_left": [["usage", "usage"], [".mezite", "lock"], 1],
    "one_that_is_stopped_leaves_by_its_directory": ["state", "unreachable", "usage"],
    "it_leaves_after_a_renewal_whose_answer_was_lost": ["unreachable", 2],
    "it_cannot_leave_while_its_server_is_away": ["unreachable", 1],
    "a_cancelled_leave_leaves_no_lock": ["CancelledError", 1],
    "one_of_two_holders_does_not_leave_in_silence": ("bad_proof", "let it renew once more"),
    "once_in_memory": [1, True, False],
    "once_in_a_directory_it_joins_and_then_renews": [1, 2],
    "once_refused": ("locked", "bot/github-deploy is locked"),
}


@pytest.fixture(scope="module", params=["asyncio", "twisted"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.cases", request.param],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False,
    )
    assert done.returncode == 0, done.stderr
    # A request that was cut is no fault to tell of, and nobody's error is left lying about.
    for noise in ("broke", "Unhandled", "never retrieved", "never awaited"):
        assert noise not in done.stderr, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_every_case_is_here(outcomes: dict[str, object]) -> None:
    assert set(EXPECTED) == set(outcomes)


@pytest.mark.parametrize("case", EXPECTED)
def test_outcome(outcomes: dict[str, object], case: str) -> None:
    expected, found = EXPECTED[case], outcomes[case]
    if isinstance(expected, tuple):
        assert isinstance(found, list)
        assert expected[0] == found[0], found
        assert expected[1] in found[1]
    else:
        assert expected == found
