"""What the server does by itself, beside serving: the time is committed, the database
compared with its mark, the past pruned, and whether it is ready is found out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from mezite.auth import older, pruning
from mezite.auth.context import Context, Transaction
from mezite.auth.older import OlderCopy
from mezite.auth.timekeeping import ClockGuard, Seen
from mezite.core.highwater import HighWater
from mezite.errors import MeziteError
from mezite.storage.interface import Storage
from mezite.threads import Doorway

_WRITABLE_WITHIN = timedelta(seconds=2)
_BATCHES = 500
"""In one go; the rest waits for the next one."""

T = TypeVar("T")


class Upkeep:
    """Its methods are called now and then by the composition root; none of them fails."""

    _log = Logger()

    def __init__(
        self, context: Context, storage: Storage, doorway: Doorway, guard: ClockGuard,
        keep_events: timedelta | None, *, reactor: Any, is_serving: Callable[[], bool],
        mark: Callable[[], HighWater | None] = lambda: None,
    ) -> None:
        self._context = context
        self._storage = storage
        self._doorway = doorway
        self._guard = guard
        self._keep_events = keep_events
        self._reactor = reactor
        self._is_serving = is_serving
        self._mark = mark
        self._told_older = False

    def beat(self) -> Deferred[None]:
        """The time is committed; a database that went back meanwhile is found out."""
        mark = self._mark()  # before the transaction begins: what it sees has come further

        def look(tx: Transaction, clock_is_good: bool) -> OlderCopy | None:
            older.compare(self._context, tx, mark, expected=False, clock_is_good=clock_is_good)
            return older.older_copy(tx)

        beaten: Deferred[Any] = Deferred.fromCoroutine(self._committed(look))
        beaten.addCallback(self._tell_older)
        return beaten.addErrback(self._failed, "the time could not be committed")

    async def _committed(
        self, look: Callable[[Transaction, bool], OlderCopy | None], within: timedelta | None = None
    ) -> OlderCopy | None:
        """The time is committed; what *look* found there, which it is told of whether the
        clock is good.  Who waits no longer than *within* gets ``TimeoutError``."""
        guard = self._guard

        def use_case(tx: Transaction) -> tuple[Seen | None, OlderCopy | None]:
            seen = guard.commit(tx)
            return seen, look(tx, guard.fault_of(seen) is None)

        def hold(done: Future[tuple[Seen | None, OlderCopy | None]]) -> None:
            if done.exception() is None:
                guard.hold(done.result()[0])

        future = self._storage.write(use_case)
        # Whether or not anybody waits for it still.
        future.add_done_callback(hold)
        written = self._doorway.deferred(future)
        if within is not None:
            written.addTimeout(within.total_seconds(), self._reactor)
        return (await written)[1]

    def _tell_older(self, found: OlderCopy | None) -> None:
        """Once, until it is over."""
        if found is not None and not self._told_older:
            self._log.error("{found}", event="database.older", found=str(found))
        self._told_older = found is not None

    async def _not_ready(self) -> str | None:
        if not self._is_serving():
            return "machines are not served"
        fault = self._guard.fault()
        if fault is not None:
            return f"{fault}; joins and renewals are refused (mezctl status --accept-clock)"

        try:
            found = await self._committed(lambda tx, _: older.older_copy(tx), _WRITABLE_WITHIN)
        except TimeoutError:
            return f"the database takes longer than {_WRITABLE_WITHIN.total_seconds():.0f} s to write"
        except MeziteError as error:
            return f"the database cannot be written: {error}"
        return None if found is None else str(found)

    def not_ready_reason(self) -> Deferred[str | None]:
        """Why machines cannot join or renew now, or ``None``: the server listens, its
        clock is good, and its database has just been written to and is no older copy."""
        return Deferred.fromCoroutine(self._not_ready())

    def prune(self) -> Deferred[None]:
        """What is over for good is gone.  Not while the clock is at fault: by a
        clock that is a year ahead, everything is over."""
        pruned: Deferred[None] = Deferred.fromCoroutine(self._prune())
        return pruned.addErrback(self._failed, "old records could not be pruned")

    async def _prune(self) -> None:
        for _ in range(_BATCHES):
            if self._guard.fault() is not None:
                return
            if not (await self._prune_batch()).may_have_left_some:
                return

    async def _prune_batch(self) -> pruning.Pruned:
        context = self._context
        stale = await self._run(
            self._storage.read, lambda tx: pruning.find_stale(context, tx)
        )
        return await self._run(
            self._storage.write, lambda tx: pruning.prune(context, tx, stale, self._keep_events)
        )

    async def _run(
        self, submit: Callable[[Callable[[Transaction], T]], Any], use_case: Callable[[Transaction], T]
    ) -> T:
        found: T = await self._doorway.deferred(submit(use_case))
        return found

    def _failed(self, failure: Any, what: str) -> None:
        self._log.error("{what}: {why}", event="upkeep.failed", what=what, why=failure.getErrorMessage())
