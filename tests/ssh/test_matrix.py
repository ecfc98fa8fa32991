"""Several hundred logins before sshd and our node: nobody gets into the node who does not get into sshd."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from tests.ssh.client import REQUEST, SUCCESS
from tests.ssh.matrix import field_cases, key_cases, odd_cases
from tests.ssh.matrix.both import UNBOUNDED_NODE, UNBOUNDED_SSHD, judged, node_like_sshd, sshd_or_skip
from tests.ssh.matrix.packing import FOREIGN, LOGIN, Case, certificate
from tests.ssh.matrix.servers import Connection, Sshd
from tests.ssh.test_openssh import Node

Group = Callable[[], Iterator[Case]]
GROUPS: list[Group] = [
    key_cases.kinds, key_cases.subjects, key_cases.authorities, field_cases.times, field_cases.principals,
    field_cases.critical_options, field_cases.addresses, field_cases.extensions, field_cases.form,
    field_cases.requests, odd_cases.odd_keys, odd_cases.odd_sizes, odd_cases.odd_requests,
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "conch-certificates.md"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The CAs are ones that only this node trusts."""
    yield from node_like_sshd(tmp_path_factory, **UNBOUNDED_NODE)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_or_skip(tmp_path_factory, **UNBOUNDED_SSHD) as server:
        # Half of its time sshd sleeps over refusals.
        with ThreadPoolExecutor(len(GROUPS)) as pool:
            list(pool.map(partial(judged_group, server.port), GROUPS))
        yield server


@cache
def cases(group: Group) -> tuple[Case, ...]:
    return tuple(group())


@cache
def judged_group(port: int, group: Group) -> dict[str, tuple[bool, bool]]:
    return judged(port, {case.name: case for case in cases(group)})


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_node_decides_as_the_table_says(group: Group, node: Node) -> None:
    table = cases(group)
    found = judged_group(node.port, group)
    assert {case.name: case.good for case in table} == {name: one[1] for name, one in found.items()}
    for case in table:
        invited, admitted = found[case.name]
        assert invited or not admitted, f"{case.name}: let in, but not told so when it asked"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_sshd_agrees_or_is_laxer_for_a_reason(group: Group, node: Node, sshd: Sshd) -> None:
    """Its answers to questions too: no PK_OK of ours without one of sshd's."""
    table = cases(group)
    theirs, ours = judged_group(sshd.port, group), judged_group(node.port, group)
    differing = {
        case.name: theirs[case.name][1] for case in table
        if theirs[case.name][1] != case.good and not case.stricter
    }
    assert differing == {}
    laxer = [case.name for case in table if ours[case.name][0] and not theirs[case.name][0]]
    assert laxer == []


GOOD, BAD = Case("good", True, certificate()), Case("bad", False, certificate(ca=FOREIGN))
SEQUENCES: dict[str, tuple[list[tuple[str, Case]], bool]] = {
    "asked, then signed": ([("ask", GOOD), ("log in", GOOD)], True),
    "asked for another, then signed": ([("ask", BAD), ("log in", GOOD)], True),
    "three that are refused, then a good one": ([("log in", BAD)] * 3 + [("log in", GOOD)], True),
    "asked for often, then signed": ([("ask", GOOD)] * 5 + [("log in", GOOD)], True),
    "methods asked for, then signed": ([("methods", GOOD), ("log in", GOOD)], True),
    "methods asked for after a refusal": ([("log in", BAD), ("methods", GOOD), ("log in", GOOD)], True),
    "another login first": ([("log in", replace(GOOD, login=b"nobody")), ("log in", GOOD)], False),
    "another login asked for first": ([("ask", replace(GOOD, login=b"nobody")), ("log in", GOOD)], False),
    "another login for the methods": (
        [("methods", replace(GOOD, login=b"nobody")), ("log in", GOOD)], False
    ),
    "another service first": ([("log in", replace(GOOD, service=b"ssh-x")), ("log in", GOOD)], False),
    "refused to the end": ([("log in", BAD)] * 2, False),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_requests_one_after_the_other(name: str, node: Node, sshd: Sshd) -> None:
    """In one connection: both let the last one in, or neither."""
    requests, good = SEQUENCES[name]
    for port in (sshd.port, node.port):
        connection = Connection(port)
        answer = None
        try:
            for kind, case in requests:
                payload = {
                    "ask": case.probe(), "methods": replace(case, method=b"none").head(),
                    "log in": case.request(connection.session),
                }[kind]
                answer = connection.ask(REQUEST, payload) if connection.is_open else None
        finally:
            connection.close()
        assert (answer == SUCCESS) is good, port == node.port


def test_names_of_cases_are_unique() -> None:
    names = [case.name for group in GROUPS for case in cases(group)]
    assert len(names) == len(set(names))
    assert len(names) > 750


def test_every_difference_is_documented() -> None:
    reasons = {case.stricter for group in GROUPS for case in cases(group)} - {""}
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == reasons


def test_nothing_of_all_this_confuses_the_log(node: Node) -> None:
    """Whatever names and key ids hold, a line of the log stays one line, of bounded length."""
    judged_group(node.port, field_cases.form)
    for line in (node.directory / "log").read_text(errors="strict").splitlines():
        assert line.isprintable()
        assert len(line) < 1500
    for event in node.events():
        for value in event.values():
            assert str(value).isprintable()
            assert len(str(value)) <= 512
    assert LOGIN in {event.get("login") for event in node.events()}
