"""The figures of a soak: as a person reads them, and whether they are what they must be."""

from __future__ import annotations

from typing import Any

from fleet.logins import THROUGH_CONFIG


def is_good(figures: dict[str, Any]) -> bool:
    return (
        figures["spurious locks"] == figures["identities lost"] == 0
        and figures["logins failed because of rotation"][THROUGH_CONFIG] == 0
        and figures["thefts found"] == figures["thefts planted"]
        and figures["restored database found out by the server"] == 1
    )


def show(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for kind, count in value.items():
                print(f"  {kind:58}{count:>8}")
        elif isinstance(value, list):
            for line in value:
                print(f"  {line}")
        else:
            print(f"{name:60}{value:>8}")
