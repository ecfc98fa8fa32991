"""An identity that keeps itself renewed inside a program, for Twisted and asyncio alike.

It is the daemon's own service (mezite/identity) on the program's loop: the same
state machine, the same state files and lock, the same wire.  What is awaited
here are futures of the framework in use, which txaio makes, so that the same
coroutines serve both; aio.py and tx.py are its two faces.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.client.credential import Credential
from mezite.config import daemon
from mezite.core.duration import format_duration
from mezite.errors import MeziteError, NoAnswer, Unreachable, UsageError
from mezite.identity import readiness, report
from mezite.identity.clocks import Clocks
from mezite.identity.destination import Directory
from mezite.identity.events import Finish
from mezite.identity.given import (
    addresses_for,
    check_beginning,
    end_identity,
    no_identity,
    options_for,
    remote_for,
    token_for,
)
from mezite.identity.places import Outlets
from mezite.identity.records import ONE_OUTPUT, OUTPUT, Durable, Held
from mezite.identity.service import IdentityService
from mezite.identity.state import StateFile, is_there

DEFAULT_PATIENCE = timedelta(minutes=1)
_Error = TypeVar("_Error", bound=BaseException)


class Settings(TypedDict, total=False):
    """As mezd's options of the same names (docs/machines.md); ``None`` is as good as left out."""

    auth_server: str | None
    """``host:port``, or several of one database, separated by commas; known from the state after the join."""
    join_token: str | None
    join_token_file: str | os.PathLike[str] | None
    renewal_interval: timedelta | str | None
    certificate_ttl: timedelta | str | None
    ca_pin: str | None
    ca_file: str | os.PathLike[str] | None


class Forgetful:
    """In the place of a state file: an answer that is lost with the process has used up the token."""

    damaged = ""

    def load(self) -> Durable:
        return Durable()

    def save(self, durable: Durable) -> None: ...

    def missing(self) -> tuple[str, ...]:
        return ()

    def release(self) -> None: ...


class LoopTimers:
    """An asyncio loop's timers, by the names that Twisted's LoopingCall knows.

    They follow the monotonic clock, also where the reactor's own do not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = loop.time
        self.callLater = loop.call_later


class Keeper:
    """One identity, from :meth:`_start` to :meth:`_stop`; used in the loop's thread only."""

    _log = Logger()

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        one_shot: bool,
        **settings: Unpack[Settings],
    ) -> None:
        given = {name: _text(value) for name, value in settings.items()}
        where = None if directory is None else os.fspath(directory)
        self._config = daemon.from_keywords({**given, "destination": where, "one_shot": one_shot})
        self._in_memory = directory is None
        self._where = "memory" if directory is None else str(self._config.destination)
        self._on_renewal: Callable[[Credential], object] | None = None
        self._clocks = Clocks.of_system()
        self._service: IdentityService | None = None
        self._state: StateFile | Forgetful = Forgetful()
        self._credential: Credential | None = None
        self._told: Credential | None = None
        self._finish: Finish | None = None
        self._stopping = False
        self._up: Any = None
        self._is_gone = False
        self._ends: list[Any] = []
        self._stops: list[Any] = []
        """Futures of those who wait for the identity's end, and for that of its stopping."""

    def _framework(self) -> tuple[asyncio.AbstractEventLoop, Any]:
        """The loop, and txaio for the framework that runs it."""
        raise NotImplementedError

    # --- what a program sees ---------------------------------------------------------------

    @property
    def current(self) -> Credential:
        """The newest credential, valid now; otherwise raises what stands in its way."""
        service = self._service
        if service is None or self._stopping:
            raise UsageError("this identity is not running; start it first")
        if self._credential is None or not self._is_valid(service):
            raise self._trouble(service)
        return self._credential

    def not_ready_reason(self) -> str | None:
        """Why there is no valid credential, or will soon be none; ``None`` when all is well."""
        if self._service is None or self._stopping:
            return "the identity is not running"
        return self._service.not_ready_reason()

    def status(self) -> dict[str, Any]:
        """As `mezd identity status --format=json` has it; no secret is in it."""
        if self._service is None:
            raise UsageError("this identity is not running; start it first")
        return self._service.status()

    # --- its life, as coroutines of either framework ---------------------------------------

    async def _start(self, within: timedelta | None) -> Credential:
        if self._service is not None:
            raise UsageError("an identity is started once; make a new one")
        self._loop, self._futures = self._framework()
        service = self._begin()
        patience = None
        if within is not None:
            patience = self._loop.call_later(within.total_seconds(), self._give_up, within)
        try:
            await self._up
            return self.current
        except BaseException:
            await self._stop()
            raise
        finally:
            if patience is not None:
                patience.cancel()
            assert self._service is service

    async def _renew(self) -> Credential:
        if self._service is None or self._stopping:
            raise UsageError("this identity is not running; start it first")
        await self._native(self._service.renew())
        return self.current

    async def _ended(self) -> None:
        if self._finish is not None:
            if self._finish.error is not None:
                raise _afresh(self._finish.error)
            return
        await self._in_line(self._ends)

    async def _leave(self) -> None:
        if self._service is None or self._stopping:
            raise UsageError("this identity is not running; leave(directory) ends one that is stopped")
        await self._stop(and_then=self._end_lineage)

    async def _leave_stopped(self) -> None:
        self._loop, self._futures = self._framework()
        if not is_there(self._config.destination):
            raise no_identity(self._config)
        self._state = StateFile(self._config.destination)
        try:
            await self._end_lineage()
        finally:
            self._state.release()

    async def _end_lineage(self) -> None:
        """At its server first, then in its directory, which we hold, and where nothing renews."""
        state = self._state
        assert isinstance(state, StateFile)
        ending = asyncio.ensure_future(end_identity(self._config, state.load(), state), loop=self._loop)
        try:
            await self._native(Deferred.fromFuture(ending))
        finally:
            if not ending.done():
                # Whoever awaits us was cancelled: the directory is held until nothing is saved any more.
                ending.cancel()
                await self._native(Deferred.fromFuture(
                    asyncio.ensure_future(asyncio.wait([ending]), loop=self._loop)
                ))
        Directory(self._config.destination).erase()
        state.erase()

    async def _stop(self, and_then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Also with *and_then*, which is done while the directory is held still."""
        if self._service is None or self._is_gone:
            return
        if self._stopping:
            await self._in_line(self._stops)
            return
        self._stopping = True
        try:
            await self._native(self._service.stopService())
            if and_then is not None:
                await and_then()
        finally:
            # Nothing is written any more: the machine has ended.
            self._state.release()
            self._is_gone = True
            self._settle_all(self._stops, None)

    # --- the service, and what comes of it -------------------------------------------------

    def _begin(self) -> IdentityService:
        config = self._config
        if not self._in_memory:
            Directory(config.destination).prepare()
            self._state = StateFile(config.destination)
        try:
            durable = self._state.load()
            token = token_for(config, durable, _no_standard_input)
            check_beginning(config, durable, token, self._state.damaged)
            remote = remote_for(config, durable, addresses_for(config, durable), self._loop)
            service = IdentityService(
                reactor=LoopTimers(self._loop),
                clocks=self._clocks,
                options=options_for(config, token, remote, ONE_OUTPUT),
                durable=durable,
                state_file=self._state,
                outlets=Outlets({OUTPUT: ()}),
                where=self._where,
                remote=remote,
                published=self._published,
                described=[{"name": OUTPUT, "destination": self._where, "outputs": []}],
            )
        except BaseException:
            self._state.release()
            raise
        if self._state.damaged:
            report.tell_damage(self._log, self._state.damaged)
        self._service = service
        self._up = self._futures.create_future()
        service.ended.addCallback(self._over)
        service.startService()
        return service

    def _published(self, held: Held) -> None:
        """In the middle of a step of the machine: what a program does comes after it."""
        credential = self._credential
        if credential is None or (credential.instance, credential.generation) != (
            held.instance_id, held.generation
        ):
            self._credential = Credential.from_held(held)
        self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        service, credential, before = self._service, self._credential, self._told
        if service is None or credential is None or self._stopping or not self._is_valid(service):
            return
        self._told = credential
        if not self._config.one_shot:
            self._settle(self._up, None)
        if before is not None and before is not credential and self._on_renewal is not None:
            try:
                self._on_renewal(credential)
            except Exception:
                self._log.failure("on_renewal failed", Failure(), event="client.callback_failed")

    def _over(self, finish: Finish) -> None:
        """The identity is over, or was stopped."""
        self._finish = finish
        self._loop.call_soon(self._tell_end, finish)

    def _tell_end(self, finish: Finish) -> None:
        error = finish.error
        if self._credential is not None and error is None:
            self._settle(self._up, None)
        self._settle(self._up, error or Unreachable("stopped before there was a credential"))
        self._settle_all(self._ends, error)

    def _give_up(self, within: timedelta) -> None:
        assert self._service is not None
        self._settle(self._up, self._trouble(self._service))

    def _is_valid(self, service: IdentityService) -> bool:
        return readiness.has_valid_certificate(service.state, self._clocks.moment())

    def _trouble(self, service: IdentityService) -> MeziteError:
        error = service.state.trouble
        if error is None:
            return NoAnswer(f"no answer yet from the auth server at {service.state.options.server}")
        return _afresh(error)

    # --- futures of the framework ----------------------------------------------------------

    def _settle(self, future: Any, error: BaseException | None) -> None:
        """Does nothing to one that has been settled or cancelled."""
        if self._futures.is_called(future):
            return
        if error is None:
            self._futures.resolve(future, None)
        else:
            self._futures.reject(future, _afresh(error))

    def _settle_all(self, futures: list[Any], error: BaseException | None) -> None:
        while futures:
            self._settle(futures.pop(), error)

    def _in_line(self, futures: list[Any]) -> Awaitable[None]:
        future: Awaitable[None] = self._framework()[1].create_future()
        futures.append(future)
        return future

    def _native(self, deferred: Deferred[Any]) -> Awaitable[None]:
        future: Awaitable[None] = self._futures.create_future()

        def settle(result: Any) -> None:
            # Later: a program that goes on in the middle of a step could stop what steps.
            self._loop.call_soon(self._settle, future, result.value if isinstance(result, Failure) else None)

        deferred.addBoth(settle)
        return future


class Lasting(Keeper):
    """One that goes on, and so has a directory; inside ``async with`` it runs."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        on_renewal: Callable[[Credential], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Raises :class:`UsageError` for settings that make no sense; nothing else happens yet."""
        super().__init__(os.fspath(directory), one_shot=False, **settings)
        if inspect.iscoroutinefunction(on_renewal):
            raise UsageError("on_renewal: it is called and not awaited; give a plain function")
        self._on_renewal = on_renewal

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()


def _afresh(error: _Error) -> _Error:
    """The same error without what raising it elsewhere has left on it."""
    return error.with_traceback(None)


def _text(value: object) -> object:
    """As a person would write it in mezd's configuration."""
    if isinstance(value, timedelta):
        return format_duration(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _no_standard_input() -> str:
    raise UsageError("join_token: a program's token does not come from standard input; pass it, or its file")
