"""Places that many want: nobody gets more of them while he holds as many as are free.

One alone comes to a half of them, and two that take in turns to a third each; who takes all
that he may leaves as many again to those who come after him.  So no share has to be fixed
for a crowd that nobody knows beforehand.
"""

from __future__ import annotations


class Shares:
    """So many *places*, and who holds them."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._held: dict[str, int] = {}

    def has_room(self, owner: str, count: int = 1) -> bool:
        """Whether *owner* may take *count* more."""
        return self._free >= count and self._held.get(owner, 0) < self._free

    def take(self, owner: str, count: int = 1) -> None:
        """Whether there is room is not asked again."""
        self._free -= count
        self._held[owner] = self._held.get(owner, 0) + count

    def give_back(self, owner: str, count: int = 1) -> None:
        self._free += count
        left = self._held[owner] - count
        if left:
            self._held[owner] = left
        else:
            del self._held[owner]
