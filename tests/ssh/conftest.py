"""Nothing a peer does may leave an error or a traceback in the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogLevel, formatEvent, globalLogPublisher


@pytest.fixture(autouse=True)
def problems() -> Iterator[list[str]]:
    """What was logged as an error; a test that wants some empties the list."""
    found: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.error:
            found.append(f"{formatEvent(event)} {event.get('log_failure', '')}")

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)
    assert found == []
