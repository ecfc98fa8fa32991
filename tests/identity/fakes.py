"""A machine with everything but a network and a disk: the real rules of server and daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from mezite.certs import keys as ssh_keys
from mezite.core.request import (
    JOIN,
    RENEW,
    Issued,
    JoinRequest,
    RenewRequest,
    Signed,
    TokenText,
    signed_bytes,
)
from mezite.errors import MeziteError, Refused, StateFailure, Unreachable
from mezite.identity.destination import Memory
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
    Moment,
    Publish,
    Published,
    PublishFailed,
    Save,
    Saved,
    SaveFailed,
    Start,
    TellIssued,
    TellOver,
    TellSkew,
    TellTrouble,
    Unanswered,
    WasRefused,
)
from mezite.identity.machine import step
from mezite.identity.outputs import Outputs
from mezite.identity.records import Durable
from mezite.identity.remote import Known
from mezite.identity.service import make_keys
from mezite.identity.states import Options, State
from mezite.rpc import messages
from mezite.rpc.client import Sign
from tests.harness import Auth

LOST_REQUEST = "the request is lost"
LOST_REPLY = "the reply is lost"


def answer(
    auth: Auth, request: JoinRequest | RenewRequest, sign: Sign, nonce: bytes
) -> Issued | Refused:
    """What the server says to *request*."""
    uuid = auth.context.cluster.uuid
    if isinstance(request, JoinRequest):
        body = messages.join_body(request)
        return auth.join(request, Signed(body, sign(signed_bytes(JOIN, uuid, nonce, body)), nonce))
    body = messages.renew_body(request)
    return auth.renew(request, Signed(body, sign(signed_bytes(RENEW, uuid, nonce, body)), nonce))


class FakeRemote:
    """A :class:`~mezite.identity.remote.Remote` to the use cases themselves.

    ``faults`` are taken one for each request: a lost request or reply, or an
    error to fail with.  With ``holds_answers`` nothing is answered before
    :meth:`release`.
    """

    address = "auth.example.com:3025"

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.faults: deque[str | MeziteError] = deque()
        self.requests: list[JoinRequest | RenewRequest] = []
        self.nonces: list[bytes] = []
        self.known: list[Known] = []
        self.holds_answers = False
        self._held: list[tuple[Deferred[Issued], Issued | MeziteError]] = []

    def ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Deferred[Issued]:
        self.requests.append(request)
        self.nonces.append(nonce)
        self.known.append(known)
        fault = self.faults.popleft() if self.faults else None
        said: Issued | MeziteError
        if isinstance(fault, MeziteError):
            said = fault
        elif fault == LOST_REQUEST:
            said = Unreachable("nobody is there")
        else:
            said = answer(self.auth, request, sign, nonce)
            if fault == LOST_REPLY:
                said = Unreachable("the connection broke")
        asked: Deferred[Issued] = Deferred()
        self._held.append((asked, said))
        if not self.holds_answers:
            self.release()
        return asked

    def release(self) -> None:
        held, self._held = self._held, []
        for asked, said in held:
            if asked.called:
                continue
            if isinstance(said, MeziteError):
                asked.errback(said)
            else:
                asked.callback(said)


class Emptied(Memory):
    """A destination whose files somebody can remove."""

    def empty(self) -> None:
        self._files = {}


class Crash(Exception):
    """The process is gone between two actions."""


@dataclass
class Rig:
    """The machine of machine.py, driven by hand against the real rules of the server.

    It keeps what a disk and a destination would, so that a crash leaves them
    and :meth:`restart` goes on from there.
    """

    auth: Auth
    options: Options = field(default_factory=Options)
    disk: Durable = field(default_factory=Durable)
    destination: Emptied = field(default_factory=Emptied)
    monotonic: timedelta = timedelta(hours=5)
    wall_off: timedelta = timedelta(0)
    """This machine's clock less the server's."""
    chance: float = 0.5
    faults: deque[str | MeziteError] = field(default_factory=deque)
    fail_save_in: int | None = None
    """So many saves are well, then one fails."""
    crash_in: int | None = None
    """So many actions are performed, then the process is gone."""
    actions: list[Action] = field(default_factory=list)
    asked: list[Ask] = field(default_factory=list)
    on_disk_when_asked: list[Durable] = field(default_factory=list)
    answers: list[Refused | None] = field(default_factory=list)
    """For each of ``asked``, the refusal that was the answer."""
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = State(self.options, self.disk)

    def moment(self) -> Moment:
        return Moment(self.monotonic, self.auth.now + self.wall_off, self.chance)

    def advance(self, length: timedelta) -> None:
        self.monotonic += length
        self.auth.now += length

    def restart(self, **options: object) -> Rig:
        """The same disk and destination under a new process, started."""
        self.options = replace(self.options, **options)
        self.state = State(self.options, self.disk)
        self.feed(Start())
        return self

    def feed(self, event: Event) -> Rig:
        events = deque([event])
        while events:
            self.state, actions = step(self.state, events.popleft(), self.moment())
            for action in actions:
                if self.crash_in is not None:
                    if self.crash_in == 0:
                        self.crash_in = None
                        raise Crash
                    self.crash_in -= 1
                self.actions.append(action)
                events.extend(self._perform(action))
        return self

    def _perform(self, action: Action) -> Iterator[Event]:
        match action:
            case MakeKeys():
                yield KeysMade(make_keys(self.state.options.outputs))
            case Save(durable):
                fails = self.fail_save_in == 0
                if self.fail_save_in is not None:
                    self.fail_save_in = None if fails else self.fail_save_in - 1
                if fails:
                    yield SaveFailed(StateFailure("cannot write the state: input/output error"))
                else:
                    self.disk = durable
                    yield Saved()
            case CheckDestination():
                if self.destination.has_room:
                    yield DestinationReady()
                else:
                    yield DestinationUnfit(StateFailure("no room"))
            case Publish(held):
                # Durable before it is published.
                assert self.disk.held == held
                try:
                    self.destination.publish(Outputs.from_held(held), self.monotonic)
                except StateFailure as error:
                    yield PublishFailed(error)
                else:
                    yield Published()
            case Ask():
                self.asked.append(action)
                self.on_disk_when_asked.append(self.disk)
                answered = self._answer(action)
                self.answers.append(answered.error if isinstance(answered, WasRefused) else None)
                yield answered
            case TellIssued() | TellOver() | TellTrouble() | TellSkew() | Finish():
                pass

    def _answer(self, action: Ask) -> Event:
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Refused):
            return WasRefused(fault)
        if isinstance(fault, MeziteError):
            return Unanswered(fault)
        if fault == LOST_REQUEST:
            return Unanswered(Unreachable("nobody is there"))
        key = ssh_keys.private_from_pem(action.signer_pem, None)
        said = answer(self.auth, action.request, lambda data: ssh_keys.sign(key, data), action.nonce)
        if fault == LOST_REPLY:
            return Unanswered(Unreachable("the connection broke"))
        if isinstance(said, Refused):
            return WasRefused(said)
        return Answered(said)

    @property
    def finished(self) -> Finish | None:
        return next((action for action in reversed(self.actions) if isinstance(action, Finish)), None)

    @property
    def generation(self) -> int:
        return self.disk.held.generation if self.disk.held is not None else 0


def keys_of(request: JoinRequest | RenewRequest) -> tuple[bytes, ...]:
    """The public keys that *request* asks for."""
    lineage = request.lineage_key if isinstance(request, JoinRequest) else request.new_lineage_key
    return lineage, *(key.blob for key in request.ssh_keys)


def joined_rig(auth: Auth, **options: object) -> Rig:
    """A rig that has joined with a token of its own."""
    token: TokenText = auth.add_token(auth.add_bot())
    rig = Rig(auth, Options(token=token, **options))  # type: ignore[arg-type]
    rig.feed(Start())
    assert rig.generation == 1
    return rig

