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
from tests.storage.making import Together
from tests.storage_faults import Faults


def _in_file(folder: Path, **options: Any) -> Storage:
    return SqliteStorage(folder / "mezite.db", **options)


def _in_memory(folder: Path, **options: Any) -> Storage:
    return MemoryStorage(**options)


def _on_postgres(server: Any, **options: Any) -> Storage:
    from mezite.storage.postgres import PostgresStorage

    server.empty()
    return PostgresStorage(server.local_params, **options)


def _together_on_postgres(server: Any, **options: Any) -> Storage:
    """By one connection: what only conditional statements protect from each other runs in a row."""
    return Together(_on_postgres(server, writers=1, **options))


def _here(folder: Path, **options: Any) -> Storage:
    return Together(_in_file(folder, **options))


FACTORIES: dict[str, Callable[..., Storage]] = {
    "sqlite file": _in_file,
    "sqlite file, in the submitter's thread": _here,
    "sqlite memory": _in_memory,
}
"""Each opens an empty database in a directory, with a storage's options."""
ON_POSTGRES: dict[str, Callable[..., Storage]] = {
    "postgres": _on_postgres,
    "postgres, together": _together_on_postgres,
}
"""The same, in the database of a server."""


PARAMS = [*sorted(FACTORIES), *(pytest.param(name, marks=pytest.mark.postgres) for name in ON_POSTGRES)]


class OpenStorage(Protocol):
    def __call__(self, **options: Any) -> Storage: ...


@pytest.fixture(params=PARAMS)
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStorage]:
    """Opens one storage with options of the test's; no thread of it is left in the end."""
    opened: list[Storage] = []

    def open_one(**options: Any) -> Storage:
        if request.param in ON_POSTGRES:
            server = request.getfixturevalue("postgres_server")
            opened.append(ON_POSTGRES[request.param](server, **options))
        else:
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
def faults(request: pytest.FixtureRequest) -> Any:
    """Those of the database that the storage of this test is in."""
    if request.node.callspec.params.get("open_storage") in ON_POSTGRES:
        from tests.postgres_faults import PostgresFaults

        return PostgresFaults()
    return Faults()
