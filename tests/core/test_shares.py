"""Nobody takes the places that others need."""

from __future__ import annotations

import pytest

from mezite.core.shares import Shares


def filled(shares: Shares, owner: str, count: int = 1) -> int:
    """How many *owner* gets who takes all that he may have."""
    got = 0
    while shares.has_room(owner, count):
        shares.take(owner, count)
        got += count
    return got


def test_one_alone_gets_a_half() -> None:
    assert filled(Shares(500), "ci") == 250


def test_there_is_always_some_room_for_who_comes_next() -> None:
    """Of five that take all they can, each leaves as many again."""
    shares = Shares(1000)
    got = [filled(shares, f"greedy-{number}") for number in range(5)]
    assert got == [500, 250, 125, 63, 31]
    assert filled(shares, "late") == 16


def test_those_who_take_in_turns_get_the_same() -> None:
    shares = Shares(400)
    held = {"a": 0, "b": 0, "c": 0}
    while any(shares.has_room(owner) for owner in held):
        for owner in held:
            if shares.has_room(owner):
                shares.take(owner)
                held[owner] += 1
    assert held == {"a": 100, "b": 100, "c": 100}


def test_places_come_back() -> None:
    shares = Shares(8)
    assert filled(shares, "ci") == 4
    for _ in range(4):
        shares.give_back("ci")
    assert filled(shares, "other") == 4
    assert shares._held == {"other": 4}


@pytest.mark.parametrize(("places", "got"), [(1, 1), (2, 1), (3, 2), (0, 0)])
def test_the_smallest_have_room_for_one(places: int, got: int) -> None:
    assert filled(Shares(places), "ci") == got


def test_more_than_are_free_are_never_taken_at_once() -> None:
    assert filled(Shares(2), "ci", 3) == 0
    assert filled(Shares(12), "ci", 3) == 6
