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


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running auth server with its node; ``pytest.mark.config(**changes)`` sets more."""
    marker = request.node.get_closest_marker("config")
    changes: dict[str, Any] = marker.kwargs if marker else {}
    # Unix socket paths are short, temporary directories are not.
    made = Cluster(tmp_path, changes)
    made.start()
    yield made
    made.close()
