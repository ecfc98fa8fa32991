"""The methods of ``mezite.v1.IdentityService``: decode, call one use case, encode."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import unquote

import grpc
from grpc.aio import ServicerContext
from msgspec import Struct
from twisted.logger import Logger

from mezite.auth.context import Context, Peer, Transaction
from mezite.auth.join import join
from mezite.auth.leave import leave
from mezite.auth.proof import Provenance, prove_certificate, prove_join, prove_leave, prove_renew
from mezite.auth.renew import Unverified, renew
from mezite.core.admission import Admission, Kind, Limits
from mezite.core.audit import AuditEvent, EventType, plain
from mezite.core.renewals import RenewalRates
from mezite.core.request import Issued
from mezite.errors import InvalidInput, MeziteError, Reason, Refused
from mezite.metering import OK, RequestMeter
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.proto.mezite.v1.identity_pb2_grpc import IdentityServiceServicer
from mezite.rpc import messages
from mezite.rpc.policy import speaks_tls13
from mezite.rpc.refusals import RefusalLog
from mezite.rpc.status import REFUSAL_TRAILER, STATUS_OF, refusal_bytes

_log = Logger()
_TELL_EVERY_S = 60.0
_UNPROVEN = frozenset({Reason.TOKEN_UNKNOWN, Reason.BAD_PROOF, Reason.INVALID_REQUEST})
"""Refusals of who may be guessing."""

T = TypeVar("T")
U = TypeVar("U")


_Outcome = pb.IssueResponse | pb.LeaveResponse | Refused


class Run(Protocol):
    """Calls *prepare* some time, carries its use case to the storage, and after COMMIT brings
    what *finish* makes of its outcome.  What either raises, the awaitable does."""

    def __call__(
        self, prepare: Callable[[], Callable[[Transaction], T]], finish: Callable[[T], U], /
    ) -> Awaitable[U]: ...


class _Method(Struct, frozen=True):
    name: str
    kind: Kind
    refused: EventType
    resource: str
    """What a refusal's row is about."""


_JOIN = _Method("join", Kind.JOIN, EventType.JOIN_REFUSED, "token")
_RENEW = _Method("renew", Kind.RENEW, EventType.RENEW_REFUSED, "instance")
_LEAVE = _Method("leave", Kind.RENEW, EventType.LEAVE_REFUSED, "instance")


class _Call:
    """One request while it is being answered."""

    __slots__ = ("is_given_up", "peer", "request", "started", "subject")

    def __init__(self, request: pb.SignedRequest, peer: Peer, started: float) -> None:
        self.request = request
        self.peer = peer
        self.started = started
        self.is_given_up = False
        """Whether its sender waits no more."""
        self.subject = ""
        """Whom it is about, once that has been read."""


class _Renewal:
    """What is known of a renewal between its steps."""

    __slots__ = (
        "_call", "_check_clock", "_context", "_proof", "_provenance", "_signed", "_wait_of", "_wanted",
    )

    def __init__(
        self, context: Context, check_clock: Callable[[], None], wait_of: Callable[[str], float | None],
        call: _Call,
    ) -> None:
        self._context = context
        self._check_clock = check_clock
        self._call = call
        self._wait_of = wait_of
        self._provenance: Provenance | None = None

    def prepare(self) -> Callable[[Transaction], Issued | Refused | Unverified]:
        self._signed = signed = messages.signed_from(self._call.request)
        self._wanted = wanted = messages.renew_request_from(signed.body)
        self._call.subject = wanted.instance_id
        self._check_clock()
        self._proof = prove_renew(self._context, wanted, signed)
        return self._use_case

    def prepare_again(self) -> Callable[[Transaction], Issued | Refused | Unverified]:
        self._provenance = prove_certificate(self._context, self._wanted, self._proof)
        return self._use_case

    def _use_case(self, tx: Transaction) -> Issued | Refused | Unverified:
        return renew(
            self._context, tx, self._wanted, self._proof, self._provenance,
            nonce=self._signed.nonce, peer=self._call.peer, wait_of=self._wait_of,
        )


class AuthApi(IdentityServiceServicer):
    """*record* writes an audit event some time; *clock_fault* says why
    the server's clock cannot be trusted, or ``None``; *seconds* is a clock that
    nobody sets; *meter* counts what is answered."""

    def __init__(
        self,
        context: Context,
        run: Run,
        record: Callable[[AuditEvent], None],
        clock_fault: Callable[[], str | None],
        refusals: RefusalLog,
        limits: Limits | None = None,
        seconds: Callable[[], float] = time.monotonic,
        meter: RequestMeter | None = None,
    ) -> None:
        self._context = context
        self._run = run
        self._record = record
        self._clock_fault = clock_fault
        self._refusals = refusals
        self._seconds = seconds
        self._meter = meter or RequestMeter()
        limits = limits or Limits()
        self._admission = Admission(limits, seconds())
        self._rates = RenewalRates(limits.renewals_of_instance)
        self._told_at = -_TELL_EVERY_S

    # gRPC's names.

    async def GetCluster(
        self, request: pb.GetClusterRequest, context: ServicerContext
    ) -> pb.GetClusterResponse:
        await _require_tls13(context)
        cluster = self._context.cluster
        return pb.GetClusterResponse(
            cluster_name=cluster.name,
            cluster_uuid=cluster.uuid,
            server_time_unix_ms=messages.to_unix_ms(self._context.clock()),
        )

    async def Join(self, request: pb.SignedRequest, context: ServicerContext) -> pb.IssueResponse:
        answer: pb.IssueResponse = await self._answer(_JOIN, self._join, request, context)
        return answer

    async def Renew(self, request: pb.SignedRequest, context: ServicerContext) -> pb.IssueResponse:
        answer: pb.IssueResponse = await self._answer(_RENEW, self._renew, request, context)
        return answer

    async def Leave(self, request: pb.SignedRequest, context: ServicerContext) -> pb.LeaveResponse:
        answer: pb.LeaveResponse = await self._answer(_LEAVE, self._leave, request, context)
        return answer

    async def _answer(
        self,
        method: _Method,
        judge: Callable[[_Call], Awaitable[Any]],
        request: pb.SignedRequest,
        context: ServicerContext,
    ) -> Any:
        """What *judge* gives; a refusal ends the call."""
        await _require_tls13(context)
        call = _Call(request, _peer(context), self._seconds())
        outcome: Any = self._turned_away(method, call)
        if outcome is not None:
            self._conclude(method, call, outcome)
        else:
            # What is let in is judged to its end: who gives up beforehand guesses no cheaper.
            judged = asyncio.ensure_future(self._judged(method, judge, call))
            try:
                outcome = await asyncio.shield(judged)
            except asyncio.CancelledError:
                call.is_given_up = True
                raise
        if isinstance(outcome, Refused):
            await self._refuse(context, outcome)
        return outcome

    async def _judged(
        self, method: _Method, judge: Callable[[_Call], Awaitable[Any]], call: _Call
    ) -> Any:
        outcome: Any = None
        try:
            outcome = await judge(call)
        except MeziteError as error:
            outcome = _refusal(error)
        finally:
            self._left(method.kind, call, outcome)
        self._conclude(method, call, outcome)
        return outcome

    # What is prepared and finished runs with what others ask; what is signed by nobody
    # never reaches the database.

    async def _join(self, call: _Call) -> pb.IssueResponse | Refused:
        def prepare() -> Callable[[Transaction], Issued | Refused]:
            signed = messages.signed_from(call.request)
            wanted = messages.join_request_from(signed.body)
            call.subject = plain(wanted.token_id, 64)
            self._check_clock()
            proof = prove_join(self._context, wanted, signed)
            return lambda tx: join(self._context, tx, wanted, proof, nonce=signed.nonce, peer=call.peer)

        return await self._run(prepare, _issued)

    async def _renew(self, call: _Call) -> pb.IssueResponse | Refused:
        renewal = _Renewal(self._context, self._check_clock, self._wait_of, call)
        outcome = await self._run(renewal.prepare, _renewed)
        if isinstance(outcome, Unverified):
            outcome = await self._run(renewal.prepare_again, _renewed)
        assert not isinstance(outcome, Unverified)
        return outcome

    def _wait_of(self, instance_id: str) -> float | None:
        return self._rates.wait(instance_id, self._seconds())

    async def _leave(self, call: _Call) -> pb.LeaveResponse | Refused:
        def prepare() -> Callable[[Transaction], Refused | None]:
            signed = messages.signed_from(call.request)
            wanted = messages.leave_request_from(signed.body)
            call.subject = wanted.instance_id
            self._check_clock()
            proof = prove_leave(self._context, wanted, signed)
            provenance = prove_certificate(self._context, wanted, proof)
            return lambda tx: leave(
                self._context, tx, wanted, proof, provenance, nonce=signed.nonce, peer=call.peer
            )

        def left(refused: Refused | None) -> pb.LeaveResponse | Refused:
            now = self._context.clock()
            return refused or pb.LeaveResponse(server_time_unix_ms=messages.to_unix_ms(now))

        return await self._run(prepare, left)

    def _turned_away(self, method: _Method, call: _Call) -> Refused | None:
        """The refusal of a request that there is no room for; else it is counted
        until :meth:`_left`."""
        kind, peer, now = method.kind, call.peer, self._seconds()
        wait = self._admission.enter(
            kind, peer.address, now, lambda: method is _RENEW and self._proves_itself(call)
        )
        if wait is None:
            return None
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            _log.warn(
                "more {kind}s come than are let in, such as from {peer}; some are told to come again later",
                event="machines.crowded",
                kind=kind.value, peer=peer.address,
            )
        return Refused(
            Reason.UNAVAILABLE,
            "the server has too much to do, or too much comes from this address; it asks to be asked again "
            f"in {wait:.0f} s",
            retry_after_ms=int(wait * 1000),
        )

    def _proves_itself(self, call: _Call) -> bool:
        """Whether a renewal is signed by the key of a certificate of ours: nobody can make that
        up, and it is found out without the database."""
        try:
            signed = messages.signed_from(call.request)
            wanted = messages.renew_request_from(signed.body)
            prove_certificate(self._context, wanted, prove_renew(self._context, wanted, signed))
        except MeziteError:
            return False
        return True

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return self._admission.waiting

    def _conclude(self, method: _Method, call: _Call, outcome: _Outcome) -> None:
        """The outcome is counted, and written down where it is worth it."""
        reason = outcome.reason.code if isinstance(outcome, Refused) else OK
        self._meter.note(method.name, reason, self._seconds() - call.started)
        if isinstance(outcome, Refused):
            self._record_refusal(outcome, method, call)

    def _left(self, kind: Kind, call: _Call, outcome: _Outcome | None) -> None:
        self._admission.leave(
            kind,
            call.peer.address,
            self._seconds(),
            proven=outcome is not None and not isinstance(outcome, Refused),
            failed=isinstance(outcome, Refused) and outcome.reason in _UNPROVEN,
            given_up=outcome is None or call.is_given_up,
        )

    def _check_clock(self) -> None:
        fault = self._clock_fault()
        if fault is not None:
            raise Refused(
                Reason.SERVER_CLOCK,
                f"{fault}; nothing is judged until it is set right, or an operator says that it is right: "
                "mezctl status --accept-clock",
            )

    def _record_refusal(self, refused: Refused, method: _Method, call: _Call) -> None:
        subject, peer = call.subject, call.peer
        now = self._context.clock()
        if self._refusals.is_worth_a_row(refused.reason, subject, now, is_join=method is _JOIN):
            _log.info(
                "{event}: {resource}={subject} peer={peer} reason={reason}: {why}",
                event=method.refused.event_name,
                resource=method.resource,
                subject=subject or "-",
                peer=peer.address,
                reason=refused.reason.code,
                why=str(refused),
            )
            self._record(
                AuditEvent(
                    method.refused,
                    now,
                    actor="machine",
                    resource_type=method.resource,
                    resource_name=subject,
                    client_ip=peer.address,
                    success=False,
                    reason=refused.reason.code,
                    message=plain(str(refused)),
                )
            )

    async def _refuse(self, context: ServicerContext, refused: Refused) -> NoReturn:
        refused.server_time_unix_ms = messages.to_unix_ms(self._context.clock())
        context.set_trailing_metadata(((REFUSAL_TRAILER, refusal_bytes(refused)),))
        await context.abort(STATUS_OF[refused.reason], f"{refused.reason.code}: {refused}")
        raise AssertionError("abort always raises")


def _issued(outcome: Issued | Refused) -> pb.IssueResponse | Refused:
    return messages.issued_message(outcome) if isinstance(outcome, Issued) else outcome


def _renewed(outcome: Issued | Refused | Unverified) -> pb.IssueResponse | Refused | Unverified:
    return outcome if isinstance(outcome, Unverified) else _issued(outcome)


def _refusal(error: MeziteError) -> Refused:
    """What the peer learns of an error that is no refusal of its own."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InvalidInput):
        return Refused(Reason.INVALID_REQUEST, str(error))
    _log.error("a request could not be carried out: {why}", event="machines.request_failed", why=str(error))
    return Refused(Reason.UNAVAILABLE, "the server cannot work just now; its log says why")


async def _require_tls13(context: ServicerContext) -> None:
    if not speaks_tls13(context):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "TLS 1.3 is required")


def _peer(context: ServicerContext) -> Peer:
    """The IP address in grpc's ``ipv4:1.2.3.4:5``, ``ipv6:%5B::1%5D:5``."""
    kind, _, rest = context.peer().partition(":")
    host = rest.rpartition(":")[0]
    if kind == "ipv4":
        return Peer(host)
    host = unquote(host).strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Peer(plain(kind, 16))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return Peer(str(address.ipv4_mapped))
    return Peer(str(address))
