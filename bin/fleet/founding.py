"""Machines that have joined already: by the server's use cases, straight into its database, some time ago."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from fleet.machines import Machine
from mezite.auth import authorities
from mezite.auth.context import AuthoritySet, Cluster, Context, Peer, Transaction
from mezite.auth.join import join
from mezite.auth.proof import prove_join
from mezite.certs import keys
from mezite.core.request import JOIN, Issued, JoinRequest, Signed, TokenText, signed_bytes
from mezite.errors import Refused
from mezite.identity.events import Ask
from mezite.identity.records import Durable, GenerationKeys, Held
from mezite.identity.service import make_keys
from mezite.identity.states import Options, State
from mezite.rpc import messages
from mezite.storage.sqlite import SqliteStorage

TOGETHER = 100
"""Joins that share a commit."""
_PEER = Peer("127.0.0.1")


class Founding:
    """The world of machines whose joins are answered by *database* itself, which no server has open.

    *now* gives seconds since *epoch*, for the machines and for what is issued to them.
    """

    def __init__(
        self, database: Path, epoch: datetime, now: Callable[[], float], chance: random.Random
    ) -> None:
        self.epoch = epoch
        self.chance = chance
        self._now = now
        self._asked: list[tuple[Machine, Ask]] = []
        self._storage = SqliteStorage(database)

        def load(tx: Transaction) -> tuple[Cluster, AuthoritySet]:
            loaded = authorities.load_authorities(tx, None, os.urandom)
            return authorities.load_cluster(tx, ""), loaded.current

        cluster, current = self._storage.read(load).result()
        self._context = Context(
            cluster, lambda: current, tuple, lambda: epoch + timedelta(seconds=now()), os.urandom
        )

    def close(self) -> None:
        self._storage.close()

    def join(self, tokens: Sequence[TokenText], ttl: timedelta, server: str) -> list[Machine]:
        """A machine for each of *tokens*, that has been given its first identity."""
        made: list[Machine] = []
        for first in range(0, len(tokens), TOGETHER):
            some = [
                Machine(self, self._now(), State(Options(token=token, ttl=ttl, server=server), Durable()))
                for token in tokens[first : first + TOGETHER]
            ]
            for machine in some:
                machine.start(machine.begins)
            self._answer()
            made += some
        for machine in made:
            if machine.state.durable.held is None:
                raise RuntimeError(f"a join failed: {machine.state.trouble or machine.finished}")
            # What a service manager starts without a token, once there is an identity.
            machine.state = replace(machine.state, options=replace(machine.state.options, token=None))
        return made

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        answers = [self._storage.write(self._use_case(ask), concurrent=True) for _, ask in asked]
        for (machine, _), answer in zip(asked, answers, strict=True):
            machine.heard(answer.result(60), self._now())

    def _use_case(self, ask: Ask) -> Callable[[Transaction], Issued | Refused]:
        request = ask.request
        assert isinstance(request, JoinRequest)
        body = messages.join_body(request)
        key = keys.private_from_pem(ask.signer_pem, None)
        signature = keys.sign(key, signed_bytes(JOIN, self._context.cluster.uuid, b"", body))
        proof = prove_join(self._context, request, Signed(body, signature, b""))
        return lambda tx: join(self._context, tx, request, proof, nonce=b"", peer=_PEER)

    # --- the machines' world ------------------------------------------------------------------

    def keys(self) -> GenerationKeys:
        return make_keys()

    def publish(self, held: Held) -> None:
        """Published where it is used."""

    def send(self, machine: Machine, ask: Ask, at: float) -> None:
        self._asked.append((machine, ask))

    def at(self, when: float, what: Callable[[float], None]) -> None:
        """They wake in another world."""
