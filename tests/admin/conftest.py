"""Fixtures for the operator edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes_admin import Admin
from tests.harness import Auth


@pytest.fixture
def auth() -> Iterator[Auth]:
    server = Auth()
    yield server
    server.close()


@pytest.fixture
def admin(auth: Auth) -> Admin:
    return Admin(auth)
