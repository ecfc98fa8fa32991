"""Where the daemon is: the phases of machine.py's table, and all that a step knows."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from msgspec import Struct

from mezite.core.request import JoinRequest, RenewRequest, TokenText
from mezite.errors import MeziteError, Refused
from mezite.identity.events import Due, Moment, Skew
from mezite.identity.records import ONE_OUTPUT, Durable, Wanted


class Phase(Enum):
    EMPTY = "empty"
    """Not started."""
    PREPARING = "preparing"
    """Keys are being made and saved, or the destination looked at; nothing is sent yet."""
    JOINING = "joining"
    """A token is being redeemed."""
    RENEWING = "renewing"
    """The next generation has been asked for."""
    PROVING = "proving"
    """The same, once more over the server's nonce."""
    KEEPING = "keeping"
    """An answer is being saved."""
    PUBLISHING = "publishing"
    """The destination is being written."""
    HOLDING = "holding"
    """Nothing is due."""
    WAITING = "waiting"
    """The last attempt failed; the next one is due later."""
    ENDED = "ended"


class Purpose(Enum):
    """What an attempt is for."""

    JOIN = "join"
    RENEW = "renew"


class Options(Struct, frozen=True):
    """What the person who started the daemon asked for."""

    token: TokenText | None = None
    one_shot: bool = False
    ttl: timedelta | None = None
    interval: timedelta | None = None
    server: str = ""
    """The auth server's address (``host:port``)."""
    host: str = ""
    boot_id: str = ""
    outputs: tuple[Wanted, ...] = ONE_OUTPUT


class State(Struct, frozen=True):
    options: Options
    durable: Durable
    """What is on the disk."""
    phase: Phase = Phase.EMPTY
    purpose: Purpose = Purpose.RENEW
    unsaved: Durable | None = None
    """What a :class:`Save` under way puts there."""
    request: JoinRequest | RenewRequest | None = None
    """The one under way: a nonce is answered by these very bytes."""
    asked: Moment | None = None
    """When that was sent."""
    proofs: int = 0
    is_new: bool = False
    """The identity held was given in this run."""
    untold: bool = False
    """It has not been told of yet."""
    expires: Due | None = None
    """The end of the certificate held."""
    renew_due: Due | None = None
    retry_due: Due | None = None
    failures: int = 0
    publish_due: Due | None = None
    publish_failures: int = 0
    give_up: Due | None = None
    """When a one-shot run stops asking."""
    skew: Skew | None = None
    """As the last answer of this run showed it."""
    told_of_skew: bool = False
    trouble: MeziteError | None = None
    """Why the last attempt failed; ``None`` after one that did not."""
    refusal: Refused | None = None
    """Why the lineage is over for which a token is now redeemed."""

    @property
    def has_been_granted(self) -> bool:
        """The same interval, TTL and outputs were good for the identity held: if they are
        no more, a role has changed since, and may change back."""
        held, options = self.durable.held, self.options
        if held is None or held.asked_outputs != options.outputs:
            return False
        return (held.asked_ttl, held.asked_interval) == (options.ttl, options.interval)

    @property
    def has_unseen_token(self) -> bool:
        """A token was given that this directory's identities did not come from."""
        token = self.options.token
        return token is not None and token.id not in self.durable.redeemed
