"""A site whose server and machines are under the fault library; skipped loudly without a C compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.faults import shim
from tests.system.faults.proxy import Plan, Proxy
from tests.system.faults.rig import Site


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shim.COMPILER is None:
        pytest.skip("needs a C compiler (Debian: gcc libc6-dev): crashes and clocks are NOT tested")
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Site]:
    """One for all tests of a module: each takes machines of its own names."""
    made = Site(tmp_path_factory.mktemp("s"), library=library)
    try:
        made.start()
        made.add_role()
        yield made
    finally:
        made.close()


@pytest.fixture
def own_site(tmp_path: Path, library: Path) -> Iterator[Site]:
    """One for a test that does harm to the server."""
    made = Site(tmp_path, library=library)
    try:
        made.start()
        made.add_role()
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(site: Site) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(*plans: Plan | None) -> Proxy:
        made.append(Proxy(site.port))
        made[-1].plan(*plans)
        return made[-1]

    yield make
    for one in made:
        one.close()
