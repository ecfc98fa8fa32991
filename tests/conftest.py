"""What tests of every directory may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair, and what else it does.
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("here")

TEMPORARY = "MEZITE_TESTS_TEMPORARY"
"""Set for the helpers of pytest-xdist: their temporary directories are below it."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Helpers get short temporary directories: a unix socket's path has at most 107 bytes."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.option.basetemp = str(Path(os.environ[TEMPORARY]) / worker["workerid"])
    elif getattr(config.option, "numprocesses", None):
        os.environ[TEMPORARY] = tempfile.mkdtemp(prefix="mz-")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What failed is kept to be looked at."""
    if not hasattr(session.config, "workerinput") and TEMPORARY in os.environ and exitstatus == 0:
        shutil.rmtree(os.environ[TEMPORARY], ignore_errors=True)


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
