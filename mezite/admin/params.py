"""The parameters of a request, strictly read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mezite.core.audit import plain
from mezite.core.duration import parse_duration
from mezite.errors import InvalidInput, did_you_mean

_MAX_TEXT = 4096
_MAX_ITEMS = 1000


class Params:
    """What a method takes, by name: *known* are all its names, a required one is
    asked for without a default.  Faults are :class:`InvalidInput` with the name."""

    def __init__(self, values: Mapping[str, Any], *known: str) -> None:
        for name in values:
            if name not in known:
                hint = did_you_mean(name, known, "known")
                raise InvalidInput(f"unknown parameter; {hint}", plain(name, 64))
        self._values = values

    def _get(self, name: str) -> Any:
        return self._values.get(name)

    def has(self, name: str) -> bool:
        """Whether it is given, be it empty."""
        return self._get(name) is not None

    def text(self, name: str) -> str:
        value = self.optional_text(name)
        if value is None:
            raise InvalidInput("missing", name)
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or "\0" in value:
            raise InvalidInput(f"expected a text of 1 to {_MAX_TEXT} characters", name)
        return value

    def moment(self, name: str) -> datetime | None:
        """A time with its zone, as in 2026-03-24T14:00:00Z."""
        text = self.optional_text(name)
        if text is None:
            return None
        try:
            found = datetime.fromisoformat(text)
            if found.tzinfo is not None:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):  # the latter where its zone leads out of the calendar
            pass
        raise InvalidInput(f"{plain(text, 40)!r} is not a time such as 2026-03-24T14:00:00Z", name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Also none at all."""
        value = self._get(name)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) > _MAX_ITEMS
            or not all(isinstance(item, str) and 0 < len(item) <= _MAX_TEXT for item in value)
        ):
            raise InvalidInput(f"expected a list of at most {_MAX_ITEMS} texts", name)
        return tuple(value)

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(f"expected an integer from {least} to {most}", name)
        return value

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidInput("expected true or false", name)
        return value

    def duration(self, name: str) -> timedelta | None:
        value = self._get(name)
        if value is None:
            return None
        try:
            return parse_duration(value)
        except InvalidInput as error:
            raise InvalidInput(str(error), name) from None

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.text(name)
        if value not in choices:
            raise InvalidInput(f"expected one of {', '.join(choices)}", name)
        return value

    def document(self, name: str) -> object:
        """Any JSON value but null; whoever gets it reads it strictly."""
        value = self._get(name)
        if value is None:
            raise InvalidInput("missing", name)
        return value
