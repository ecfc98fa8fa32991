"""Opening a SQLite file: what is refused, in which words, and what real disks do."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.errors import NotFound, StorageFailure
from mezite.storage import schema
from mezite.storage.interface import Transaction
from mezite.storage.queued import QueuedStorage
from mezite.storage.sqlite import SqliteStorage
from mezite.storage.sqlite_file import DatabaseFile
from tests.storage.making import held, make_bot, make_role, read, write
from tests.storage_faults import Faults

NOBODY = 65534


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A sound database with one bot in it."""
    path = tmp_path / "mezite.db"
    storage = SqliteStorage(path)
    write(storage, lambda tx: tx.add_bot(make_bot()))
    storage.close()
    return path


@pytest.fixture
def faults() -> Faults:
    return Faults()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Inside, file permissions hold for this process, also when it is root's."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A directory that the unprivileged account owns and can reach."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def refusal(path: Path) -> str:
    """The one line with which *path* is refused; nothing is left running."""
    before = set(threading.enumerate())
    with pytest.raises(StorageFailure) as caught:
        SqliteStorage(path)
    assert set(threading.enumerate()) <= before
    told = str(caught.value)
    assert "\n" not in told
    assert str(path) in told
    return told


# --- what is made ---------------------------------------------------------------------------


def test_the_file_and_its_log_are_the_owners_alone(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, also for the log beside it."""
    umask = os.umask(0)
    try:
        storage = SqliteStorage(tmp_path / "mezite.db")
        write(storage, lambda tx: tx.add_bot(make_bot()))
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    storage.close()
    assert modes == {"mezite.db": 0o600, "mezite.db-wal": 0o600, "mezite.db-shm": 0o600}
    assert [entry.name for entry in tmp_path.iterdir()] == ["mezite.db"]


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """Every connection writes ahead and syncs fully: a lost generation would let
    an old certificate renew."""
    storage = SqliteStorage(tmp_path / "mezite.db")

    def settings(tx: object) -> list[object]:
        run = tx._statements.select  # type: ignore[attr-defined]
        return [run(f"pragma {name}")[0][0] for name in ("journal_mode", "synchronous", "foreign_keys")]

    assert write(storage, settings) == ["wal", 2, 1]
    assert read(storage, settings) == ["wal", 2, 1]
    storage.close()


def test_what_was_written_is_there_when_opened_again(database: Path) -> None:
    """Serials too go on after those given out."""
    storage = SqliteStorage(database)
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()
    first = write(storage, lambda tx: tx.next_serial())
    storage.close()
    storage = SqliteStorage(database)
    assert write(storage, lambda tx: tx.next_serial()) > first
    storage.close()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of directory (as twistd makes one) does not move the database."""
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = SqliteStorage(Path("mezite.db"))
    monkeypatch.chdir(tmp_path / "else")
    write(storage, lambda tx: tx.add_bot(make_bot()))
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()
    storage.close()
    assert list((tmp_path / "else").iterdir()) == []


def test_two_storages_share_one_file(database: Path) -> None:
    """Each sees the other's commits, and no serial number is given out twice."""
    first, second = SqliteStorage(database), SqliteStorage(database)
    write(first, lambda tx: tx.put_role(make_role()))
    assert read(second, lambda tx: tx.role("deploy")) == make_role()
    serials = [write(one, lambda tx: tx.next_serial()) for _ in range(150) for one in (first, second)]
    assert len(set(serials)) == len(serials)
    first.close()
    assert read(second, lambda tx: tx.bot("ci")) == make_bot()
    second.close()


@pytest.mark.parametrize("commit_fails", [False, True], ids=["use case", "batch"])
def test_serials_reserved_in_vain_are_reserved_again(
    tmp_path: Path, faults: Faults, commit_fails: bool
) -> None:
    """What was rolled back is not in the file: another process that opens it
    must not get a number that this one goes on to use."""
    path = tmp_path / "mezite.db"
    storage = SqliteStorage(path, connection_class=faults.connection_class)

    def reserve(tx: Transaction) -> None:
        tx.next_serial()
        if not commit_fails:
            raise NotFound("undone")

    if commit_fails:
        faults.fail("commit")
    assert storage.write(reserve).exception(30) is not None
    used = [write(storage, lambda tx: tx.next_serial()) for _ in range(3)]
    other = SqliteStorage(path)
    assert write(other, lambda tx: tx.next_serial()) > max(used)
    other.close()
    storage.close()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """One of them makes the schema, the others find it."""
    path = tmp_path / "mezite.db"
    start = threading.Barrier(8)
    opened: list[SqliteStorage] = []

    def open_one() -> None:
        start.wait(30)
        opened.append(SqliteStorage(path))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(opened) == 8
    for number, storage in enumerate(opened):
        write(storage, lambda tx, n=number: tx.add_bot(make_bot(f"b{n}")))
    assert len(read(opened[0], lambda tx: tx.list_bots()).items) == 8
    for storage in opened:
        storage.close()


# --- what is refused ------------------------------------------------------------------------


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    told = refusal(tmp_path / "absent" / "mezite.db")
    assert f"{tmp_path / 'absent'} does not exist; create it" in told


def test_a_directory_in_the_files_place_is_named(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_file_in_the_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in refusal(tmp_path / "file" / "mezite.db")


@pytest.mark.parametrize("content", [b"not a database\n" * 500, b"x", os.urandom(8192)])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mezite.db"
    path.write_bytes(content)
    assert "not a SQLite database" in refusal(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("create table roles (name text)")
    other.commit()
    other.close()
    assert "another program" in refusal(path)
    other = sqlite3.connect(path)
    assert other.execute("select name from sqlite_master").fetchall() == [("roles",)]
    other.close()


def test_a_newer_schema_is_refused(database: Path) -> None:
    connection = sqlite3.connect(database)
    newer = len(schema.packaged()) + 1
    connection.execute("insert into schema_migrations values (?, ?)", (newer, "future"))
    connection.commit()
    connection.close()
    told = refusal(database)
    assert f"schema {newer}" in told
    assert "newer" in told


def test_a_damaged_file_is_refused(database: Path) -> None:
    """A page overwritten in the middle is found at opening."""
    content = bytearray(database.read_bytes())
    content[8192 : 8192 + 4096] = os.urandom(4096)
    database.write_bytes(content)
    assert "restore a backup" in refusal(database)


def test_a_cut_file_is_refused(database: Path) -> None:
    """So is a file whose end is missing."""
    os.truncate(database, 12288)
    assert "restore a backup" in refusal(database)


def test_an_unreadable_file_is_refused(own_folder: Path) -> None:
    path = own_folder / "mezite.db"
    with unprivileged():
        SqliteStorage(path).close()
        for mode in (0o000, 0o400, 0o200):
            path.chmod(mode)
            assert "cannot read and write it" in refusal(path)
        path.chmod(0o600)
        SqliteStorage(path).close()


def test_a_foreign_file_is_refused(own_folder: Path, database: Path) -> None:
    """A file of root's, put there by a restore under the wrong account."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = Path(shutil.copy(database, own_folder))
    path.chmod(0o644)
    with unprivileged():
        assert "make the account its owner" in refusal(path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_write_access_is_refused(own_folder: Path, exists: bool) -> None:
    """The log lies beside the file, so the directory must be writable too."""
    path = own_folder / "mezite.db"
    with unprivileged():
        if exists:
            SqliteStorage(path).close()
        own_folder.chmod(0o500)
        assert f"cannot write in {own_folder}" in refusal(path)


# --- real failures --------------------------------------------------------------------------


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Inside, the kernel refuses to let any file grow beyond *size*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_loses_nothing(database: Path) -> None:
    """While the kernel refuses writes, batches fail whole; reads go on, and so
    do writes as soon as there is room."""
    storage = SqliteStorage(database)
    write(storage, lambda tx: tx.set_value("before", b"x"))
    with no_file_beyond(100_000):
        with held(storage):
            futures = [storage.write(lambda tx: tx.set_value("small", b"x"))]
            futures += [storage.write(lambda tx: tx.set_value("large", bytes(300_000)))]
        for future in futures:
            assert str(database) in str(future.exception(30))
        assert read(storage, lambda tx: tx.value("before")) == b"x"
    assert read(storage, lambda tx: (tx.value("small"), tx.value("large"))) == (None, None)
    write(storage, lambda tx: tx.set_value("large", bytes(300_000)))
    assert read(storage, lambda tx: tx.value("large")) == bytes(300_000)
    storage.close()


def test_a_full_database_fails_the_whole_batch(database: Path) -> None:
    """SQLite's own word for it: one statement that finds no page left."""
    storage = SqliteStorage(database)

    def fill(tx: object) -> None:
        tx._statements.select("pragma max_page_count = 1")  # type: ignore[attr-defined]

    with held(storage):
        small = storage.write(lambda tx: tx.set_value("small", b"x"))
        storage.write(fill)
        large = storage.write(lambda tx: tx.set_value("large", bytes(300_000)))
    for future in (small, large):
        error = future.exception(30)
        assert isinstance(error, StorageFailure)
        assert "the disk is full" in str(error)
    assert read(storage, lambda tx: (tx.value("small"), tx.value("large"))) == (None, None)
    write(storage, lambda tx: tx.set_value("large", bytes(300_000)))
    storage.close()


def test_a_database_kept_locked_is_told_so(database: Path) -> None:
    """Another process in a long transaction: the writes fail, say why, and go on after it."""
    storage = QueuedStorage(DatabaseFile(database, lock_timeout=timedelta(milliseconds=50)), readers=1)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("begin immediate")
    error = storage.write(lambda tx: tx.set_value("a", b"x")).exception(30)
    assert isinstance(error, StorageFailure)
    assert "another process keeps it locked" in str(error)
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()
    other.execute("rollback")
    write(storage, lambda tx: tx.set_value("a", b"x"))
    other.close()
    storage.close()


def test_a_lock_of_another_process_is_waited_for(database: Path) -> None:
    """A write submitted meanwhile goes through as soon as the lock is gone."""
    storage = SqliteStorage(database)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("begin immediate")
    future = storage.write(lambda tx: tx.set_value("a", b"x"))
    other.execute("insert into cluster_values values ('b', x'00')")
    assert not future.done()
    other.execute("commit")
    assert future.exception(30) is None
    assert read(storage, lambda tx: (tx.value("a"), tx.value("b"))) == (b"x", b"\0")
    other.close()
    storage.close()


def test_a_vanished_file_is_told_of(database: Path) -> None:
    """Once a connection must be opened anew, a missing file is named."""
    storage = SqliteStorage(database)
    storage.write(lambda tx: tx._statements.select("select * from nowhere")).exception(30)  # type: ignore[attr-defined]
    database.rename(database.with_name("moved"))
    error = storage.write(lambda tx: tx.set_value("a", b"x")).exception(30)
    assert isinstance(error, StorageFailure)
    assert str(database) in str(error)
    assert "check that it exists" in str(error)
    database.with_name("moved").rename(database)
    write(storage, lambda tx: tx.set_value("a", b"x"))
    storage.close()


LOST = "was removed or replaced while the server runs"


def add(name: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.set_value(name, b"x")


def test_a_directory_that_moves_before_the_first_commit_is_seen_and_may_come_back(tmp_path: Path) -> None:
    """As of a worker that has renewed nobody yet; also where another database stands there meanwhile."""
    directory, away = tmp_path / "data", tmp_path / "away"
    directory.mkdir()
    storage = SqliteStorage(directory / "mezite.db")
    directory.rename(away)
    assert LOST in str(storage.write(add("lost")).exception(30))
    directory.mkdir()
    other = SqliteStorage(directory / "mezite.db")
    assert LOST in str(storage.write(add("lost")).exception(30))
    other.close()
    directory.rename(tmp_path / "other")
    away.rename(directory)
    write(storage, add("after"))
    storage.close()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_nothing_is_committed_to_a_file_that_was_removed(database: Path, ending: str) -> None:
    """Each commit is refused until the file is back; what was committed before is there then."""
    storage = SqliteStorage(database)
    write(storage, add("before"))
    gone, away = database.with_name(database.name + ending), database.with_name("away")
    gone.rename(away)
    for _ in range(2):
        refused = storage.write(add("lost")).exception(30)
        assert isinstance(refused, StorageFailure)
        assert str(refused).startswith(f"{gone} {LOST}")
    away.rename(gone)
    write(storage, add("after"))
    storage.close()
    storage = SqliteStorage(database)
    assert [read(storage, lambda tx, name=name: tx.value(name)) for name in ("before", "lost", "after")] == [
        b"x", None, b"x"]
    storage.close()


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_a_stop_saves_what_was_in_a_log_that_was_removed(database: Path, ending: str) -> None:
    storage = SqliteStorage(database)
    write(storage, add("before"))
    database.with_name(database.name + ending).unlink()
    assert LOST in str(storage.write(add("lost")).exception(30))
    storage.close()
    storage = SqliteStorage(database)
    assert read(storage, lambda tx: (tx.value("before"), tx.value("lost"))) == (b"x", None)
    storage.close()


@pytest.mark.parametrize("has_failed", [False, True])
def test_another_file_in_the_databases_place_is_not_used(
    database: Path, faults: Faults, has_failed: bool
) -> None:
    """An older copy, say: not by the connection that is open, nor by one opened anew after a failure."""
    older = database.with_name("older")
    shutil.copy2(database, older)
    storage = SqliteStorage(database, connection_class=faults.connection_class)
    write(storage, add("before"))
    if has_failed:
        faults.fail("commit", sqlite3.SQLITE_IOERR)
        assert isinstance(storage.write(add("failed")).exception(30), StorageFailure)
    older.rename(database)
    refused = storage.write(add("lost")).exception(30)
    assert isinstance(refused, StorageFailure)
    assert str(refused).startswith(f"{database} {LOST}")
    storage.close()
