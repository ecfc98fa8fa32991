"""The implementations of ``Storage`` that the contract suite runs against."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from mezite.storage.interface import Storage
from mezite.storage.memory import MemoryStorage
from mezite.storage.sqlite import SqliteStorage
from tests.storage_faults import Faults


def _in_file(folder: Path, **options: Any) -> Storage:
    return SqliteStorage(folder / "mezite.db", **options)


def _in_memory(folder: Path, **options: Any) -> Storage:
    return MemoryStorage(**options)


FACTORIES: dict[str, Callable[..., Storage]] = {"sqlite file": _in_file, "sqlite memory": _in_memory}
"""Each opens an empty database in a directory, with a storage's options."""


class OpenStorage(Protocol):
    def __call__(self, **options: Any) -> Storage: ...


@pytest.fixture(params=sorted(FACTORIES))
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStorage]:
    """Opens one storage with options of the test's; no thread of it is left in the end."""
    opened: list[Storage] = []

    def open_one(**options: Any) -> Storage:
        opened.append(FACTORIES[request.param](tmp_path, **options))
        return opened[-1]

    before = set(threading.enumerate())
    yield open_one
    for storage in opened:
        storage.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def storage(open_storage: OpenStorage) -> Storage:
    return open_storage()


@pytest.fixture
def faults() -> Faults:
    return Faults()
