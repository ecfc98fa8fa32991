"""The figures that a run ends with: as a person or a program reads them, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def finish(figures: Any, *, is_good: bool, as_json: bool, were_shown: bool = False) -> int:
    """Prints *figures*, unless a person has seen them come; the exit code of the run that gave them."""
    if as_json:
        print(json.dumps(figures, indent=1))
    elif not were_shown:
        show(figures)
    return 0 if is_good else 1


def show(figures: Mapping[str, Any]) -> None:
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
