"""What holds for every storage's use cases, commits, futures and listeners."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from mezite.core.model import LockKind
from mezite.errors import Conflict, NotFound, StorageFailure
from mezite.storage.interface import Storage, Transaction
from mezite.storage.memory import MemoryStorage
from mezite.storage.queued import QueuedStorage
from tests.contracts.conftest import OpenStorage
from tests.storage.making import (
    NOW,
    Together,
    done,
    held,
    make_authority,
    make_bot,
    make_event,
    make_instance,
    make_lock,
    make_role,
    make_step,
    make_token,
    read,
    together,
    with_bot,
    write,
)
from tests.storage_faults import Faults


def setting(key: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.set_value(key, key.encode())


def values(storage: Storage, keys: str) -> str:
    """Those of *keys*, a letter each, that are set."""
    return read(storage, lambda tx: "".join(key for key in keys if tx.value(key) is not None))


class Deliveries:
    """A ``deliver`` that keeps what it gets, in the order of its batches."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Callable[[], None]]] = []
        self._arrived = threading.Semaphore(0)

    def __call__(self, calls: Sequence[Callable[[], None]]) -> None:
        self.batches.append(calls)
        self._arrived.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=30)


# --- isolation ------------------------------------------------------------------------------


def test_a_use_case_that_raises_is_undone_alone(storage: Storage) -> None:
    """Its neighbours in the batch are committed, and it raises what it raised."""
    error = NotFound("none such")

    def fail(tx: Transaction) -> None:
        tx.set_value("b", b"b")
        tx.add_bot(make_bot())
        raise error

    with held(storage):
        before, failing, after = map(storage.write, (setting("a"), fail, setting("c")))
    assert failing.exception(30) is error
    assert (done(before), done(after)) == (None, None)
    assert values(storage, "abc") == "ac"
    assert read(storage, lambda tx: tx.bot("ci")) is None


@pytest.mark.parametrize("error", [KeyError("bug"), SystemExit(1), StorageFailure("of its own")])
def test_any_exception_of_a_use_case_reaches_its_future(storage: Storage, error: BaseException) -> None:
    """Even those that end threads; the storage goes on."""

    def fail(tx: Transaction) -> None:
        tx.set_value("a", b"a")
        raise error

    with held(storage):
        failing, after = storage.write(fail), storage.write(setting("b"))
    assert failing.exception(30) is error
    done(after)
    assert values(storage, "ab") == "b"


def test_a_use_case_sees_what_the_ones_before_it_wrote(storage: Storage) -> None:
    """Use cases of one batch run in order, each on what is there then."""

    def add(tx: Transaction) -> int:
        count = int(tx.value("count") or b"0") + 1
        tx.set_value("count", b"%d" % count)
        return count

    with held(storage):
        futures = [storage.write(add) for _ in range(20)]
    assert [done(future) for future in futures] == list(range(1, 21))


def test_use_cases_before_one_that_raises_are_committed_once(storage: Storage) -> None:
    """Though they are undone with it and run again, and it only once."""
    ran: list[str] = []

    def add(tx: Transaction) -> int:
        count = int(tx.value("count") or b"0") + 1
        tx.set_value("count", b"%d" % count)
        return count

    def fail(tx: Transaction) -> None:
        ran.append("fail")
        tx.set_value("count", b"100")
        raise NotFound("none such")

    with held(storage):
        before = [storage.write(add) for _ in range(3)]
        failing = [storage.write(fail) for _ in range(2)]
        after = storage.write(add)
    assert [done(future) for future in before] == [1, 2, 3]
    assert all(isinstance(future.exception(30), NotFound) for future in failing)
    assert done(after) == 4
    assert ran == ["fail", "fail"]


def test_a_value_that_does_not_fit_harms_its_use_case_only(storage: Storage) -> None:
    """A half character, a number too large, a reference to nothing: one line of
    ``StorageFailure`` for that use case, and its neighbours are committed."""
    misfits = [
        lambda tx: tx.add_event(make_event(message="\ud800")),
        lambda tx: tx.add_instance(make_instance(bot_id="bot-nobody")),
        lambda tx: (with_bot(tx), tx.step(make_step(make_instance(), to_generation=1 << 70))),
    ]
    with held(storage):
        failing = [storage.write(use_case) for use_case in misfits]
        after = storage.write(setting("a"))
    for future in failing:
        error = future.exception(30)
        assert isinstance(error, StorageFailure)
        assert "\n" not in str(error)
    done(after)
    assert read(storage, lambda tx: (tx.list_bots().items, tx.list_events())) == ((), ())


def test_a_transaction_ends_with_its_use_case(storage: Storage) -> None:
    """Whoever keeps it gets an error, not somebody else's transaction."""
    kept = [write(storage, lambda tx: tx), read(storage, lambda tx: tx)]
    for tx in kept:
        for call in (lambda tx: tx.value("a"), setting("a"), lambda tx: tx.next_serial()):
            with pytest.raises(StorageFailure):
                call(tx)
    assert values(storage, "a") == ""


@pytest.mark.parametrize(
    "change",
    [setting("a"), lambda tx: tx.next_serial(), lambda tx: tx.use_token("t", NOW), with_bot],
    ids=["value", "serial", "token", "bot"],
)
def test_a_read_changes_nothing(storage: Storage, change: Callable[[Transaction], Any]) -> None:
    """The use case gets a ``StorageFailure`` that says what to do; others do not suffer."""
    future = storage.read(change)
    error = future.exception(30)
    assert isinstance(error, StorageFailure)
    assert "write" in str(error)
    assert values(storage, "a") == ""
    assert write(storage, lambda tx: tx.next_serial()) == 1


# --- order ----------------------------------------------------------------------------------


def test_futures_resolve_after_commit_and_after_listeners(open_storage: OpenStorage) -> None:
    """What is delivered is committed already; listeners hear it before the futures."""
    deliveries = Deliveries()
    storage = open_storage(deliver=deliveries)
    told: list[tuple[frozenset[str], bool]] = []
    future = storage.write(lambda tx: tx.add_bot(make_bot()))
    storage.subscribe(lambda topics: told.append((topics, future.done())))
    deliveries.wait()
    found = storage.read(lambda tx: tx.bot("ci"))
    deliveries.wait()
    written, seen = deliveries.batches
    for call in seen:
        call()
    assert found.result(0) == make_bot()
    assert not future.done()
    for call in written:
        call()
    assert told == [(frozenset({"bots"}), False)]
    assert future.done()


def test_a_batch_is_delivered_at_once(open_storage: OpenStorage) -> None:
    """One delivery resolves every future of a batch, failed ones too, in order."""
    deliveries = Deliveries()
    storage = open_storage(deliver=deliveries)
    if isinstance(storage, Together) and isinstance(storage.plain, QueuedStorage):
        pytest.skip("what waits for the submitter's thread is delivered to it first: test_together")
    order: list[int] = []

    def use_case(tx: Transaction, number: int) -> None:
        if number % 2:
            raise NotFound("odd")
        tx.set_value(str(number), b"")

    gate, entered = threading.Event(), threading.Event()
    storage.write(lambda tx: (entered.set(), gate.wait(30)))
    assert entered.wait(30)
    for number in range(6):
        future = storage.write(lambda tx, number=number: use_case(tx, number))
        future.add_done_callback(lambda _, number=number: order.append(number))
    gate.set()
    deliveries.wait()
    (batch,) = deliveries.batches
    for call in batch:
        call()
    assert order == list(range(6))


@pytest.mark.filterwarnings("default")
def test_a_broken_delivery_leaves_no_future_waiting(open_storage: OpenStorage) -> None:
    """When *deliver* raises, the futures are resolved where they are."""

    def broken(calls: Sequence[Callable[[], None]]) -> None:
        calls[0]()
        raise RuntimeError("no reactor")

    storage = open_storage(deliver=broken)
    write(storage, setting("a"))
    assert values(storage, "a") == "a"


@pytest.mark.parametrize(
    ("use_case", "topics"),
    [
        (lambda tx: tx.put_role(make_role("new")), {"roles"}),
        (lambda tx: tx.put_role(make_role("deploy")), {"roles"}),
        (lambda tx: tx.delete_role("deploy"), {"roles"}),
        (lambda tx: tx.delete_role("absent"), set()),
        (lambda tx: tx.add_bot(make_bot("new")), {"bots"}),
        (lambda tx: tx.remove_bot("bot-ci", NOW), {"bots", "instances"}),
        (lambda tx: tx.remove_bot("absent", NOW), set()),
        (lambda tx: tx.add_instance(make_instance("new")), {"instances"}),
        (lambda tx: tx.step(make_step(make_instance())), {"instances"}),
        (lambda tx: tx.step(make_step(make_instance(), from_generation=5)), set()),
        (lambda tx: tx.keep_key("inst-1", generation=1, lineage_key="k"), {"instances"}),
        (lambda tx: tx.set_recoverable("inst-1", True), {"instances"}),
        (lambda tx: tx.remove_instance("inst-1", NOW), {"instances"}),
        (lambda tx: tx.add_lock(make_lock("new", LockKind.BOT, "ci")), {"locks"}),
        (lambda tx: tx.delete_lock("lock-1"), {"locks"}),
        (lambda tx: tx.add_authority(make_authority("new")), {"authorities"}),
        (lambda tx: tx.set_authority_state("ca-1", "retired"), {"authorities"}),
        (lambda tx: (tx.add_token(make_token("new")), tx.add_event(make_event()), tx.next_serial()), set()),
        (lambda tx: (tx.put_role(make_role("x")), tx.delete_lock("lock-1")), {"roles", "locks"}),
    ],
)
def test_listeners_get_the_topics_that_changed(
    storage: Storage, use_case: Callable[[Transaction], Any], topics: set[str]
) -> None:
    """Those of rows that really changed; no call when there are none."""

    def prepare(tx: Transaction) -> None:
        with_bot(tx)
        tx.put_role(make_role())
        tx.add_lock(make_lock("lock-1", LockKind.NODE, "n"))
        tx.add_authority(make_authority())

    write(storage, prepare)
    told: list[frozenset[str]] = []
    storage.subscribe(told.append)
    write(storage, use_case)
    assert told == ([frozenset(topics)] if topics else [])


def test_a_batch_tells_its_topics_together_without_those_undone(storage: Storage) -> None:
    """One call with the union; a use case rolled back adds nothing."""
    told: list[frozenset[str]] = []
    storage.subscribe(told.append)

    def undone(tx: Transaction) -> None:
        tx.add_lock(make_lock("l", LockKind.BOT, "ci"))
        raise NotFound("no")

    with held(storage):
        storage.write(lambda tx: tx.put_role(make_role()))
        storage.write(undone)
        last = storage.write(lambda tx: tx.add_bot(make_bot()))
    done(last)
    assert told == [frozenset({"roles", "bots"})]


def test_a_listener_that_fails_is_alone(storage: Storage) -> None:
    """The others hear, and the futures resolve."""
    told: list[frozenset[str]] = []

    def broken(topics: frozenset[str]) -> None:
        raise RuntimeError("a bug")

    storage.subscribe(broken)
    storage.subscribe(told.append)
    write(storage, lambda tx: tx.put_role(make_role()))
    assert told == [frozenset({"roles"})]


# --- cancelling and closing -----------------------------------------------------------------


def test_a_cancelled_future_is_not_run(storage: Storage) -> None:
    """What has not started can be cancelled, and the rest of the batch runs."""
    ran: list[str] = []
    with held(storage):
        cancelled = storage.write(lambda tx: ran.append("cancelled"))
        kept = storage.write(lambda tx: ran.append("kept"))
        assert cancelled.cancel()
    done(kept)
    with pytest.raises(CancelledError):
        cancelled.result(30)
    assert ran == ["kept"]
    assert not kept.cancel()


def test_close_finishes_what_was_submitted(open_storage: OpenStorage) -> None:
    """Everything submitted is committed; calls afterwards raise; twice is once."""
    storage = open_storage()
    with held(storage):
        futures: list[Future[Any]] = [storage.write(setting(key)) for key in "abc"]
        futures += [storage.read(lambda tx: tx.counts()) for _ in range(40)]
        closing = threading.Thread(target=storage.close)
        closing.start()
    closing.join(30)
    assert all(future.done() and future.exception() is None for future in futures)
    storage.close()
    for call in (storage.write, storage.read):
        with pytest.raises(StorageFailure):
            call(lambda tx: None)


def test_a_callback_may_submit_and_close(open_storage: OpenStorage) -> None:
    """From the storage's own thread, as a future's callback."""
    storage = open_storage()
    follow_ups: list[Future[Any]] = []
    ready = threading.Event()

    def go_on(_: Future[Any]) -> None:
        follow_ups.append(storage.write(setting("b")))
        storage.close()
        ready.set()

    storage.write(setting("a")).add_done_callback(go_on)
    assert ready.wait(30)
    assert done(follow_ups[0]) is None


# --- failures of the disk -------------------------------------------------------------------

CAUSES = [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT]


@pytest.mark.parametrize("code", CAUSES)
@pytest.mark.parametrize("rolls_back", [False, True], ids=["open", "rolled back"])
@pytest.mark.parametrize("statement", ["begin", "savepoint", "insert into bots", "release", "commit"])
def test_a_failed_batch_fails_as_a_whole_and_the_next_one_works(
    open_storage: OpenStorage, faults: Faults, statement: str, code: int, rolls_back: bool
) -> None:
    """Whatever statement fails: every future gets one line, nothing is half done,
    no topic is told, and the storage goes on once the cause is gone."""
    if not isinstance(faults, Faults) and (rolls_back or code != sqlite3.SQLITE_FULL):
        pytest.skip("there is one code for them all, and a transaction ends with its connection only")
    storage = open_storage(connection_class=faults.connection_class)
    told: list[frozenset[str]] = []
    write(storage, setting("a"))
    storage.subscribe(told.append)

    def strike() -> None:
        faults.fail(statement, code, rolls_back=rolls_back)

    def first(tx: Transaction) -> None:
        tx.set_value("b", b"b")
        if statement != "begin" and not ran:
            strike()
        ran.append("first")

    def second(tx: Transaction) -> None:
        tx.set_value("c", b"c")
        if statement in ("savepoint", "release"):
            raise NotFound("from here on, each use case is in a savepoint")

    ran: list[str] = []
    futures = together(
        storage,
        first,
        second,
        lambda tx: tx.add_bot(make_bot()),
        lambda tx: tx.put_role(make_role()),
        just_before=strike if statement == "begin" else lambda: None,
    )
    for future in futures:
        error = future.exception(30)
        assert isinstance(error, StorageFailure)
        assert "\n" not in str(error)
    assert not faults.pending
    assert told == []
    assert values(storage, "abc") == "a"
    assert write(storage, lambda tx: (tx.add_bot(make_bot()), tx.bot("ci"))[1]) == make_bot()
    assert told == [frozenset({"bots"})]


def test_a_use_case_cannot_hide_a_failure(open_storage: OpenStorage, faults: Faults) -> None:
    """A disk failure that a use case swallows still fails the batch."""
    storage = open_storage(connection_class=faults.connection_class)

    def swallow(tx: Transaction) -> str:
        tx.set_value("a", b"")
        faults.fail("insert into bots", sqlite3.SQLITE_FULL)
        with pytest.raises(StorageFailure):
            tx.add_bot(make_bot())
        return "fine"

    assert isinstance(storage.write(swallow).exception(30), StorageFailure)
    assert values(storage, "a") == ""


def test_serials_of_a_failed_batch_are_not_given_out_again(
    open_storage: OpenStorage, faults: Faults
) -> None:
    """Nor those of the block that was reserved in it."""
    storage = open_storage(connection_class=faults.connection_class)
    seen: list[int] = []
    for _ in range(4):
        for fails in (True, False):
            if fails:
                faults.fail("commit")
            future = storage.write(lambda tx: seen.extend(tx.next_serial() for _ in range(70)))
            assert (future.exception(30) is not None) is fails
    assert seen == sorted(set(seen))


def test_a_failed_read_fails_alone(open_storage: OpenStorage, faults: Faults) -> None:
    """The next read works."""
    storage = open_storage(connection_class=faults.connection_class)
    write(storage, lambda tx: tx.add_bot(make_bot()))
    faults.fail("select b.id", sqlite3.SQLITE_IOERR)
    assert isinstance(storage.read(lambda tx: tx.bot("ci")).exception(30), StorageFailure)
    assert read(storage, lambda tx: tx.bot("ci")) == make_bot()


def test_a_conflict_is_no_failure_of_the_batch(storage: Storage) -> None:
    """A key that is taken is the use case's own affair."""
    write(storage, lambda tx: tx.add_bot(make_bot()))
    with held(storage):
        conflict = storage.write(lambda tx: (tx.set_value("a", b""), tx.add_bot(make_bot(id="other"))))
        other = storage.write(setting("b"))
    assert isinstance(conflict.exception(30), Conflict)
    done(other)
    assert values(storage, "ab") == "b"


def test_a_read_sees_what_was_committed_before_it_was_asked_for(storage: Storage) -> None:
    """Readers that are busy on snapshots from before the commit do not answer whoever comes
    after it from these: the node would keep what it has read, and miss a lock."""
    if isinstance(storage, MemoryStorage):
        pytest.skip("its reads wait in line with its writes")
    go_on, seen = threading.Event(), threading.Semaphore(0)
    before: list[Future[bool]] = []

    def slow(tx: Transaction) -> bool:
        found = tx.value("a") is not None
        seen.release()
        assert go_on.wait(30)
        return found

    try:
        # One by one, as many as there are readers: none of them is free for what follows.
        for _ in range(2):
            before.append(storage.read(slow))
            assert seen.acquire(timeout=30)
        write(storage, setting("a"))
        after = [storage.read(lambda tx: tx.value("a") is not None) for _ in range(8)]
    finally:
        go_on.set()
    assert [done(one) for one in before] == [False, False]
    assert [done(one) for one in after] == [True] * 8
