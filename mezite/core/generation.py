"""Which generation of a lineage comes next: stored against presented.

The caller has already proven that the request is signed by the lineage key it
names, and that one of our certificates ties this key to the presented
generation.  Locks, expiry and roles are judged elsewhere; docs/protocol.md has
the whole order.
"""

from __future__ import annotations

from msgspec import Struct


class Stored(Struct, frozen=True):
    """What the server knows of an instance; keys are fingerprints.

    Without a ``request_hash`` an operator has put the lineage back by one
    generation, and ``previous_key`` is the key that he decided against.
    """

    generation: int
    lineage_key: str
    previous_key: str
    request_hash: bytes

    def refuses(self, presented: Presented) -> bool:
        """Whether *presented* is by the key that an operator decided against."""
        return not self.request_hash and presented.lineage_key == self.previous_key


class Presented(Struct, frozen=True):
    """What a request says, and proves with its signature."""

    generation: int
    lineage_key: str
    new_key: str
    request_hash: bytes


class Advance(Struct, frozen=True):
    """The ordinary step, and the adoption of one that the server has forgotten."""

    to_generation: int
    adopted: bool = False


class Reissue(Struct, frozen=True):
    """The reply was lost: nothing advances, the same keys get fresh certificates."""

    generation: int


class ForkSuspected(Struct, frozen=True):
    """Two holders of one lineage, or an old message: ask for a fresh proof."""

    stored_generation: int
    presented_generation: int
    stored_key: str
    presented_key: str


Judgement = Advance | Reissue | ForkSuspected


def judge(stored: Stored, presented: Presented) -> Judgement:
    """What a proven renewal request means.

    - The stored generation, by its key: advance.
    - The generation before it, by its key, asking once more for exactly the
      keys that the stored one was given to: reissue.
    - A generation ahead of ours, proven by our own certificate: the database
      was restored from an older copy; adopt it and advance.  Not so the one key
      that is ahead because an operator put the lineage back.
    - Anything else: a fork is suspected.
    """
    if presented.generation > stored.generation and not stored.refuses(presented):
        return Advance(presented.generation + 1, adopted=True)
    if presented.generation == stored.generation and presented.lineage_key == stored.lineage_key:
        return Advance(stored.generation + 1)
    if (
        presented.generation == stored.generation - 1
        and presented.lineage_key == stored.previous_key
        and presented.new_key == stored.lineage_key
        and presented.request_hash == stored.request_hash
    ):
        return Reissue(stored.generation)
    return ForkSuspected(
        stored.generation, presented.generation, stored.lineage_key, presented.lineage_key
    )


def judge_left(stored: Stored, left_with: int | None, presented: Presented) -> ForkSuspected | None:
    """The same of an instance that has ended itself with the generation *left_with* in
    hand (ahead of the stored one after a restore), if it has: whoever comes from another
    one, be it for a lost reply, is another holder."""
    if left_with is None:
        return None
    if presented.generation == left_with and (
        left_with != stored.generation or presented.lineage_key == stored.lineage_key
    ):
        return None
    return ForkSuspected(
        stored.generation, presented.generation, stored.lineage_key, presented.lineage_key
    )


def judge_repeated_join(stored: Stored, lineage_key: str, request_hash: bytes) -> Judgement:
    """What a join repeated by the key that redeemed the token means.

    At generation 1 for the same keys: the reply was lost.  Later it is a
    renewal from generation 1 that asks for nothing new, which only a copy of
    an old state directory can send: a fork is suspected.
    """
    if stored.generation == 1 and (stored.lineage_key, stored.request_hash) == (lineage_key, request_hash):
        return Reissue(1)
    return ForkSuspected(stored.generation, 1, stored.lineage_key, lineage_key)
