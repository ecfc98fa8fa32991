"""The first contact with a server, and requests that depend on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXPECTED: dict[str, object] = {
    "finds_the_pinned_ca": True,
    "finds_it_by_name": True,
    "refuses_another_ca": ("untrusted_server", "not the pinned one"),
    "refuses_the_pinned_ca_over_a_foreign_leaf": ("untrusted_server", "is not signed by it"),
    "nobody_is_there": ("unreachable", "connection refused"),
    "nobody_is_there_at_any_of_its_addresses": ("unreachable", "connection refused; is it"),
    "nobody_has_the_name": ("unreachable", "no address is known for nobody.invalid"),
    "a_server_that_says_nothing": ("unreachable", "no answer within 1 s"),
    "a_server_of_plain_text": ("unreachable", "broke off the TLS 1.3 handshake"),
    "a_server_that_hangs_up": ("unreachable", "broke off the TLS 1.3 handshake"),
    "a_server_of_tls_1_2": ("unreachable", "broke off the TLS 1.3 handshake"),
    "joins_by_the_pin": 1,
    "sends_nothing_to_a_server_of_another_pin": ["untrusted_server", 0],
    "a_pin_given_by_hand_replaces_the_tokens": 1,
    "a_ca_given_by_hand_replaces_the_tokens_pin": 1,
    "a_wrong_ca_given_by_hand_is_not_made_good_by_the_token": ("untrusted_server", "not the one we know"),
    "without_anything_that_proves_the_server": ("untrusted_server", "the pin of its CA, or a CA file"),
    "renews_by_the_trust_of_the_identity": 2,
    "a_renewal_does_not_trust_a_strange_server": ("untrusted_server", "not the one we know"),
    "a_new_token_vouches_for_a_server_set_up_anew": 2,
    "a_cancelled_request_is_over": "CancelledError",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rpc.contact_process"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_every_case_is_here(outcomes: dict[str, object]) -> None:
    assert set(EXPECTED) == set(outcomes)


@pytest.mark.parametrize("case", EXPECTED)
def test_contact(outcomes: dict[str, object], case: str) -> None:
    expected, found = EXPECTED[case], outcomes[case]
    if isinstance(expected, tuple):
        code, part = expected
        assert isinstance(found, list)
        assert code == found[0], found
        assert part in found[1]
        assert "\n" not in found[1]
    else:
        assert expected == found
