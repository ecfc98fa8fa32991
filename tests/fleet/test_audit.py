"""The checker of audit logs: what it lets pass, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from fleet.audit import check

numbers = count(1)
serials = count(1)


def event(kind: str, name: str = "i", **fields: Any) -> dict[str, Any]:
    return {"id": next(numbers), "event_type": kind, "resource_name": name, "fields": fields}


def joined(name: str = "i", token: str = "t") -> dict[str, Any]:
    return event("instance.joined", name, token=token)


def given(generation: int, name: str = "i", *, again: bool = False, **more: Any) -> dict[str, Any]:
    kind = "user.cert.reissued" if again else "user.cert.issued"
    fields = {"generation": generation, "output": "files", "serial": next(serials), **more}
    return event(kind, name, **fields)


def mismatch(name: str = "i") -> dict[str, Any]:
    return event("generation_mismatch", name)


def good() -> Iterator[list[dict[str, Any]]]:
    yield [joined(), given(1), given(1, again=True), given(2), given(3), given(3, again=True)]
    yield [joined(), given(1), given(1, output="agent"), given(2), given(2, output="agent")]
    yield [joined(), given(1), mismatch(), joined("j", "u"), given(1, "j")]
    yield [joined(), given(1), mismatch(), event("instance.key_kept"), given(2)]
    yield [joined(), given(1), event("generation_adopted"), given(7), given(8)]
    yield [joined(), joined("j", "u"), given(1, "j"), given(1), given(2), given(2, "j")]


@pytest.mark.parametrize("events", list(good()))
def test_what_the_protocol_allows_passes(events: list[dict[str, Any]]) -> None:
    assert check(events, stolen=["i"]).broken == []


def bad() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "(a) j was locked", [joined("j"), given(1, "j"), mismatch("j")]
    yield "(b) i was given generation 2 after its lock", [joined(), given(1), mismatch(), given(2)]
    yield "(b) i was given generation 1 after", [joined(), given(1), mismatch(), given(1, again=True)]
    yield "(c) i was given generation 2 twice", [joined(), given(1), given(2), given(2)]
    yield "(c) i went from generation 1 to 3", [joined(), given(1), given(3)]
    yield "(c) i went from generation 3 to 2", [joined(), given(1), given(2), given(3), given(2)]
    yield "(c) i was given generation 1 again", [joined(), given(1), given(2), given(1, again=True)]
    yield "(c) serial 5 was issued twice", [joined(), given(1, serial=5), given(2, serial=5)]
    yield "(c) t admitted 2 instances", [joined(), joined("j")]


@pytest.mark.parametrize(("said", "events"), list(bad()))
def test_what_breaks_a_promise_is_told(said: str, events: list[dict[str, Any]]) -> None:
    (line,) = check(events, stolen=["i"]).broken
    assert said in line


def test_order_is_that_of_the_numbers_and_uses_may_be_more() -> None:
    events = [joined(), joined("j"), given(1), given(2)]
    assert check(events[::-1], uses={"t": 2}).broken == []
