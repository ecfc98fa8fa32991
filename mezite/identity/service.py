"""The daemon as a Twisted service: performs what the machine wants, and tells it what came of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mezite.certs import keys, verify
from mezite.core.duration import format_duration
from mezite.core.request import Issued
from mezite.errors import MeziteError, Refused, Unreachable, UntrustedServer
from mezite.identity import readiness, report
from mezite.identity.clocks import Clocks
from mezite.identity.events import (
    Action,
    Answered,
    Ask,
    CheckDestination,
    DestinationReady,
    DestinationUnfit,
    Event,
    Finish,
    KeysMade,
    MakeKeys,
    Publish,
    Published,
    PublishFailed,
    Removed,
    RenewNow,
    Save,
    Saved,
    SaveFailed,
    Start,
    Stop,
    TellIssued,
    TellOver,
    TellSkew,
    TellTrouble,
    Tick,
    Unanswered,
    Untrusted,
    WasRefused,
)
from mezite.identity.machine import step
from mezite.identity.places import Outlets
from mezite.identity.records import (
    ONE_OUTPUT,
    OUTPUT,
    Durable,
    GenerationKeys,
    Held,
    KeyPair,
    SshPair,
    Wanted,
)
from mezite.identity.remote import Known, Remote
from mezite.identity.state import Keeps
from mezite.identity.states import Options, Phase, State
from mezite.identity.supervised import Supervised
from mezite.metering import OK, RequestMeter
from mezite.parts import Service
from mezite.supervision import ServiceManager

TICK = timedelta(milliseconds=500)
LOOK_EVERY = timedelta(seconds=10)
"""Between two looks at whether what was written is still there."""


def make_keys(outputs: Sequence[Wanted] = ONE_OUTPUT) -> GenerationKeys:
    """New keys for one generation: P-256, a lineage key and an SSH key for each output."""
    return GenerationKeys(_new_pair(), tuple(SshPair(one.output, _new_pair()) for one in outputs))


def _new_pair() -> KeyPair:
    key = keys.generate_key()
    return KeyPair(keys.private_to_pem(key, None), keys.public_blob(key))


class _Loop(LoopingCall):
    """By *timers*: the inherited constructor would install a reactor in a program that has none."""

    def __init__(self, call: Callable[[], object], timers: Any) -> None:
        self.f, self.a, self.kw = call, (), {}
        self.clock = timers


class IdentityService(Service):
    """Runs one identity until it ends or is stopped.

    ``ended`` fires once with the :class:`Finish` that says how.  *durable* is
    what *state_file* has loaded; *published* is called after each publishing, also one
    that not every place has taken.
    The caller holds the destination's lock.  *reactor* is for timers alone.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        clocks: Clocks,
        options: Options,
        durable: Durable,
        state_file: Keeps,
        outlets: Outlets,
        where: str,
        remote: Remote,
        published: Callable[[Held], None],
        manager: ServiceManager | None = None,
        described: Sequence[Mapping[str, Any]] = (),
        hook_failures: Mapping[str, str] | None = None,
    ) -> None:
        self.ended: Deferred[Finish] = Deferred()
        self.state = State(options, durable)
        self._clocks = clocks
        self._state_file = state_file
        self._outlets = outlets
        self._where = where
        one = {"name": OUTPUT, "destination": where, "outputs": ["files"]}
        self._described = tuple(described) or (one,)
        self._kinds: tuple[str, ...] = tuple(self._described[0]["outputs"])
        self._hook_failures = {} if hook_failures is None else hook_failures
        self._remote = remote
        self._published = published
        self._supervised = Supervised(manager or ServiceManager())
        self._events: deque[Event] = deque()
        self._stepping = False
        self._asking: Deferred[Issued] | None = None
        self._quiet: Deferred[None] | None = None
        """Waits for the end of a request that is cut."""
        self._waiting: list[Deferred[dict[str, Any]]] = []
        self.meter = RequestMeter()
        """What was asked of the server in this run."""
        self._loop = _Loop(self._tick, reactor)
        self._looked = timedelta(0)
        self._removed_from = ""

    def startService(self) -> None:
        super().startService()
        held = self.state.durable.held
        if held is not None:
            line = report.held_line(held, self._where)
            self._log.info("{line}", event="identity.held", line=line, **report.facts(held))
        self._feed(Start())
        if self.state.phase is not Phase.ENDED:
            self._loop.start(TICK.total_seconds(), now=False).addErrback(self._broken)

    def stopService(self) -> Deferred[None]:
        """Fires when nothing of it is left, a request that was cut included."""
        super().stopService()
        self._supervised.stop()
        self._feed(Stop())
        if self._loop.running:
            self._loop.stop()
        quiet: Deferred[None] = Deferred()
        if self._asking is None:
            quiet.callback(None)
        else:
            self._quiet = quiet
            self._asking.cancel()
        return quiet

    def not_ready_reason(self) -> str | None:
        return readiness.not_ready_reason(self.state, self._clocks.moment())

    def status(self) -> dict[str, Any]:
        now = self._clocks.moment()
        reason = readiness.not_ready_reason(self.state, now)
        return {
            **report.status(
                self.state, destination=self._where, kinds=self._kinds, server=self._remote.address, now=now
            ),
            "destinations": report.destinations(self.state, self._described, self._hook_failures),
            "published": readiness.is_published(self.state),
            "ready": reason is None,
            "not_ready_reason": reason,
        }

    def renew(self) -> Deferred[dict[str, Any]]:
        """Fires with the status after a renewal that begins now, or is under way; fails as it does."""
        waiting: Deferred[dict[str, Any]] = Deferred()
        if self.state.phase is Phase.ENDED:
            waiting.errback(Unreachable("the daemon is ending"))
            return waiting
        self._waiting.append(waiting)
        self._feed(RenewNow())
        return waiting

    # --- the machine's part ----------------------------------------------------------------

    def _tick(self) -> None:
        now = self._clocks.moment()
        self._outlets.tidy(now.monotonic)
        self._feed(Tick())
        if now.monotonic - self._looked >= LOOK_EVERY and readiness.is_published(self.state):
            self._looked = now.monotonic
            self._look()
        self._supervised.live(now)

    def _look(self) -> None:
        removed = self._outlets.removed()
        places = [str(one["destination"]) for one in self._described if one["name"] in removed]
        where = ", ".join([*places, *self._state_file.missing()])
        if where and where != self._removed_from:
            self._log.warn(
                "files were removed from {where}; writing them anew", event="identity.removed", where=where,
            )
        self._removed_from = where
        if where:
            self._feed(Removed())

    def _broken(self, failure: Failure) -> None:
        self._log.failure("the daemon broke", failure, event="identity.broke")
        self.state = replace(self.state, phase=Phase.ENDED)
        self._end(Finish(1))

    def _feed(self, event: Event) -> None:
        """Steps the machine; what actions answer at once is fed after the step, in order."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                self.state, actions = step(self.state, self._events.popleft(), self._clocks.moment())
                for action in actions:
                    self._perform(action)
            if self.running:
                self._supervised.look(self.state, self._clocks.moment())
        except Exception:
            # A machine that waits for an answer which never comes would let the
            # certificate end in silence; ending is for a supervisor to see.
            self._events.clear()
            self._broken(Failure())
        finally:
            self._stepping = False

    def _perform(self, action: Action) -> None:
        match action:
            case MakeKeys():
                self._events.append(KeysMade(make_keys(self.state.options.outputs)))
            case Save(durable):
                self._events.append(self._try(Saved(), SaveFailed, lambda: self._state_file.save(durable)))
            case CheckDestination():
                self._events.append(
                    self._try(DestinationReady(), DestinationUnfit, self._outlets.check)
                )
            case Publish(held):
                self._events.append(self._try(Published(), PublishFailed, lambda: self._publish(held)))
            case Ask():
                self._ask(action)
            case TellIssued():
                self._tell_issued(action)
            case TellOver(refused):
                self._log.warn(
                    "the identity on disk is over: {error}; joining with the new token",
                    event="identity.over",
                    error=report.error_line(refused), code=refused.code,
                )
            case TellTrouble(error, retry_in):
                # A one-shot run ends soon, and then says it once.
                if not self.state.options.one_shot:
                    self._log.warn(
                        "{error}; next try in {retry_in}", event="identity.trouble",
                        error=report.error_line(error), code=error.code, retry_in=_rounded(retry_in),
                    )
                self._settle(error)
            case TellSkew(skew, is_off):
                if is_off:
                    self._log.warn("{line}", event="clock.skewed", line=report.skew_line(skew))
                else:
                    self._log.info(
                        "this machine's clock agrees with the server's again", event="clock.agrees",
                    )
            case Finish():
                self._end(action)

    def _publish(self, held: Held) -> None:
        try:
            self._outlets.publish(held, self._clocks.moment().monotonic)
        finally:
            # Where it went well, its hooks may run, whatever became of the other places.
            self._published(held)
            # Each certificate is looked at once: what the node remembers would only grow here.
            verify.forget()

    def _try(
        self, done: Event, failed: Callable[[MeziteError], Event], action: Callable[[], object]
    ) -> Event:
        try:
            action()
        except MeziteError as error:
            return failed(error)
        return done

    def _ask(self, action: Ask) -> None:
        key = keys.private_from_pem(action.signer_pem, None)
        durable, token = self.state.durable, self.state.options.token
        known = Known(
            trust=durable.held.trust if durable.held is not None else None,
            pin=token.pin if token is not None and token.id not in durable.redeemed else None,
        )
        method, started = type(action.request).__name__, self._clocks.monotonic()
        asking = self._remote.ask(action.request, lambda data: keys.sign(key, data), known, action.nonce)
        self._asking = asking
        heard: Deferred[Event] = asking.addCallbacks(Answered, self._unanswered)
        heard.addCallback(self._heard, method, started).addErrback(self._broken)

    def _unanswered(self, failure: Failure) -> Event:
        error = failure.value
        if isinstance(error, Refused):
            return WasRefused(error)
        if isinstance(error, UntrustedServer):
            return Untrusted(error)
        if isinstance(error, MeziteError):
            return Unanswered(error)
        if not isinstance(error, CancelledError | asyncio.CancelledError):
            self._log.failure(
                "asking {server} broke", failure, event="server.asking_broke", server=self._remote.address,
            )
        return Unanswered(Unreachable(f"asking {self._remote.address} failed: {type(error).__name__}"))

    def _heard(self, event: Event, method: str, started: float) -> None:
        self._asking = None
        error = getattr(event, "error", None)
        outcome = OK if error is None else str(error.code)
        self.meter.note(method.removesuffix("Request").lower(), outcome, self._clocks.monotonic() - started)
        self._feed(event)
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            quiet.callback(None)

    # --- telling ---------------------------------------------------------------------------

    def _tell_issued(self, action: TellIssued) -> None:
        held = action.held
        if action.joined:
            lines = report.joined_lines(held, self._where, self._kinds)
        else:
            lines = (("identity.renewed", report.renewed_line(held)),)
        for event, line in lines:
            self._log.info("{line}", event=event, line=line, **report.facts(held))
        if not self.state.options.one_shot:
            at = self._clocks.moment().wall + action.renew_in
            self._log.info(
                "next renewal in {renew_in}, at {at}", event="identity.next_renewal",
                renew_in=_rounded(action.renew_in), at=report.text_time(at),
            )
        self._settle(None)

    def _settle(self, error: MeziteError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if error is None:
                one.callback(self.status())
            else:
                one.errback(error)

    def _end(self, finish: Finish) -> None:
        if self._loop.running:
            self._loop.stop()
        self._settle(finish.error or Unreachable("the daemon is ending"))
        if not self.ended.called:
            self.ended.callback(finish)


def _rounded(duration: timedelta) -> str:
    return format_duration(timedelta(seconds=max(1, round(duration.total_seconds()))))
