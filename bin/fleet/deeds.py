"""What the soaks share: deeds for later, lists in pages, and what a machine says and does."""

from __future__ import annotations

import heapq
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.system.faults.rig import Machine

PAGE = 500


class Later:
    """Deeds that are due after a while; any thread may add one."""

    def __init__(self) -> None:
        self._deeds: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._deeds)

    def add(self, seconds: float, what: Callable[[], None]) -> None:
        with self._lock:
            heapq.heappush(self._deeds, (time.monotonic() + seconds, next(self._sequence), what))

    def run(self, *, all_of_it: bool = False) -> None:
        """Those that are due, in order, or *all_of_it*."""
        while True:
            with self._lock:
                if not self._deeds or (self._deeds[0][0] > time.monotonic() and not all_of_it):
                    return
                _, _, what = heapq.heappop(self._deeds)
            what()


def pages(call: Callable[..., Any], method: str, name: str, **params: Any) -> Iterator[dict[str, Any]]:
    """All that a list of the operator socket holds; *call* takes *method* and its parameters."""
    while True:
        page = call(method, limit=PAGE, **params)
        yield from page[name]
        if page["next"] is None:
            return
        params["after"] = page["next"]


def has_gone_on(machine: Machine, instance: str, generation: int) -> bool:
    """It has renewed since it was there, or has joined anew."""
    return machine.instance != instance or machine.generation > generation


def last_words(machine: Machine) -> str:
    """The reason in the last line of its log, or the beginning of that line."""
    last = (machine.log().strip().splitlines() or [""])[-1]
    found = re.search(r"\(([a-z_]+)\)$", last)
    return found[1] if found else last[:100]
