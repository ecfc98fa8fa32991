"""What the daemon knows: the part of it that lies on disk."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from mezite.core.request import SshKey, Trust
from mezite.discreet import Discreet

MAX_REMEMBERED = 32
"""Tokens redeemed, and joins never answered, that the state remembers; the newest ones."""


class KeyPair(Discreet, frozen=True):
    """A private key (PKCS#8 PEM) and its public half (SSH wire format)."""

    hidden = ("private_pem",)

    private_pem: bytes
    public: bytes


class SshPair(Struct, frozen=True):
    """An SSH key, and the output that it is published in."""

    output: str
    pair: KeyPair


class Wanted(Struct, frozen=True):
    """An output, and what its certificate is asked for; ``None``: whatever there is."""

    output: str
    roles: tuple[str, ...] | None = None
    ttl: timedelta | None = None


OUTPUT = "default"
"""The first output, where the lineage lies too."""
ONE_OUTPUT = (Wanted(OUTPUT),)


class GenerationKeys(Struct, frozen=True):
    """The keys of one generation: made together, asked for together."""

    lineage: KeyPair
    ssh: tuple[SshPair, ...]

    def ssh_keys(self, wanted: tuple[Wanted, ...] = ()) -> tuple[SshKey, ...]:
        """The public halves, as a request names them, with the wishes for those outputs."""
        wishes = {one.output: one for one in wanted}
        keys = []
        for key in self.ssh:
            wish = wishes.get(key.output, Wanted(key.output))
            keys.append(SshKey(key.output, key.pair.public, wish.roles, wish.ttl))
        return tuple(keys)


class Held(Struct, frozen=True):
    """An identity that the server has given: one generation of one instance."""

    instance_id: str
    bot: str
    generation: int
    keys: GenerationKeys
    certificates: tuple[bytes, ...]
    """One for each SSH key, in their order; SSH wire format."""
    trust: Trust
    principals: tuple[str, ...]
    roles: tuple[str, ...]
    valid_before_unix: int
    """By the server's clock, as in the certificate."""
    ttl: timedelta
    renew_after: timedelta
    """Counted from ``received_at``."""
    received_at: datetime
    """By this machine's clock."""
    server_time: datetime
    """The server's clock at that moment."""
    asked_ttl: timedelta | None
    asked_interval: timedelta | None
    asked_outputs: tuple[Wanted, ...] = ONE_OUTPUT

    def has_output(self, name: str) -> bool:
        return any(key.output == name for key in self.keys.ssh)

    @property
    def skew(self) -> timedelta:
        """How far the server's clock is ahead of this machine's, give or take the answer's way."""
        return self.server_time - self.received_at


class PendingJoin(Struct, frozen=True):
    """The keys that a token is redeemed with: the same ones whatever happens."""

    token_id: str
    keys: GenerationKeys


class Durable(Struct, frozen=True):
    """All that the daemon must find again after a crash.

    ``pending`` are the keys asked for as the generation after the held one:
    made once, kept until an answer names them.
    """

    held: Held | None = None
    pending: GenerationKeys | None = None
    joins: tuple[PendingJoin, ...] = ()
    redeemed: tuple[str, ...] = ()
    """Ids of the tokens that this directory's identities came from, the newest last."""
    server: str = ""
    """The auth server's address (``host:port``) that answered last."""

    def join_keys(self, token_id: str) -> GenerationKeys | None:
        """The keys that the token with this id is, or was to be, redeemed with."""
        return next((join.keys for join in self.joins if join.token_id == token_id), None)

    def with_join(self, token_id: str, keys: GenerationKeys) -> Durable:
        return replace(self, joins=(*self.joins, PendingJoin(token_id, keys))[-MAX_REMEMBERED:])

    def joined(self, held: Held, token_id: str) -> Durable:
        """The state after a token's answer: a new lineage, the old one is over."""
        others = tuple(token for token in self.redeemed if token != token_id)
        return replace(
            self,
            held=held,
            pending=None,
            joins=tuple(join for join in self.joins if join.token_id != token_id),
            redeemed=(*others, token_id)[-MAX_REMEMBERED:],
        )

    def renewed(self, held: Held) -> Durable:
        return replace(self, held=held, pending=None)
