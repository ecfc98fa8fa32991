"""Fixtures for the use cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Auth, Machine


@pytest.fixture
def auth() -> Iterator[Auth]:
    server = Auth()
    yield server
    server.close()


@pytest.fixture
def machine(auth: Auth) -> Machine:
    """One that has joined, at generation 1."""
    joined = Machine(auth)
    joined.join(auth.add_token(auth.add_bot()))
    return joined
