"""What the daemon's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Auth


@pytest.fixture
def auth() -> Iterator[Auth]:
    auth = Auth()
    yield auth
    auth.close()
