"""Where certificate serials start, so that none is ever issued twice."""

from __future__ import annotations

from datetime import datetime

_PER_SECOND = 1 << 20


def serial_floor(now: datetime) -> int:
    """The least serial that may be given out by a database opened at *now*.

    It rises with time, and faster than serials are given out (a million a
    second): a database that was put back from a backup starts above all that was
    issued after the backup was made, without knowing how much that was.  Below
    2^53 until the year 2242, so that every JSON reader keeps it whole.
    """
    return int(now.timestamp()) * _PER_SECOND
