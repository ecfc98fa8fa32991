"""What is told of that which somebody can cause as often as he likes: the first few of a minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

MAX_CAUSES = 1000
"""That are told apart within a minute; all others count as one."""
_OTHERS = object()


class Sample:
    """The first *few* of each minute and cause; *seconds* is a clock."""

    def __init__(self, few: int, seconds: Callable[[], float]) -> None:
        self._few = few
        self._seconds = seconds
        self._since: float | None = None
        self._counts: Counter[Hashable] = Counter()
        self._left_out = 0

    def is_told(self, cause: Hashable = None) -> bool:
        """Counts one more."""
        now = self._seconds()
        if self._since is None or not 0 <= now - self._since < 60:
            self._since = now
            self._counts.clear()
        if cause not in self._counts and len(self._counts) >= MAX_CAUSES:
            cause = _OTHERS
        self._counts[cause] += 1
        is_told = self._counts[cause] <= self._few
        self._left_out += not is_told
        return is_told

    def left_out(self) -> str:
        """Behind what is told: how many were not, since this was asked last."""
        count, self._left_out = self._left_out, 0
        return f" ({count} more before this one)" if count else ""
