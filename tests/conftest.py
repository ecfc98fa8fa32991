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
