"""How often one instance may renew: a daemon gone wrong, or a thief, asks as fast as it can.

Times are seconds of a clock that nobody sets.
"""

from __future__ import annotations

from mezite.core.admission import Bucket

_WAIT_S = 1.0
_KEPT = 10_000
"""Instances, twice; those that have not renewed for the longest time are forgotten together."""


class RenewalRates:
    """One server process's own; nothing of it is kept.

    Any thread may ask: where two do in one moment, one of them may go uncounted.
    """

    __slots__ = ("_older", "_rate", "_recent")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._recent: dict[str, Bucket] = {}
        self._older: dict[str, Bucket] = {}

    def wait(self, instance_id: str, now: float) -> float | None:
        """``None``: it may, and this is counted; else in how many seconds it may ask again."""
        bucket = self._recent.get(instance_id)
        if bucket is None:
            bucket = self._older.get(instance_id) or Bucket(self._rate, now)
            if len(self._recent) >= _KEPT:
                self._older, self._recent = self._recent, {}
            self._recent[instance_id] = bucket
        if bucket.is_empty(now):
            return _WAIT_S
        bucket.take(now)
        return None
