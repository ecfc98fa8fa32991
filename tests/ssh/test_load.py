"""Many clients at once, idle ones, slow ones and refused ones: the node stays small and serves the good ones.

The long form with figures is ``python -m tests.ssh.load``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("asyncssh")

from tests.ssh.load import Load
from tests.ssh.test_openssh import started

GROWTH_MB = 25
pytestmark = pytest.mark.system


def loaded(factory: pytest.TempPathFactory, login_timeout_seconds: int) -> Iterator[Load]:
    for node in started(factory, login_timeout_seconds=login_timeout_seconds, max_logging_in=100):
        made = Load(node)
        made.logins(10)
        yield made


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Of a node that has patience with good clients on a busy machine."""
    yield from loaded(tmp_path_factory, 60)


@pytest.fixture
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    yield from loaded(tmp_path_factory, 8)


@pytest.fixture
def memory(load: Load) -> Iterator[float]:
    """Of the node before the test; it may not have grown much after it."""
    before = load.memory_mb()
    yield before
    assert load.memory_mb() - before < GROWTH_MB


@pytest.mark.usefixtures("memory")
def test_many_logins_at_once(load: Load) -> None:
    assert len(load.logins(50)) == 50


@pytest.mark.usefixtures("memory")
def test_half_open_connections_keep_nobody_out(load: Load) -> None:
    """More than may be logging in: the oldest go, and a good client is served among them."""
    with load.half_open(300):
        assert len(load.logins(5)) == 5


def test_slow_clients_keep_nobody_out_and_are_ended(impatient: Load) -> None:
    """By the time that a login may take, however steadily they send."""
    before = impatient.memory_mb()
    times, _, ended = impatient.slow_clients(60, seconds=9)
    assert len(times) == 5
    assert ended == 60
    assert impatient.memory_mb() - before < GROWTH_MB


@pytest.mark.usefixtures("memory")
def test_refused_logins_cost_no_memory(load: Load) -> None:
    assert load.refused(400) >= 400
    assert len(load.logins(1)) == 1
