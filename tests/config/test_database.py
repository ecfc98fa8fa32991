"""``database:`` as libpq gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mezite.config.database import DatabaseConfig
from mezite.config.reading import Section
from mezite.config.server import ServerConfig

DEFAULTS = {"user": "mezite", "dbname": "mezite"}


def read(values: dict[str, Any]) -> DatabaseConfig:
    section = Section.from_value({"driver": "postgres", **values}, "test", "database")
    return DatabaseConfig.from_section(section)


def test_sqlite_is_the_default_and_takes_nothing() -> None:
    section = Section.from_value({}, "test", "database")
    assert DatabaseConfig.from_section(section) == DatabaseConfig("sqlite", {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, DEFAULTS),
        ({"host": ["a", "b"], "port": 5433}, {"host": "a,b", "port": "5433", **DEFAULTS}),
        ({"host": "a, b", "port": "1,2"}, {"host": "a,b", "port": "1,2", **DEFAULTS}),
        (
            {"host": "a", "user": "u", "password": "p w", "name": "n", "sslmode": "verify-full"},
            {"host": "a", "user": "u", "password": "p w", "dbname": "n", "sslmode": "verify-full"},
        ),
    ],
)
def test_keys_become_libpqs(values: dict[str, Any], expected: dict[str, str]) -> None:
    assert dict(read(values).params) == expected


def test_a_password_may_lie_in_a_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    found = read({"password_file": str(file)})
    assert found.params["password"] == "s3cret"
    assert "s3cret" not in repr(found)


def test_the_environment_sets_it_too() -> None:
    environ = {"HOME": "/", "MEZITE_DATABASE_DRIVER": "postgres", "MEZITE_DATABASE_PASSWORD": "s3cret"}
    config = ServerConfig.load(None, environ, 1000)
    assert (config.database.driver, config.database.params["password"]) == ("postgres", "s3cret")
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "/run/postgresql"}, False),
        ({"host": "db.example.com"}, True),
        ({"host": ["127.0.0.1", "db"], "sslmode": "require"}, True),
        ({"host": "db.example.com", "sslmode": "verify-full"}, False),
    ],
)
def test_a_database_that_nothing_proves_is_known(values: dict[str, Any], expected: bool) -> None:
    assert read(values).is_unproven is expected
