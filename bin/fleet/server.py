"""The auth server as a fleet sees it: the real rules, and a processor that can do so much a second."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding

from mezite.certs import keys
from mezite.certs.signer import InProcessSigner
from mezite.certs.x509 import create_server_ca
from mezite.core.admission import Admission, Kind, Limits
from mezite.core.generation import Advance, Presented, Reissue, Stored, judge
from mezite.core.lifetime import IntervalTooLong, renew_after, renewal_interval
from mezite.core.model import Bot
from mezite.core.rbac import Granted
from mezite.core.request import Issued, JoinRequest, RenewRequest, Trust, request_hash
from mezite.core.template import user_certificate
from mezite.errors import MeziteError, NoAnswer, Reason, Refused, Unreachable

EPOCH = datetime(2026, 3, 24, 14, 0, tzinfo=UTC)
DEADLINE = 20.0
"""Seconds that a client waits for an answer (mezite.rpc.client.DEADLINE)."""
_AWAY, _SILENT = Unreachable("connection refused"), NoAnswer("no answer in time")


@dataclass
class Lineage:
    generation: int
    key: str
    previous: str
    request: bytes


@dataclass
class Served:
    """What a request became: an answer at some time, or an error."""

    at: float
    issued: Issued | MeziteError


@dataclass
class Server:
    """One queue, served in order, with the real limits (core/admission.py); all times
    are seconds since the start.

    A request costs *renewal* (or *join*) seconds of processor, also when its
    client gave up while it was served.  This is what a single process does with
    a connection each.
    """

    chance: random.Random
    ttl: timedelta
    renewal: float
    join: float
    abandoned: float = 0.0002
    """Seconds of processor for a request whose client gave up before it was served."""
    turning_away: float = 0.6
    """What it costs to turn a request away, in parts of a renewal: most of it is the connection."""
    outages: tuple[tuple[float, float], ...] = ()
    load: Counter[int] = field(default_factory=Counter)
    """Second → requests that came while the server was up."""
    refused: Counter[int] = field(default_factory=Counter)
    """Second → connections tried while it was down."""
    served: int = 0
    wasted: int = 0
    """Requests whose client had given up."""
    turned_away: int = 0
    """Requests that were told to come again later."""
    busy_until: float = 0.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._admission = Admission(self.limits, 0.0)
        self._leaving: list[tuple[float, int, Kind, str, bool]] = []
        self._order = itertools.count()
        user, host = keys.generate_ca_key(), keys.generate_ca_key()
        self._signer = InProcessSigner(user, host, self.chance.randbytes)
        uuid = "5a7f0f5e-7a4c-4f4e-9c55-0d8a3c5b1f00"
        certificate = create_server_ca(keys.generate_key(), "example", uuid, now=EPOCH, serial=1)
        self._trust = Trust(
            "example", uuid, self._signer.host_ca_blobs, self._signer.user_ca_blobs,
            (certificate.public_bytes(Encoding.DER),),
        )
        self._bot = Bot(id=str(UUID(int=1)), name="fleet", roles=("fleet",), created_at=EPOCH)
        self._granted = Granted(("fleet",), ("deploy",), self.ttl, False)
        self._lineages: dict[str, Lineage] = {}
        self._joined: dict[str, str] = {}
        self._serial = 0

    def is_up(self, at: float) -> bool:
        return not any(start <= at < end for start, end in self.outages)

    def ask(self, at: float, request: JoinRequest | RenewRequest) -> Served:
        """*request*, which comes in at *at*."""
        if not self.is_up(at):
            self.refused[int(at)] += 1
            return Served(at, _AWAY)
        self.load[int(at)] += 1
        while self._leaving and self._leaving[0][0] <= at:
            when, _, gone_kind, gone, given_up = heapq.heappop(self._leaving)
            self._admission.leave(gone_kind, gone, when, proven=not given_up, given_up=given_up)
        begin = max(at, self.busy_until)
        address = request.token_id if isinstance(request, JoinRequest) else request.instance_id
        kind = Kind.JOIN if isinstance(request, JoinRequest) else Kind.RENEW
        wait = self._admission.enter(kind, f"{address}.", at)
        if wait is not None:
            # Beside the queue: what is let in is not worked on before the others are sent away.
            self.busy_until = begin + self.turning_away * self.renewal
            self.turned_away += 1
            return Served(at, Refused(Reason.UNAVAILABLE, "too much to do", retry_after_ms=int(wait * 1000)))
        if begin - at > DEADLINE:
            self.busy_until = begin + self.abandoned
            self.wasted += 1
            self._leaves(at + DEADLINE, kind, address, given_up=True)
            return Served(at + DEADLINE, _SILENT)
        cost = self.join if isinstance(request, JoinRequest) else self.renewal
        self.busy_until = done = begin + cost
        self._leaves(min(done, at + DEADLINE), kind, address, given_up=done - at > DEADLINE)
        if not self.is_up(done):
            return Served(done, _AWAY)
        self.served += 1
        issued = self._judge(EPOCH + timedelta(seconds=done), request)
        if done - at > DEADLINE:
            self.wasted += 1
            return Served(at + DEADLINE, _SILENT)
        return Served(done, issued)

    def _leaves(self, when: float, kind: Kind, address: str, *, given_up: bool) -> None:
        heapq.heappush(self._leaving, (when, next(self._order), kind, f"{address}.", given_up))

    def _judge(self, now: datetime, request: JoinRequest | RenewRequest) -> Issued | Refused:
        interval = renewal_interval(request.wishes.interval, self.ttl)
        if isinstance(interval, IntervalTooLong):
            return Refused(Reason.INTERVAL_TOO_LONG, str(interval))
        new = request.lineage_key if isinstance(request, JoinRequest) else request.new_lineage_key
        key, asked = keys.fingerprint(new), request_hash(new, request.ssh_keys)
        if isinstance(request, JoinRequest):
            instance = self._joined.setdefault(request.token_id, str(UUID(int=len(self._joined) + 2)))
            lineage = self._lineages.setdefault(instance, Lineage(1, key, "", asked))
        else:
            instance = request.instance_id
            lineage = self._lineages[instance]
            judged = judge(
                Stored(lineage.generation, lineage.key, lineage.previous, lineage.request),
                Presented(request.generation, keys.fingerprint(request.lineage_key), key, asked),
            )
            if isinstance(judged, Advance):
                lineage = Lineage(judged.to_generation, key, lineage.key, asked)
                self._lineages[instance] = lineage
            elif not isinstance(judged, Reissue):
                return Refused(Reason.PROVE, "an honest machine is never asked for a proof")
        certificates = tuple(self._sign(now, instance, lineage, one.blob) for one in request.ssh_keys)
        return Issued(
            instance, self._bot.name, lineage.generation, certificates, self._trust, now, self.ttl,
            renew_after(interval, self.chance.random()),
        )

    def _sign(self, now: datetime, instance: str, lineage: Lineage, blob: bytes) -> bytes:
        self._serial += 1
        template = user_certificate(
            self._granted, self._bot, instance=instance, generation=lineage.generation,
            lineage_key=lineage.key, serial=self._serial, now=now,
        )
        return self._signer.sign_user(template, blob)
