"""What the machine of machine.py is told, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mezite.core.request import Issued, JoinRequest, RenewRequest
from mezite.errors import MeziteError, Refused
from mezite.identity.records import Durable, GenerationKeys, Held


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by two clocks, and the chance that this step may use."""

    monotonic: timedelta
    """Since some fixed moment; stands still while the machine sleeps."""
    wall: datetime
    chance: float
    """In [0, 1): the jitter of a delay."""


@dataclass(frozen=True, slots=True)
class Due:
    """A moment to come, by both clocks: the one that gets there first decides.

    So a machine that was suspended, whose monotonic clock stood still, is late
    at once when it wakes; and one whose wall clock was set back is still in time.
    """

    monotonic: timedelta
    wall: datetime

    @classmethod
    def after(cls, delay: timedelta, now: Moment) -> Due:
        return cls(now.monotonic + delay, now.wall + delay)

    def left(self, now: Moment) -> timedelta:
        return max(timedelta(0), min(self.monotonic - now.monotonic, self.wall - now.wall))

    def reached(self, now: Moment) -> bool:
        return self.left(now) == timedelta(0)


@dataclass(frozen=True, slots=True)
class Skew:
    """How far the server's clock is ahead of this machine's."""

    ahead: timedelta
    give_or_take: timedelta


# --- inputs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The state has been read; nothing else has happened."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Some time has passed."""


@dataclass(frozen=True, slots=True)
class KeysMade:
    """The keys that :class:`MakeKeys` asked for."""

    keys: GenerationKeys


@dataclass(frozen=True, slots=True)
class Saved:
    """The state of the last :class:`Save` is on the disk."""


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """It is not, and the state before it still is."""

    error: MeziteError


@dataclass(frozen=True, slots=True)
class DestinationReady:
    """The destination can be written."""


@dataclass(frozen=True, slots=True)
class DestinationUnfit:
    """It cannot; nothing was asked of the server."""

    error: MeziteError


@dataclass(frozen=True, slots=True)
class Answered:
    """The server has issued certificates; they are not looked at yet."""

    issued: Issued


@dataclass(frozen=True, slots=True)
class WasRefused:
    """The server has answered with a refusal."""

    error: Refused


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer came, or none that could be read: what became of the request is unknown."""

    error: MeziteError


@dataclass(frozen=True, slots=True)
class Untrusted:
    """The server did not prove itself; nothing was sent to it."""

    error: MeziteError


@dataclass(frozen=True, slots=True)
class Published:
    """The destination holds the identity."""


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """The destination holds what it held before."""

    error: MeziteError


@dataclass(frozen=True, slots=True)
class RenewNow:
    """A person asks for a renewal, due or not."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is to end; what is under way may be cut."""


Event = (
    Start | Tick | KeysMade | Saved | SaveFailed | DestinationReady | DestinationUnfit | Answered
    | WasRefused | Unanswered | Untrusted | Published | PublishFailed | RenewNow | Stop
)


# --- actions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeKeys:
    """Make a lineage key and the SSH keys; answer with :class:`KeysMade`."""


@dataclass(frozen=True, slots=True)
class Save:
    """Put *durable* on the disk; answer with :class:`Saved` or :class:`SaveFailed`."""

    durable: Durable


@dataclass(frozen=True, slots=True)
class CheckDestination:
    """Answer with :class:`DestinationReady` or :class:`DestinationUnfit`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send *request*, signed by *signer* over *nonce*; answer with one of
    :class:`Answered`, :class:`WasRefused`, :class:`Unanswered`, :class:`Untrusted`."""

    request: JoinRequest | RenewRequest
    signer_pem: bytes = field(repr=False)
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class Publish:
    """Write *held* to the destination; answer with :class:`Published` or :class:`PublishFailed`."""

    held: Held


@dataclass(frozen=True, slots=True)
class TellIssued:
    """An identity came and is published; the next renewal is due in *renew_in*."""

    held: Held
    joined: bool
    renew_in: timedelta


@dataclass(frozen=True, slots=True)
class TellOver:
    """The identity on disk is over by *error*; the new token is redeemed."""

    error: Refused


@dataclass(frozen=True, slots=True)
class TellTrouble:
    """Something failed that is tried again in *retry_in*."""

    error: MeziteError
    retry_in: timedelta


@dataclass(frozen=True, slots=True)
class TellSkew:
    """This machine's clock *is_off*, or no longer is."""

    skew: Skew
    is_off: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """End the process with *exit_code*, and with *error* where there is one."""

    exit_code: int
    error: MeziteError | None = None


Action = (
    MakeKeys | Save | CheckDestination | Ask | Publish | TellIssued | TellOver | TellTrouble | TellSkew
    | Finish
)
