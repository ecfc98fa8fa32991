"""System tests: real processes on loopback, marked so, skipped loudly without ssh."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)
            if shutil.which("ssh") is None:
                item.add_marker(pytest.mark.skip(reason="needs ssh (Debian: openssh-client)"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked ``both_databases`` run on PostgreSQL, too."""
    if "cluster" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        on_postgres = pytest.param("postgres", marks=pytest.mark.postgres)
        metafunc.parametrize("cluster", ["sqlite", on_postgres], indirect=True)


@pytest.fixture
def database(postgres_server: Any) -> Iterator[dict[str, Any]]:
    """``database:`` of the configuration: an empty one, on PostgreSQL."""
    with postgres_server.new_database() as config:
        yield config


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running auth server with its node; ``pytest.mark.config(**changes)`` sets more."""
    marker = request.node.get_closest_marker("config")
    changes: dict[str, Any] = dict(marker.kwargs) if marker else {}
    if getattr(request, "param", "sqlite") == "postgres":
        changes["database"] = request.getfixturevalue("database")
    # Unix socket paths are short, temporary directories are not.
    made = Cluster(tmp_path, changes)
    made.start()
    yield made
    made.close()
