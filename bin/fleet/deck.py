"""The faults that servers on one database meet, and an order of chance in which each of them comes."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence

SEVERED = "database: connections severed"
SERVER_FAULTS = {
    "server: kill -9": signal.SIGKILL, "server: SIGTERM": signal.SIGTERM,
    "server: SIGSTOP for 1 to 8 s": signal.SIGSTOP,
}
DATABASE_FAULTS = {
    SEVERED: None, "database: kill -9": signal.SIGKILL, "database: immediate": signal.SIGQUIT,
    "database: fast": signal.SIGINT,
}
DAEMON_FAULT = "daemon: kill -9"
KINDS = frozenset({*SERVER_FAULTS, *DATABASE_FAULTS, DAEMON_FAULT})
"""Each of which a soak has done once before it ends."""


class Deck:
    """Cards in an order of *chance*, shuffled again after the last: none waits for longer than two rounds."""

    def __init__(self, chance: random.Random, cards: Sequence[str]) -> None:
        self._chance, self._cards = chance, cards
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._chance.sample(self._cards, len(self._cards))
        return self._left.pop()
