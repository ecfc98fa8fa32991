"""A site whose server and machines are under the fault library; skipped loudly without a C compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.faults import shim
from tests.system.faults.proxy import Plan, Proxy
from tests.system.faults.rig import Launchers, Site


@pytest.fixture(scope="session")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launchers]:
    if shim.COMPILER is None:
        pytest.skip("needs a C compiler (Debian: gcc libc6-dev): crashes and clocks are NOT tested")
    made = Launchers(shim.build(tmp_path_factory.mktemp("shim")))
    yield made
    made.close()


def started(root: Path, launchers: Launchers) -> Iterator[Site]:
    made = Site(root, launchers=launchers)
    try:
        made.start()
        made.add_role()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, launchers: Launchers) -> Iterator[Site]:
    """One for all tests of a module: each takes machines of its own names."""
    yield from started(tmp_path_factory.mktemp("s"), launchers)


@pytest.fixture
def own_site(tmp_path: Path, launchers: Launchers) -> Iterator[Site]:
    """One for a test that does harm to the server."""
    yield from started(tmp_path, launchers)


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
