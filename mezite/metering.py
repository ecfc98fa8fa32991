"""What a process counts of the requests it answers: cheap to note, plain to pass on, easy to add up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets, seconds; one more bucket holds what took longer."""


OK = "ok"
"""The outcome of a request that was not refused."""


class RequestMeter:
    """Requests by method and outcome, and how long each method took."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """By method and outcome: OK, or the reason of the refusal."""
        self.buckets: dict[str, list[int]] = {}
        """By method: how many took up to each bound and not up to the one before."""
        self.seconds: Counter[str] = Counter()
        """By method: all of them together."""

    def note(self, method: str, outcome: str, seconds: float) -> None:
        self.outcomes[method, outcome] += 1
        buckets = self.buckets.get(method)
        if buckets is None:
            buckets = self.buckets[method] = [0] * (len(BOUNDS_S) + 1)
        buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds[method] += seconds  # type: ignore[assignment]  # a Counter adds floats as well

    def refusals(self) -> Counter[str]:
        """How often each reason was given, whatever the method."""
        found: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            if outcome != OK:
                found[outcome] += count
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "outcomes": [[method, outcome, count] for (method, outcome), count in self.outcomes.items()],
            "buckets": self.buckets,
            "seconds": dict(self.seconds),
        }

    def add(self, other: Mapping[str, Any]) -> None:
        """What another process has counted, as :meth:`as_json` gave it, counts here as well."""
        for method, outcome, count in other.get("outcomes", ()):
            self.outcomes[method, outcome] += count
        for method, counts in other.get("buckets", {}).items():
            mine = self.buckets.setdefault(method, [0] * (len(BOUNDS_S) + 1))
            self.buckets[method] = [one + two for one, two in zip(mine, counts, strict=True)]
        self.seconds.update(other.get("seconds", {}))
