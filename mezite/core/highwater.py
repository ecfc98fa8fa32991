"""How far a database has come, by numbers that only rise."""

from __future__ import annotations

from msgspec import Struct


class HighWater(Struct, frozen=True):
    """Every commit that anybody was told of raises one of these."""

    events: int
    """The number of the newest audit event."""
    serials: int
    """No certificate serial from here on was reserved."""
