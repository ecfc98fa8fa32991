"""Durations as people write them: ``45s``, ``30m``, ``1h30m``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta

from mezite.errors import InvalidInput

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,7})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?", re.ASCII)
_FORM = "write a duration such as 45s, 30m, 1h30m or 7d"


def parse_duration(text: object) -> timedelta:
    """The positive duration that *text* names, in whole seconds.

    Raises :class:`InvalidInput` for anything else: a bare number, zero, a
    negative duration, an unknown unit, units out of order.
    """
    match = _PATTERN.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        shown = repr(text) if len(repr(text)) <= 40 else repr(text)[:37] + "..."
        raise InvalidInput(f"{shown} is not a duration; {_FORM}")
    amounts = (int(group or 0) for group in match.groups())
    seconds = sum(amount * unit for amount, unit in zip(amounts, _UNITS.values(), strict=True))
    if seconds == 0:
        raise InvalidInput(f"{text!r} is no time at all; {_FORM}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """*duration* as :func:`parse_duration` reads it, whole seconds, ``0s`` for none."""
    rest = max(0, int(duration.total_seconds()))
    parts = []
    for unit, seconds in _UNITS.items():
        amount, rest = divmod(rest, seconds)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
