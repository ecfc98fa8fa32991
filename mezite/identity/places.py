"""Where an identity goes: every place that was asked for, each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from mezite.errors import MeziteError
from mezite.identity.outputs import Outputs


class Place(Protocol):
    """Shows one identity; a :class:`~mezite.identity.destination.Destination` is one."""

    def check(self) -> None:
        """Returns when an identity could be shown now; raises as :meth:`publish` does."""

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        """*outputs* are what is seen from now on; False when they were already."""

    def tidy(self, now: timedelta) -> None:
        """What was replaced long before *now* is gone."""


class Places:
    """Several places, as one."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)

    def check(self) -> None:
        for place in self._places:
            place.check()

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        """Every place that can has them, whatever the others can; raises as the first that could not."""
        changed, first = False, None
        for place in self._places:
            try:
                changed |= place.publish(outputs, now)
            except MeziteError as error:
                first = first or error
        if first is not None:
            raise first
        return changed

    def tidy(self, now: timedelta) -> None:
        for place in self._places:
            place.tidy(now)
