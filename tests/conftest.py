"""What tests of every directory may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[object]:
    """One PostgreSQL for the whole run; skipped loudly where there is none."""
    pytest.importorskip("psycopg", reason="needs psycopg (pip install 'mezite[postgres]')")
    from tests.postgres import MISSING, Postgres, binaries

    if binaries() is None:
        pytest.skip(MISSING)
    server = Postgres()
    yield server
    server.close()


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Keys and certificates are made anew in every run: they name no case, so that
    all runs collect the same names (pytest-xdist compares them)."""
    if isinstance(val, bytes | dict) or (isinstance(val, str) and len(val) > 60):
        return argname
    return None
