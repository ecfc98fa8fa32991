"""How a run tells its figures, and ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet.figures import finish

FIGURES: dict[str, Any] = {"renewals": 12, "faults": {"kill -9": 3}, "lost": ["m001"]}


def test_a_person_gets_a_table_and_a_program_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(FIGURES, is_good=True, as_json=False) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["renewals", "12"], ["faults:"], ["kill", "-9", "3"], ["m001"]
    ]
    assert finish(FIGURES, is_good=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == FIGURES


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_is_not_good_ends_with_1(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(FIGURES, is_good=False, as_json=as_json) == 1
    assert "m001" in capsys.readouterr().out


def test_what_a_person_has_seen_come_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish([FIGURES], is_good=True, as_json=False, were_shown=True) == 0
    assert capsys.readouterr().out == ""
    assert finish([FIGURES], is_good=True, as_json=True, were_shown=True) == 0
    assert json.loads(capsys.readouterr().out) == [FIGURES]
