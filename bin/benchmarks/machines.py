"""The client's side of the load: machines that join and renew, every answer checked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.measure import cpu_seconds, percentile
from mezite.certs import keys
from mezite.certs.x509 import SERVER_NAME
from mezite.core.request import (
    JOIN,
    RENEW,
    JoinRequest,
    RenewRequest,
    SshKey,
    TokenText,
    Wishes,
    signed_bytes,
)
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.rpc import messages
from mezite.rpc.client import _OPTIONS

_SERVICE = "/mezite.v1.IdentityService/"
DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to call, and the CA that proves the server."""

    port: int
    ca_pem: bytes

    def channel(self) -> grpc.aio.Channel:
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]
        credentials = grpc.ssl_channel_credentials(self.ca_pem)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)


class Caller:
    """Calls over one kept connection, or over a fresh one each; notes how long each call took."""

    def __init__(self, target: Target, *, fresh: bool) -> None:
        self._target = target
        self._kept = None if fresh else target.channel()
        self.seconds: list[float] = []

    async def __call__(self, method: str, message: bytes) -> bytes:
        """The answer; an answer with any status but OK is raised."""
        started = time.perf_counter()
        channel = self._kept or self._target.channel()
        answer: bytes = await channel.unary_unary(method, None, None)(message, timeout=DEADLINE)
        self.seconds.append(time.perf_counter() - started)
        if channel is not self._kept:
            await channel.close(None)
        return answer

    async def close(self) -> None:
        if self._kept is not None:
            await self._kept.close(None)


class Machine:
    """One identity: joins with a token, and renews with new keys each time."""

    def __init__(self, cluster_uuid: str, token: TokenText) -> None:
        self._cluster_uuid = cluster_uuid
        self._token = token
        self._wishes = Wishes(None, None, datetime.now(UTC), host="bench")
        self.lineage: ec.EllipticCurvePrivateKey | None = None
        self.instance_id, self.generation, self.certificate = "", 0, b""
        self.sizes = (0, 0)
        """Bytes of the last request and its answer."""

    def another(self) -> Machine:
        """One that has not joined yet."""
        return Machine(self._cluster_uuid, self._token)

    async def join(self, caller: Caller) -> None:
        """A new instance."""
        lineage, ssh = keys.generate_key(), keys.public_blob(keys.generate_key())
        self.generation = 0
        request = JoinRequest(
            self._token.id, self._token.secret, keys.public_blob(lineage), (SshKey("default", ssh),),
            self._wishes,
        )
        await self._ask(caller, JOIN, messages.join_body(request), lineage, lineage, ssh)

    async def renew(self, caller: Caller) -> None:
        """The next generation."""
        assert self.lineage is not None
        lineage, ssh = keys.generate_key(), keys.public_blob(keys.generate_key())
        request = RenewRequest(
            self.instance_id, self.generation, keys.public_blob(self.lineage), self.certificate,
            keys.public_blob(lineage), (SshKey("default", ssh),), self._wishes,
        )
        await self._ask(caller, RENEW, messages.renew_body(request), self.lineage, lineage, ssh)

    async def _ask(
        self, caller: Caller, method: str, body: bytes, signing: ec.EllipticCurvePrivateKey,
        lineage: ec.EllipticCurvePrivateKey, ssh: bytes,
    ) -> None:
        signature = keys.sign(signing, signed_bytes(method, self._cluster_uuid, b"", body))
        sent = pb.SignedRequest(body=body, signature=signature).SerializeToString()
        got = await caller(_SERVICE + method, sent)
        answer = pb.IssueResponse.FromString(got)
        (certificate,) = answer.certificates
        # The certificate's own check costs too much here; the key's last bytes are its point.
        if answer.generation != self.generation + 1 or ssh[-64:] not in certificate:
            raise RuntimeError(f"{method} was answered with generation {answer.generation}")
        self.lineage, self.certificate = lineage, certificate
        self.instance_id, self.generation = answer.instance_id, answer.generation
        self.sizes = (len(sent), len(got))


@dataclass(frozen=True, slots=True)
class Load:
    """What one round under load showed."""

    cpu_us: float
    """CPU time of the server per request."""
    per_second: float
    p50_ms: float
    p99_ms: float


Work = Callable[[Caller], Awaitable[Any]]


async def load(
    target: Target, pid: int | Sequence[int], works: Sequence[Work], *, fresh: bool, seconds: float,
    most: int = 10**9,
) -> Load:
    """Each of *works* repeated, all at once, each over connections of its own, for *seconds* or
    until there were *most*; *pid* is the server's, or those of its processes."""
    callers = [Caller(target, fresh=fresh) for _ in works]
    once = [partial(work, caller) for work, caller in zip(works, callers, strict=True)]
    try:
        return await repeated(pid, once, [caller.seconds for caller in callers], seconds=seconds, most=most)
    finally:
        await asyncio.gather(*(caller.close() for caller in callers))


async def repeated(
    pid: int | Sequence[int], once: Sequence[Callable[[], Awaitable[Any]]], noted: Sequence[list[float]], *,
    seconds: float, most: int = 10**9,
) -> Load:
    """Each of *once* again and again, all at once, for *seconds* or until there were *most*; they
    note in *noted* how long each request took."""
    pids = [pid] if isinstance(pid, int) else pid

    def used() -> float:
        return sum(map(cpu_seconds, pids))

    # Connections that are kept are made, and everything is warm, before it counts.
    await asyncio.gather(*(one() for one in once))
    for some in noted:
        some.clear()
    count = itertools.count()
    cpu, started = used(), time.perf_counter()

    async def repeat(one: Callable[[], Awaitable[Any]]) -> None:
        while time.perf_counter() - started < seconds and next(count) < most:
            await one()

    await asyncio.gather(*map(repeat, once))
    wall, cpu = time.perf_counter() - started, used() - cpu
    times = [second for some in noted for second in some]
    return Load(
        cpu / len(times) * 1e6, len(times) / wall, percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3
    )
