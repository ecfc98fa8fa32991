"""How a crowd was served after its server was back: how fast, in which order, and at what loss."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import correlation, median
from typing import Any

from fleet.crowd import OK, SILENCE, Question, Record

LATER = "unavailable"
"""The refusal that names a time to come again."""
AWAY = "unreachable"
ROUNDING = 0.01
"""Seconds that a time may lose on its way."""
_HARMLESS = frozenset({OK, LATER, AWAY, SILENCE})


@dataclass(frozen=True, slots=True)
class Wait:
    """From a machine's first question to the server that was back until its new certificate."""

    began: float
    ended: float
    told: int
    """Times it was told to come again."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def figures_of(records: Sequence[Record], back: float) -> dict[str, Any]:
    """*back* is when the server was started again, by the crowd's clock."""
    questions = [question for record in records for question in record.questions]
    away = [one for one in questions if one.heard < back]
    late = [one for record in records for one in _lateness(record.questions)]
    waits = sorted(filter(None, (_wait(record, back) for record in records)), key=lambda wait: wait.ended)
    told = Counter(wait.told for wait in waits)
    failed = Counter(one.outcome for one in questions if one.heard >= back)
    return {
        "away, in seconds, from the first that was due": _rounded(back - min(one.asked for one in questions)),
        "questions while it was away": len(away),
        "such questions in a second, at most": _peak([one.asked for one in away]),
        **_pace(waits),
        "told to come again": failed[LATER],
        "machines told once": told[1],
        "machines told twice or more": sum(told.values()) - told[0] - told[1],
        "came before the time that they were told": sum(one < -ROUNDING for one in late),
        "came later than that, the last by s": _rounded(max(late, default=0.0)),
        **_order(waits),
        "answers that nobody waited for": failed[SILENCE],
        "questions without an answer, as it was starting": failed[AWAY],
        "expired identities": sum(record.gaps > 0 for record in records),
        "identities lost": sum(bool(record.trouble) for record in records),
        "not renewed": len(records) - len(waits),
        "other answers": {
            kind: count for kind, count in sorted(Counter(one.outcome for one in questions).items())
            if kind not in _HARMLESS
        },
        "lost": sorted({record.trouble for record in records} - {""}),
    }


def is_served(figures: dict[str, Any]) -> bool:
    """Each was renewed in time, kept to what it was told, and heard nothing but that."""
    none = (
        "expired identities", "identities lost", "not renewed", "came before the time that they were told",
        "other answers",
    )
    return not any(figures[name] for name in none)


def _wait(record: Record, back: float) -> Wait | None:
    """``None`` for one that was not renewed."""
    served = [one for one in record.questions if one.heard >= back and one.outcome != AWAY]
    done = [one.heard for one in served if one.outcome == OK]
    if not done or record.generation != 2:
        return None
    return Wait(served[0].asked, done[0], sum(one.outcome == LATER for one in served))


def _lateness(questions: Sequence[Question]) -> list[float]:
    """How much later than it was told a machine came, each time."""
    return [
        following.asked - (one.heard + one.told)
        for one, following in pairwise(questions) if one.told
    ]


def _pace(waits: Sequence[Wait]) -> dict[str, Any]:
    """*waits* by their ends."""
    if not waits:
        return {}
    ended = [wait.ended for wait in waits]
    began = min(wait.began for wait in waits)
    most = ended[int((len(ended) - 1) * 0.99)]
    return {
        "renewals/s, until 99 of 100 had one": _rounded(0.99 * len(ended) / (most - began)),
        "renewals in a second, at most": _peak(ended),
        "half of them renewed after s": _rounded(ended[len(ended) // 2] - began),
        "99 of 100 renewed after s": _rounded(most - began),
        "all of them renewed after s": _rounded(ended[-1] - began),
    }


def _order(waits: Sequence[Wait]) -> dict[str, Any]:
    """Who waited for how long, and how many that had come later were served before."""
    if not waits:
        return {}
    longest = max(waits, key=lambda wait: wait.seconds)
    served: list[float] = []
    overtaken = []
    for wait in waits:
        overtaken.append(len(served) - bisect_right(served, wait.began))
        insort(served, wait.began)
    sent_away = [wait for wait in waits if wait.told]
    return {
        "served at once, the median within s": _median([wait.seconds for wait in waits if not wait.told]),
        "served when told, the median within s": _median([wait.seconds for wait in sent_away]),
        "the longest waited s": _rounded(longest.seconds),
        "and was told to come again, times": longest.told,
        "later ones served before a machine, median": int(median(overtaken)),
        "later ones served before a machine, at most": max(overtaken),
        "order of coming and of being served, correlation": _correlation(waits),
    }


def _correlation(waits: Sequence[Wait]) -> float:
    """1: each was served in his turn.  *waits* by their ends."""
    if len(waits) < 2:
        return 1.0
    by_beginning = sorted(range(len(waits)), key=lambda index: waits[index].began)
    return round(correlation(by_beginning, range(len(waits))), 3)


def _median(values: Sequence[float]) -> float:
    return _rounded(median(values)) if values else 0.0


def _peak(times: Sequence[float]) -> int:
    return max(Counter(map(int, times)).values(), default=0)


def _rounded(seconds: float) -> float:
    return round(seconds, 2 if seconds < 10 else 1)
