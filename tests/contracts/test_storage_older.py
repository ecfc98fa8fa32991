"""A database that was put back is known by its mark, whichever database it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mezite.auth import older
from mezite.core.highwater import HighWater
from mezite.storage.interface import Storage
from mezite.storage.mark import MarkFile
from tests.contracts.conftest import OpenStorage
from tests.harness import Auth
from tests.storage.making import make_event, write


@pytest.fixture
def auth() -> Iterator[Auth]:
    """Only for its context."""
    made = Auth()
    yield made
    made.close()


def compare(auth: Auth, storage: Storage, mark: HighWater | None) -> older.Sign | None:
    def use_case(tx: object) -> older.OlderCopy | None:
        older.compare(auth.context, tx, mark, expected=False)  # type: ignore[arg-type]
        return older.older_copy(tx)  # type: ignore[arg-type]

    found = write(storage, use_case)
    return None if found is None else found.sign


def test_commits_that_are_gone_are_missed_and_the_mark_holds_again_afterwards(
    open_storage: OpenStorage, auth: Auth, tmp_path: Path
) -> None:
    mark = MarkFile(tmp_path / "mark")
    mark.read(auth.context.cluster.uuid)
    storage = open_storage(committed=mark.note)
    for _ in range(5):
        write(storage, lambda tx: tx.add_event(make_event()))
    assert compare(auth, storage, mark.noted) is None
    # As after a restore: the last two are gone, and so is what numbered them.
    before = mark.noted
    newest = write(storage, lambda tx: tx.newest_event())
    write(storage, lambda tx: tx._change("", "delete from events where id > ?", newest - 2))
    assert compare(auth, storage, before) is older.Sign.MARK
    serial = write(storage, lambda tx: tx.next_serial())
    assert serial >= before.serials
    write(storage, older.declared)
    assert compare(auth, storage, mark.noted) is None
    assert mark.noted.events == write(storage, lambda tx: tx.newest_event()) > before.events
    write(storage, lambda tx: tx.add_event(make_event()))
    assert mark.noted.events == write(storage, lambda tx: tx.newest_event())
    mark.close()
