"""Machines by the thousand, without daemons: requests built by hand, sent over a few connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio

from mezite.certs import keys
from mezite.core.request import (
    JOIN,
    RENEW,
    Issued,
    JoinRequest,
    RenewRequest,
    SshKey,
    TokenText,
    Wishes,
    signed_bytes,
)
from mezite.errors import MeziteError, Reason, Refused, Unreachable
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.proto.mezite.v1.identity_pb2_grpc import IdentityServiceStub
from mezite.rpc import messages
from mezite.rpc.status import error_from_status
from tests.system.processes import Cluster

CONNECTIONS = 8
DEADLINE = 60.0
Answer = Issued | MeziteError


@dataclass
class Asker:
    """Keys of one machine, or of one holder of its identity."""

    lineage: keys.PrivateKey = field(default_factory=keys.generate_key)
    ssh: keys.PrivateKey = field(default_factory=keys.generate_key)

    @property
    def ssh_keys(self) -> tuple[SshKey, ...]:
        return (SshKey("default", keys.public_blob(self.ssh)),)


@dataclass(frozen=True)
class Question:
    """A request, and who signs it; the nonce is given when it is sent."""

    method: str
    body: bytes
    signer: keys.PrivateKey


def wishes() -> Wishes:
    return Wishes(timedelta(minutes=5), timedelta(minutes=1), datetime.now(UTC), host="ci")


def joining(token: TokenText, asker: Asker) -> Question:
    request = JoinRequest(
        token.id, token.secret, keys.public_blob(asker.lineage), asker.ssh_keys, wishes()
    )
    return Question(JOIN, messages.join_body(request), asker.lineage)


def renewing(issued: Issued, held: Asker, wanted: Asker) -> Question:
    """From what *held* was *issued* to the keys of *wanted*."""
    request = RenewRequest(
        issued.instance_id, issued.generation, keys.public_blob(held.lineage), issued.certificates[0],
        keys.public_blob(wanted.lineage), wanted.ssh_keys, wishes(),
    )
    return Question(RENEW, messages.renew_body(request), held.lineage)


class Wire:
    """Connections to a cluster's server; :meth:`run` is the way in from a test."""

    def __init__(self, port: int, ca_pem: bytes, connections: int = CONNECTIONS) -> None:
        self.turned_away = 0
        """Answers that told to come again later."""
        options = [
            ("grpc.ssl_target_name_override", "auth.mezite.internal"), ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        credentials = grpc.ssl_channel_credentials(ca_pem)
        self._channels = [
            grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) for _ in range(connections)
        ]
        self._stubs = [IdentityServiceStub(channel) for channel in self._channels]
        self._uuid = ""

    async def open(self) -> None:
        answers = await asyncio.gather(*(
            stub.GetCluster(pb.GetClusterRequest(), timeout=DEADLINE) for stub in self._stubs
        ))
        self._uuid = answers[0].cluster_uuid

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    def message(self, question: Question, nonce: bytes = b"") -> pb.SignedRequest:
        data = signed_bytes(question.method, self._uuid, nonce, question.body)
        signature = keys.sign(question.signer, data)
        return pb.SignedRequest(body=question.body, signature=signature, nonce=nonce)

    async def send(self, question: Question, message: pb.SignedRequest, number: int = 0) -> Answer:
        stub = self._stubs[number % len(self._stubs)]
        call: Any = stub.Join if question.method == JOIN else stub.Renew
        try:
            return messages.issued_from(await call(message, timeout=DEADLINE))
        except grpc.aio.AioRpcError as error:
            trailers: Any = error.trailing_metadata() or ()
            return error_from_status(error.code(), error.details() or "", trailers)

    async def ask_all(
        self, questions: Sequence[Question], nonces: Sequence[bytes] | None = None, *, patience: float = 90
    ) -> list[Answer]:
        """Every question at once; whoever is told to come again later, or not answered, does so
        until *patience* is over."""
        asked = [
            self.message(question, nonce)
            for question, nonce in zip(questions, nonces or [b""] * len(questions), strict=True)
        ]
        deadline = asyncio.get_running_loop().time() + patience

        async def persist(number: int) -> Answer:
            while True:
                answer = await self.send(questions[number], asked[number], number)
                wait = answer.retry_after_ms / 1000 if isinstance(answer, Refused) else 0
                self.turned_away += wait > 0
                if isinstance(answer, Unreachable):
                    wait = 1  # more than 1,000 that it has not looked at yet grpc turns away by lot
                if not wait or asyncio.get_running_loop().time() + wait > deadline:
                    return answer
                await asyncio.sleep(wait)

        return list(await asyncio.gather(*map(persist, range(len(questions)))))


def on_the_wire(cluster: Cluster, use: Callable[[Wire], Awaitable[Any]]) -> Any:
    """What *use* makes of connections to the cluster's server; bounded."""
    ca_pem = cluster.ctl("ca", "export", "--type=server").encode()

    async def run() -> Any:
        wire = Wire(cluster.port, ca_pem)
        try:
            await wire.open()
            return await use(wire)
        finally:
            await wire.close()

    async def bounded() -> Any:
        return await asyncio.wait_for(run(), 200)

    return asyncio.run(bounded())


def reasons(answers: Sequence[Answer]) -> dict[str, int]:
    """How often each; ``issued`` for the winners."""
    found: dict[str, int] = {}
    for answer in answers:
        code = "issued" if isinstance(answer, Issued) else answer.code
        found[code] = found.get(code, 0) + 1
    return found


def nonce_of(answer: Answer) -> bytes:
    assert isinstance(answer, Refused)
    assert answer.reason is Reason.PROVE
    return answer.nonce
