"""``limits:`` of the server's configuration: how much of what is let in."""

from __future__ import annotations

from mezite.config.reading import Section
from mezite.core.admission import Limits

_KEYS = {
    "joins_per_second": "joins",
    "joins_per_second_of_address": "joins_of_address",
    "failures_per_second": "failures",
    "failures_per_second_of_address": "failures_of_address",
    "renewals_per_second_of_instance": "renewals_of_instance",
    "waiting": "waiting",
}
_MOST = 1_000_000


def limits_from(section: Section) -> Limits:
    """Whole numbers; what is not named is as :class:`Limits` has it."""
    section.known(tuple(_KEYS))
    default = Limits()
    named = {
        field: section.number(key, 2 if key == "waiting" else 1, _MOST, int(getattr(default, field)))
        for key, field in _KEYS.items()
    }
    return Limits(**named)
