"""What the machine of machine.py is told, and what it wants done."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from mezite.core.request import Issued, JoinRequest, RenewRequest
from mezite.discreet import Discreet
from mezite.errors import MeziteError, Refused
from mezite.identity.records import Durable, GenerationKeys, Held


class Moment(Struct, frozen=True):
    """Now, by two clocks, and the chance that this step may use."""

    monotonic: timedelta
    """Since some fixed moment; stands still while the machine sleeps."""
    wall: datetime
    chance: float
    """In [0, 1): the jitter of a delay."""


class Due(Struct, frozen=True):
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


class Skew(Struct, frozen=True):
    """How far the server's clock is ahead of this machine's."""

    ahead: timedelta
    give_or_take: timedelta


# --- inputs --------------------------------------------------------------------------------


class Start(Struct, frozen=True):
    """The state has been read; nothing else has happened."""


class Tick(Struct, frozen=True):
    """Some time has passed."""


class KeysMade(Struct, frozen=True):
    """The keys that :class:`MakeKeys` asked for."""

    keys: GenerationKeys


class Saved(Struct, frozen=True):
    """The state of the last :class:`Save` is on the disk."""


class SaveFailed(Struct, frozen=True):
    """It is not, and the state before it still is."""

    error: MeziteError


class DestinationReady(Struct, frozen=True):
    """The destination can be written."""


class DestinationUnfit(Struct, frozen=True):
    """It cannot; nothing was asked of the server."""

    error: MeziteError


class Answered(Struct, frozen=True):
    """The server has issued certificates; they are not looked at yet."""

    issued: Issued


class WasRefused(Struct, frozen=True):
    """The server has answered with a refusal."""

    error: Refused


class Unanswered(Struct, frozen=True):
    """No answer came, or none that could be read: what became of the request is unknown."""

    error: MeziteError


class Untrusted(Struct, frozen=True):
    """The server did not prove itself; nothing was sent to it."""

    error: MeziteError


class Published(Struct, frozen=True):
    """The destination holds the identity."""


class PublishFailed(Struct, frozen=True):
    """The destination holds what it held before."""

    error: MeziteError


class Removed(Struct, frozen=True):
    """What was published, or saved, is no longer where it was."""


class RenewNow(Struct, frozen=True):
    """A person asks for a renewal, due or not."""


class Stop(Struct, frozen=True):
    """The process is to end; what is under way may be cut."""


Event = (
    Start | Tick | KeysMade | Saved | SaveFailed | DestinationReady | DestinationUnfit | Answered
    | WasRefused | Unanswered | Untrusted | Published | PublishFailed | Removed | RenewNow | Stop
)


# --- actions -------------------------------------------------------------------------------


class MakeKeys(Struct, frozen=True):
    """Make a lineage key and the SSH keys; answer with :class:`KeysMade`."""


class Save(Struct, frozen=True):
    """Put *durable* on the disk; answer with :class:`Saved` or :class:`SaveFailed`."""

    durable: Durable


class CheckDestination(Struct, frozen=True):
    """Answer with :class:`DestinationReady` or :class:`DestinationUnfit`."""


class Ask(Discreet, frozen=True):
    """Send *request*, signed by *signer* over *nonce*; answer with one of
    :class:`Answered`, :class:`WasRefused`, :class:`Unanswered`, :class:`Untrusted`."""

    hidden = ("signer_pem",)

    request: JoinRequest | RenewRequest
    signer_pem: bytes
    nonce: bytes = b""


class Publish(Struct, frozen=True):
    """Write *held* to the destination; answer with :class:`Published` or :class:`PublishFailed`."""

    held: Held


class TellIssued(Struct, frozen=True):
    """An identity came and is published; the next renewal is due in *renew_in*."""

    held: Held
    joined: bool
    renew_in: timedelta


class TellOver(Struct, frozen=True):
    """The identity on disk is over by *error*; the new token is redeemed."""

    error: Refused


class TellTrouble(Struct, frozen=True):
    """Something failed that is tried again in *retry_in*."""

    error: MeziteError
    retry_in: timedelta


class TellSkew(Struct, frozen=True):
    """This machine's clock *is_off*, or no longer is."""

    skew: Skew
    is_off: bool


class Finish(Struct, frozen=True):
    """End the process with *exit_code*, and with *error* where there is one."""

    exit_code: int
    error: MeziteError | None = None


Action = (
    MakeKeys | Save | CheckDestination | Ask | Publish | TellIssued | TellOver | TellTrouble | TellSkew
    | Finish
)
