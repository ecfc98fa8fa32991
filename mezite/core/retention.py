"""How long what is over is kept: later than it could still come back.

What is derived here is derived from the limits of model.py, so that a change
there moves it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from mezite.core.model import MAX_CERTIFICATE_TTL, MAX_RENEWABLE_FOR

KEPT_REMOVED = MAX_RENEWABLE_FOR + MAX_CERTIFICATE_TTL
"""After an instance's removal.  A removed instance is refused for ever, known
or not; but as long as its machine may hold itself for renewable it is told
that it was removed, and no certificate of it is good any more afterwards."""

KEPT_IDLE = 2 * MAX_RENEWABLE_FOR
"""After an instance's last renewal: whatever its bot allows, an operator has had
as long again to recover it.  Its lock, a final one too, goes with it: an
instance that is not known is refused."""

KEPT_ENDED = MAX_RENEWABLE_FOR
"""After the end of a lock, and of a token's life.  A token lives no longer than
this, so every token has ended when an instance that it made is forgotten, and
with it the record of who was admitted by it."""


class Horizon(Struct, frozen=True):
    """What ended before these times is forgotten."""

    removed: datetime
    renewed: datetime
    ended: datetime
    event: datetime | None
    """``None``: the audit log is kept whole."""


def horizon(now: datetime, keep_events: timedelta | None) -> Horizon:
    return Horizon(
        removed=now - KEPT_REMOVED,
        renewed=now - KEPT_IDLE,
        ended=now - KEPT_ENDED,
        event=None if keep_events is None else now - keep_events,
    )
