"""Where an identity goes: every place of every output, each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from mezite.errors import MeziteError
from mezite.identity.outputs import Outputs
from mezite.identity.records import Held


class Place(Protocol):
    """Shows one identity; a :class:`~mezite.identity.destination.Destination` is one."""

    def check(self) -> None:
        """Returns when an identity could be shown now; raises as :meth:`publish` does."""

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        """*outputs* are what is seen from now on; False when they were already."""

    def is_there(self) -> bool:
        """Whether what was published can still be found; a glance, not a check of it."""

    def tidy(self, now: timedelta) -> None:
        """What was replaced long before *now* is gone."""


class Outlets:
    """The places of each output, all of them served by one renewal.

    *places* maps an output's name to them; those of one output are told in order.
    """

    def __init__(self, places: Mapping[str, Sequence[Place]]) -> None:
        self._places = {name: tuple(of_one) for name, of_one in places.items()}
        self.served: tuple[str, ...] = ()
        """The outputs whose every place has what was published last."""

    def check(self) -> None:
        for place in self._all():
            place.check()

    def publish(self, held: Held, now: timedelta) -> None:
        """Every place that can has *held*, whatever the others can; raises as the first that could not.

        An output that *held* has no key for (it is new) keeps what it has until the next renewal.
        """
        first = None
        self.served = ()
        for name, places in self._places.items():
            if not held.has_output(name):
                continue
            outputs, failed = Outputs.from_held(held, name), None
            for place in places:
                try:
                    place.publish(outputs, now)
                except MeziteError as error:
                    failed = failed or error
            if failed is None:
                self.served = (*self.served, name)
            first = first or failed
        if first is not None:
            raise first

    def removed(self) -> tuple[str, ...]:
        """The outputs that are served and of which something is there no more."""
        return tuple(
            name for name in self.served if not all(place.is_there() for place in self._places[name])
        )

    def tidy(self, now: timedelta) -> None:
        for place in self._all():
            place.tidy(now)

    def _all(self) -> Iterator[Place]:
        for places in self._places.values():
            yield from places
