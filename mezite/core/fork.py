"""What was seen when two holders of one lineage met, and what it looks like.

Keys and generations are proven.  Host names and boot ids are what machines say
of themselves, for the operator's eyes: a thief can say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from msgspec import Struct


class Likeness(Enum):
    """Stable codes; ``text`` is for a person."""

    SAME_BOOT = "same_boot", (
        "looks like one machine: a second daemon, or a directory that was put back from a copy"
    )
    SAME_HOST = "same_host", (
        "looks like the same machine restored from a backup or snapshot, or a clone of it"
    )
    OTHER_HOST = "other_host", "looks like a copy on a foreign host"
    UNKNOWN = "unknown", "the machines do not say who they are"

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text


class Holder(Struct, frozen=True):
    """One side of a fork."""

    generation: int
    lineage_key: str
    """Fingerprint of that generation's key, which this side holds."""
    address: str
    host: str
    boot_id: str
    at: datetime
    """When it was given that generation, or showed it."""

    def __str__(self) -> str:
        named = self.host or "unnamed host"
        booted = f", boot {self.boot_id}" if self.boot_id else ""
        return f"{named} at {self.address or 'no address'}, {self.at:%Y-%m-%dT%H:%M:%SZ}{booted}"


class Fork(Struct, frozen=True):
    """``current`` was given the latest generation, ``other`` then proved that it
    holds one from before.  Either may be the thief."""

    current: Holder
    other: Holder

    @property
    def likeness(self) -> Likeness:
        one, two = self.current, self.other
        if not one.host or not two.host:
            return Likeness.UNKNOWN
        if one.host != two.host:
            return Likeness.OTHER_HOST
        return Likeness.SAME_BOOT if one.boot_id and one.boot_id == two.boot_id else Likeness.SAME_HOST

    def __str__(self) -> str:
        return (
            f"generation {self.current.generation} went to {self.current.lineage_key} ({self.current}); "
            f"generation {self.other.generation} was then presented by {self.other.lineage_key} "
            f"({self.other}); {self.likeness.text}"
        )

    def to_document(self) -> dict[str, Any]:
        """The form that :meth:`from_document` reads back."""
        return {"current": _holder_document(self.current), "other": _holder_document(self.other)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Fork:
        """``KeyError``, ``TypeError`` or ``ValueError`` for what :meth:`to_document` did not make."""
        return cls(_holder(document["current"]), _holder(document["other"]))


def _holder_document(holder: Holder) -> dict[str, Any]:
    return {
        "generation": holder.generation,
        "lineage_key": holder.lineage_key,
        "address": holder.address,
        "host": holder.host,
        "boot_id": holder.boot_id,
        "at": f"{holder.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _holder(document: Mapping[str, Any]) -> Holder:
    return Holder(
        generation=int(document["generation"]),
        lineage_key=str(document["lineage_key"]),
        address=str(document["address"]),
        host=str(document["host"]),
        boot_id=str(document["boot_id"]),
        at=datetime.strptime(document["at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
    )
