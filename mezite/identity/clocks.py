"""The clocks of the daemon, and its chance."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from mezite.identity.events import Moment


class Clocks(Struct, frozen=True):
    """Where time and chance come from."""

    monotonic: Callable[[], float]
    """Seconds."""
    wall: Callable[[], float]
    """Seconds since the epoch."""
    chance: Callable[[], float]

    def moment(self) -> Moment:
        return Moment(
            timedelta(seconds=self.monotonic()),
            datetime.fromtimestamp(self.wall(), UTC),
            self.chance(),
        )

    @classmethod
    def of_system(cls) -> Clocks:
        return cls(time.monotonic, time.time, random.random)
