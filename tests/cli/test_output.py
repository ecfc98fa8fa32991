"""Tables and facts, on a pipe and on terminals of any width; what colours mean; JSON and YAML."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mezite.cli import output
from mezite.cli import terminal as screen
from mezite.cli.ctl_audit import write_event
from mezite.cli.ctl_locks import COLUMNS as LOCKS
from mezite.cli.tables import INSTANCES, TOKENS
from mezite.cli.terminal import BAD, SOON, Marked
from tests.cli.conftest import Terminal
from tests.fakes_terminal import Shown, on_terminal

INSTANCE: dict[str, Any] = {
    "id": "0f8b6a2c-3d1e-4a57-9b0c-5e6f7a8b9c0d", "bot": "github-deploy", "state": "locked",
    "generation": 17, "renewed_at": "2026-03-24T14:00:00Z", "address": "192.0.2.7", "host": "ci-7",
}


def table(width: int | None, records: list[dict[str, Any]], **environ: str) -> Shown:
    with on_terminal(width, **environ) as shown:
        output.table(INSTANCES, records)
    return shown


def test_a_pipe_gets_a_record_on_one_line_and_no_codes() -> None:
    told = table(None, [INSTANCE], TERM="xterm").text
    assert len(told.splitlines()) == 2
    assert "\x1b" not in told


def test_a_record_that_is_too_wide_goes_on_below() -> None:
    """Nothing is cut off: an id can be copied."""
    assert table(80, [INSTANCE], TERM="dumb").text == (
        "ID                                    BOT            STATE   GENERATION\n"
        "    RENEWED               ADDRESS    HOST\n"
        "0f8b6a2c-3d1e-4a57-9b0c-5e6f7a8b9c0d  github-deploy  locked  17\n"
        "    2026-03-24T14:00:00Z  192.0.2.7  ci-7\n"
    )


LONG_AGO = datetime(2020, 3, 24, 14, tzinfo=UTC)
TOKEN: dict[str, Any] = {
    "id": "tok-bot-0123456789ab", "bot": "github-deploy", "state": "rotated", "used": 0, "uses": 1,
    "created_at": f"{LONG_AGO:%Y-%m-%dT%H:%M:%SZ}", "expires_at": None,
}


def test_times_are_told_by_how_far_off_they_are_where_that_saves_a_line() -> None:
    now = datetime.now(UTC)
    soon, ago = (f"{now + timedelta(minutes=off):%Y-%m-%dT%H:%M:%SZ}" for off in (61.5, -2.5))
    record = {**TOKEN, "created_at": ago, "expires_at": soon}
    with on_terminal(80, TERM="dumb") as shown:
        output.table(TOKENS, [record, TOKEN])
    first = "tok-bot-0123456789ab  github-deploy  rotated  0/1   "
    days = f"{(now - LONG_AGO).days}d ago"
    assert shown.text.splitlines()[1:] == [
        f"{first}{'2m ago':{len(days)}}  in 1h", f"{first}{days}  -"
    ]
    with on_terminal(100, TERM="dumb") as shown:
        output.table(TOKENS, [record])
    assert f"{ago}  {soon}" in shown.text, "there is room for whole times"


def test_a_time_that_cannot_be_read_is_shown_as_it_is() -> None:
    with on_terminal(80, TERM="dumb") as shown:
        output.table(TOKENS, [{**TOKEN, "created_at": "yesterday at noon, or so"}])
    assert "yesterday at noon, or so" in " ".join(shown.text.split())


LOCK: dict[str, Any] = {
    "id": INSTANCE["id"], "kind": "instance", "target": INSTANCE["id"], "reason": "generation_mismatch",
    "created_by": "system", "created_at": "2026-03-24T14:00:00Z", "expires_at": None,
    "message": "generation 2 went to SHA256:lBoHdv7U43xZJg8QFtaqTdpCKhd/ugAfIZuLETL8HVc (ci-7 at 192.0.2.7)",
}


def test_a_record_of_more_than_two_lines_stands_as_a_block() -> None:
    """No word runs over the edge, and each stands beside its name."""
    with on_terminal(80, TERM="dumb") as shown:
        output.table(LOCKS, [LOCK, {**LOCK, "message": ""}])
    blocks = shown.text.split("\n\n")
    assert blocks[0].splitlines()[1:] == [
        f"TARGET:   instance/{INSTANCE['id']}",
        "REASON:   generation_mismatch",
        "BY:       system",
        "CREATED:  2026-03-24T14:00:00Z",
        "EXPIRES:  -",
        "MESSAGE:  generation 2 went to",
        "          SHA256:lBoHdv7U43xZJg8QFtaqTdpCKhd/ugAfIZuLETL8HVc (ci-7 at 192.0.2.7)",
    ]
    assert blocks[1].endswith("MESSAGE:  -\n")


def test_a_long_word_in_the_last_column_does_not_run_over_the_edge() -> None:
    key = "SHA256:lBoHdv7U43xZJg8QFtaqTdpCKhd/ugAfIZuLETL8HVc"
    with on_terminal(80, TERM="dumb") as shown:
        output.table({"WHO": lambda one: one["who"], "WHAT": lambda one: one["what"]},
                     [{"who": "a" * 36, "what": f"it went to {key}"}])
    assert shown.text.splitlines()[2:] == ["a" * 36, f"    it went to {key}"]


def test_a_command_is_not_broken() -> None:
    """Wherever it stands in a text: it is there to be copied."""
    remedy = "find the copy, give the machine a new token, then: mezctl instances rm 0f8b6a2c-3d1e-4a57"
    with on_terminal(60, TERM="dumb") as shown:
        output.write_remedy(remedy)
        output.write_prose("by an operator; by whom and why: mezctl locks ls --all, or `mezctl audit ls`")
        output.table({"N": lambda one: one, "WHAT": lambda one: "an identity with two holders; which it is: "
                      "mezctl audit ls --type=generation_mismatch"}, ["12345"])  # type: ignore[list-item]
    assert shown.text.splitlines() == [
        "    -> find the copy, give the machine a new token, then:",
        "       mezctl instances rm 0f8b6a2c-3d1e-4a57",
        "by an operator; by whom and why: mezctl locks ls --all, or",
        "`mezctl audit ls`",
        "N      WHAT",
        "12345  an identity with two holders; which it is:",
        "       mezctl audit ls --type=generation_mismatch",
    ]


def test_an_event_is_broken_between_words_on_a_terminal_only(terminal: Terminal) -> None:
    event = terminal.admin.call("audit.ls")["events"][0] | {"message": "word " * 30}
    with on_terminal(80, TERM="dumb") as shown:
        write_event(event)
    first, *rest = shown.text.splitlines()
    assert first.startswith("2026-03-24T14:00:00Z  M")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert all(len(line) <= 80 for line in [first, *rest])
    with on_terminal(None) as shown:
        write_event(event)
    assert shown.text.count("\n") == 1


def test_a_terminal_that_is_wide_enough_shows_what_a_pipe_gets() -> None:
    assert table(120, [INSTANCE], TERM="dumb").text == table(None, [INSTANCE]).text


def test_the_last_column_is_wrapped_between_words() -> None:
    long = {**INSTANCE, "host": "a host whose name is told in far more words than there is any need for"}
    lines = table(80, [long], TERM="dumb").text.splitlines()
    assert lines[3:] == [
        "    2026-03-24T14:00:00Z  192.0.2.7  a host whose name is told in far more words",
        "                                     than there is any need for",
    ]


_ROWS = st.lists(st.lists(st.text("ab -", max_size=60), min_size=3, max_size=3), max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 200), _ROWS)
def test_whatever_the_width_every_word_is_shown(width: int, rows: list[list[str]]) -> None:
    columns = {"A": lambda row: row[0], "B": lambda row: row[1], "C": lambda row: row[2]}
    with on_terminal(width, TERM="dumb") as shown:
        output.table(columns, rows)  # type: ignore[arg-type]  # a record is whatever its cells take
    words = " ".join(cell or "-" for row in rows for cell in row).split()
    shown_words = Counter(word for word in shown.text.split() if word.rstrip(":") not in ("A", "B", "C"))
    assert shown_words == Counter(words)
    if width >= 80:
        assert all(len(line) <= width for line in shown.text.splitlines()), "no cell has more than 60 columns"


def test_colours_mean_something() -> None:
    told = table(80, [INSTANCE, {**INSTANCE, "state": "active"}], TERM="xterm").text
    assert told.count("\x1b[31mlocked\x1b[0m") == 1
    assert "\x1b[1mSTATE\x1b[0m" in told
    assert re.findall(r"\x1b\[\d*m(active)", told) == []
    # Alignment counts what is seen.
    plain = re.sub(r"\x1b\[\d*m", "", told)
    assert plain == table(80, [INSTANCE, {**INSTANCE, "state": "active"}], TERM="dumb").text


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_no_colours_where_they_are_not_wanted(environ: dict[str, str]) -> None:
    assert "\x1b" not in table(80, [INSTANCE], **environ).text


def test_an_empty_no_color_says_nothing() -> None:
    """As https://no-color.org has it."""
    assert "\x1b[" in table(80, [INSTANCE], TERM="xterm", NO_COLOR="").text


def test_facts_are_wrapped_under_themselves() -> None:
    with on_terminal(40, TERM="xterm") as shown:
        output.details({"State": Marked("locked", BAD), "Why": "it was seen where nobody had put it at all"})
    assert shown.text == (
        "State:  \x1b[31mlocked\x1b[0m\n"
        "Why:    it was seen where nobody had put\n"
        "        it at all\n"
    )


def test_prose_is_wrapped_and_marked_line_by_line() -> None:
    with on_terminal(30, TERM="xterm") as shown:
        output.write_prose("one two three four five six seven", "  ", SOON)
    assert shown.text == "  \x1b[33mone two three four five six\x1b[0m\n  \x1b[33mseven\x1b[0m\n"


def test_a_remedy_stays_on_one_line() -> None:
    """It is there to be copied."""
    remedy = "mezctl instances lock 0f8b6a2c-3d1e-4a57-9b0c-5e6f7a8b9c0d --reason=stranger"
    with on_terminal(60, TERM="dumb") as shown:
        output.write_finding("PROBLEM", "token ", "somebody else had used the token before this one", remedy)
    assert shown.text == (
        "PROBLEM  token   somebody else had used the token before\n"
        "                 this one\n"
        f"                 -> {remedy}\n"
    )


def test_what_a_cell_says_cannot_act_on_the_terminal() -> None:
    told = table(80, [{**INSTANCE, "host": "\x1b]0;pwned\x07"}], TERM="dumb").text
    assert "\\x1b]0;pwned\\x07" in told
    assert "\x1b" not in told


def test_the_width_of_what_is_no_terminal_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert screen.columns() is None


LISTS = [("bots", "ls"), ("roles", "ls"), ("tokens", "ls"), ("instances", "ls"), ("locks", "ls"),
         ("nodes", "ls"), ("audit", "ls"), ("status",), ("bots", "show", "github-deploy"),
         ("roles", "get", "ci-deployer"), ("ca", "export", "--type=user")]


@pytest.mark.parametrize("words", LISTS)
def test_yaml_and_json_are_the_same_object(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Times stay texts; what YAML itself would read as something else is quoted."""
    terminal.machine()
    terminal.admin.call("bots.lock", name="github-deploy", reason="on: \x1b[31m é")
    told = terminal.told(*words, "--format=yaml")
    assert told.isascii()
    assert yaml.safe_load(told) == json.loads(terminal.told("--format=json", *words))
