"""What a renewal means, by table and by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.core.generation import (
    Advance,
    ForkSuspected,
    Judgement,
    Presented,
    Reissue,
    Stored,
    judge,
    judge_left,
    judge_repeated_join,
)

STORED = Stored(5, "K5", "K4", b"keys-of-5")


@pytest.mark.parametrize(
    ("presented", "expected"),
    [
        # The holder of the last generation.
        (Presented(5, "K5", "new", b"x"), Advance(6)),
        # Its reply was lost.
        (Presented(4, "K4", "K5", b"keys-of-5"), Reissue(5)),
        # The same key of 4, but other keys wanted.
        (Presented(4, "K4", "new", b"keys-of-5"), ForkSuspected(5, 4, "K5", "K4")),
        (Presented(4, "K4", "K5", b"others"), ForkSuspected(5, 4, "K5", "K4")),
        # Another key for a generation given out.
        (Presented(5, "X5", "new", b"x"), ForkSuspected(5, 5, "K5", "X5")),
        (Presented(4, "X4", "K5", b"keys-of-5"), ForkSuspected(5, 4, "K5", "X4")),
        # Long past.
        (Presented(1, "K1", "K2", b"x"), ForkSuspected(5, 1, "K5", "K1")),
        # Ahead of a restored database.
        (Presented(6, "K6", "new", b"x"), Advance(7, adopted=True)),
        (Presented(900, "K900", "new", b"x"), Advance(901, adopted=True)),
    ],
)
def test_judge(presented: Presented, expected: Judgement) -> None:
    assert judge(STORED, presented) == expected


@pytest.mark.parametrize(
    ("left_with", "presented", "expected"),
    [
        (5, Presented(5, "K5", "new", b"x"), None),
        # It left with 5 in hand, so it has had the reply that this one asks for.
        (5, Presented(4, "K4", "K5", b"keys-of-5"), ForkSuspected(5, 4, "K5", "K4")),
        (5, Presented(4, "K4", "new", b"x"), ForkSuspected(5, 4, "K5", "K4")),
        (5, Presented(5, "X5", "new", b"x"), ForkSuspected(5, 5, "K5", "X5")),
        # The database was put back, and one side is ahead of it, or both are.
        (5, Presented(6, "K6", "new", b"x"), ForkSuspected(5, 6, "K5", "K6")),
        (8, Presented(7, "K7", "K8", b"x"), ForkSuspected(5, 7, "K5", "K7")),
        (8, Presented(5, "K5", "new", b"x"), ForkSuspected(5, 5, "K5", "K5")),
        (8, Presented(8, "K8", "new", b"x"), None),
        (None, Presented(4, "K4", "new", b"x"), None),
    ],
)
def test_judge_left(left_with: int | None, presented: Presented, expected: ForkSuspected | None) -> None:
    assert judge_left(STORED, left_with, presented) == expected


PUT_BACK = Stored(4, "K4", "K5", b"")
"""An operator has decided for K4, against K5."""


@pytest.mark.parametrize(
    ("presented", "expected"),
    [
        (Presented(4, "K4", "new", b"x"), Advance(5)),
        (Presented(5, "K5", "new", b"x"), ForkSuspected(4, 5, "K4", "K5")),
        (Presented(3, "K3", "K4", b"x"), ForkSuspected(4, 3, "K4", "K3")),
        # What the kept machine became, after a restored backup of this moment.
        (Presented(5, "X5", "new", b"x"), Advance(6, adopted=True)),
    ],
)
def test_judge_after_an_operators_decision(presented: Presented, expected: Judgement) -> None:
    assert judge(PUT_BACK, presented) == expected


@pytest.mark.parametrize(
    ("stored", "key", "keys", "expected"),
    [
        (Stored(1, "K1", "", b"h"), "K1", b"h", Reissue(1)),
        (Stored(1, "K1", "", b"h"), "K1", b"other", ForkSuspected(1, 1, "K1", "K1")),
        (Stored(2, "K2", "K1", b"h"), "K1", b"h", ForkSuspected(2, 1, "K2", "K1")),
        (Stored(9, "K9", "K8", b"h"), "K1", b"h", ForkSuspected(9, 1, "K9", "K1")),
    ],
)
def test_judge_repeated_join(stored: Stored, key: str, keys: bytes, expected: Judgement) -> None:
    assert judge_repeated_join(stored, key, keys) == expected


names = st.sampled_from(["A", "B", "C", "D"])
hashes = st.sampled_from([b"1", b"2"])
generations = st.integers(1, 5)


@given(
    st.builds(Stored, generations, names, names, hashes),
    st.builds(Presented, generations, names, names, hashes),
)
def test_only_the_holder_of_the_last_generation_advances_it(stored: Stored, presented: Presented) -> None:
    """Whoever advances held the stored key, or one that the server had forgotten;
    a reissue goes to exactly the keys that the last generation was given to."""
    outcome = judge(stored, presented)
    if isinstance(outcome, Advance):
        assert outcome.to_generation == presented.generation + 1
        assert outcome.to_generation > stored.generation
        assert outcome.adopted == (presented.generation > stored.generation)
        assert outcome.adopted or presented.lineage_key == stored.lineage_key
    elif isinstance(outcome, Reissue):
        assert outcome.generation == stored.generation
        assert (presented.new_key, presented.request_hash) == (stored.lineage_key, stored.request_hash)
        assert presented.lineage_key == stored.previous_key
    else:
        assert presented.generation <= stored.generation
