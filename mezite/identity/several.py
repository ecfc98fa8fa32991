"""Several auth servers on one database: whichever answers will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from twisted.internet.defer import Deferred

from mezite.core.request import Issued, JoinRequest, RenewRequest
from mezite.errors import MeziteError, Reason, Refused, Unreachable, UntrustedServer
from mezite.identity.remote import Known, Remote
from mezite.rpc.client import Sign

LAST_CHOICE_FOR = timedelta(minutes=1)
"""A server that could not answer is asked after the others for so long."""
_TROUBLE = frozenset({Reason.UNAVAILABLE, Reason.SERVER_CLOCK})
"""Refusals that say something about that server, and nothing about the machine."""


class SeveralRemotes:
    """A :class:`~mezite.identity.remote.Remote` over others.

    Each question goes to them in an order of its own, which spreads a fleet, until
    one answers.  It is the very same request, so that it does no harm when a server
    that did not answer has carried it out, too; a nonce of one is good at all.
    """

    def __init__(
        self, remotes: Sequence[Remote], shuffle: Callable[[list[Remote]], None],
        monotonic: Callable[[], float],
    ) -> None:
        self.address = ",".join(remote.address for remote in remotes)
        self._remotes = tuple(remotes)
        self._shuffle = shuffle
        self._monotonic = monotonic
        self._failed_at: dict[Remote, float] = {}

    def ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Deferred[Issued]:
        """Fails as the remote that was asked last did.  One that proves to be a stranger
        is passed over, and decides only if all do."""
        return Deferred.fromCoroutine(self._ask(request, sign, known, nonce))

    async def _ask(
        self, request: JoinRequest | RenewRequest, sign: Sign, known: Known, nonce: bytes
    ) -> Issued:
        stranger: UntrustedServer | None = None
        silent: MeziteError | None = None
        for remote in self._order():
            try:
                answer = await remote.ask(request, sign, known, nonce)
            except UntrustedServer as error:
                stranger = stranger or error
            except Unreachable as error:
                silent = error
            except Refused as error:
                if error.reason not in _TROUBLE:
                    self._failed_at.pop(remote, None)
                    raise
                silent = error
            else:
                self._failed_at.pop(remote, None)
                return answer
            self._failed_at[remote] = self._monotonic()
        raise silent or stranger or Unreachable("no auth server is known")

    def _order(self) -> list[Remote]:
        """By chance, those that have just failed last."""
        order = list(self._remotes)
        self._shuffle(order)
        since = self._monotonic() - LAST_CHOICE_FOR.total_seconds()
        return sorted(order, key=lambda remote: self._failed_at.get(remote, since) > since)
