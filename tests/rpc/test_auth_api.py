"""The methods over a real connection: what strangers leave behind in log and audit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from mezite.auth import older
from mezite.certs.x509 import SERVER_NAME
from mezite.core.admission import Limits
from mezite.core.audit import AuditEvent, EventType
from mezite.core.request import TokenText
from mezite.errors import Reason, Refused, StorageFailure
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.rpc import messages
from mezite.rpc.auth_api import AuthApi
from mezite.rpc.refusals import STRANGERS_PER_MINUTE, RefusalLog
from mezite.rpc.status import error_from_status
from tests.harness import Auth, Machine
from tests.rpc.serving import Ca, serving

JOIN = "/mezite.v1.IdentityService/Join"
RENEW = "/mezite.v1.IdentityService/Renew"
Ask = Callable[[pb.SignedRequest], Awaitable[Reason]]


@pytest.fixture
def auth() -> Any:
    made = Auth()
    yield made
    made.close()


@asynccontextmanager
async def calling(api: AuthApi, method: str) -> AsyncIterator[Any]:
    """The call of *method*, at a server that is *api*."""
    ca = Ca()
    async with serving(api, ca.leaf()) as port:
        roots = grpc.ssl_channel_credentials(ca.leaf()[1])
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", roots, options) as channel:
            yield channel.unary_unary(method, pb.SignedRequest.SerializeToString)


async def refused(call: Any, request: pb.SignedRequest) -> Reason:
    """Why *request* is."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(request, timeout=30)
    error = caught.value
    told = error_from_status(error.code(), error.details() or "", error.trailing_metadata())
    assert isinstance(told, Refused), told
    return told.reason


def asking(auth: Auth, talk: Callable[[Ask], Awaitable[None]]) -> list[AuditEvent]:
    """The rows that were left by the joins that *talk* sent, each refused."""
    rows: list[AuditEvent] = []

    async def run(prepare: Any, finish: Any) -> Any:
        return finish(auth.write(prepare()))

    async def main() -> None:
        api = AuthApi(auth.context, run, rows.append, lambda: None, RefusalLog())
        async with calling(api, JOIN) as call:
            await talk(lambda request: refused(call, request))

    asyncio.run(main())
    return rows


def join_of(auth: Auth, token: TokenText) -> pb.SignedRequest:
    _, signed = Machine(auth).join_request(token)
    return messages.signed_message(signed)


def test_strangers_who_join_while_the_database_is_an_older_copy_leave_a_few_rows(auth: Auth) -> None:
    """No token is looked at then, so each may name another one."""
    auth.write(lambda tx: older.note(auth.context, tx, older.Sign.MARK))

    async def talk(ask: Ask) -> None:
        for _ in range(3 * STRANGERS_PER_MINUTE):
            token = TokenText.from_random(os.urandom(22), "0" * 32)
            assert await ask(join_of(auth, token)) is Reason.DATABASE_RESTORED

    rows = asking(auth, talk)
    assert len(rows) == STRANGERS_PER_MINUTE


@pytest.mark.parametrize("id", ["{0.id}-{0.secret}", "{0.id}\0", "{0.id} ", "", "x"])
def test_what_is_no_token_id_is_refused_unread_and_unwritten(auth: Auth, id: str) -> None:
    """Least of all one with its secret behind it; and PostgreSQL takes no NUL."""
    token = auth.add_token(auth.add_bot())

    async def talk(ask: Ask) -> None:
        wrong = replace(token, id=id.format(token))
        assert await ask(join_of(auth, wrong)) is Reason.INVALID_REQUEST

    (row,) = asking(auth, talk)
    assert row.resource_name == ""
    assert token.secret not in str(row)


# --- whoever gives up -----------------------------------------------------------------------

STRICT = Limits(failures_of_address=0.01, renewals_of_suspects=0.01)
"""One failure, and one renewal of whoever had it."""


class Watched(AuthApi):
    """Says when it has heard that a caller is gone, and when a call has been judged."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gone, self.judged = asyncio.Event(), asyncio.Event()

    async def Join(self, request: pb.SignedRequest, context: Any) -> pb.IssueResponse:
        return await self._watch(super().Join(request, context))

    async def Renew(self, request: pb.SignedRequest, context: Any) -> pb.IssueResponse:
        return await self._watch(super().Renew(request, context))

    async def _watch(self, answer: Awaitable[pb.IssueResponse]) -> pb.IssueResponse:
        try:
            return await answer
        except asyncio.CancelledError:
            self.gone.set()
            raise

    def _left(self, *parts: Any) -> None:
        super()._left(*parts)
        self.judged.set()


class GivingUp:
    """Callers of a server who are gone before what they asked for has run."""

    def __init__(self, auth: Auth) -> None:
        self.rows: list[AuditEvent] = []
        self.failure: Exception | None = None
        """What the database meets."""
        self._auth = auth
        self._go, self._arrived = asyncio.Event(), asyncio.Event()
        self.api = Watched(
            auth.context, self._run, self.rows.append, lambda: None, RefusalLog(), STRICT, lambda: 0.0
        )

    async def _run(self, prepare: Any, finish: Any) -> Any:
        self._arrived.set()
        await self._go.wait()
        use_case = prepare()
        if self.failure is not None:
            raise self.failure
        return finish(self._auth.write(use_case))

    async def give_up(self, call: Any, request: pb.SignedRequest) -> None:
        """The work goes on when the server has heard that nobody waits."""
        for event in (self._go, self._arrived, self.api.gone, self.api.judged):
            event.clear()
        asked = call(request)
        await self._arrived.wait()
        asked.cancel()
        await self.api.gone.wait()
        self._go.set()
        await self.api.judged.wait()

    async def ask(self, call: Any, request: pb.SignedRequest) -> Reason:
        """Why it is refused."""
        self._go.set()
        return await refused(call, request)


def giving_up(auth: Auth, method: str, talk: Callable[[GivingUp, Any], Awaitable[None]]) -> None:
    async def main() -> None:
        callers = GivingUp(auth)
        async with calling(callers.api, method) as call:
            await talk(callers, call)

    asyncio.run(main())


def wrong_join(auth: Auth) -> pb.SignedRequest:
    return join_of(auth, TokenText.from_random(os.urandom(22), "0" * 32))


def test_whoever_gives_up_a_wrong_join_has_failed(auth: Auth) -> None:
    """By what became of it, which is written down, too; else nobody would be held to any limit
    who does not wait for the answer."""

    async def talk(callers: GivingUp, join: Any) -> None:
        await callers.give_up(join, wrong_join(auth))
        assert [(row.type, row.reason) for row in callers.rows] == [
            (EventType.JOIN_REFUSED, Reason.TOKEN_UNKNOWN.code)
        ]
        assert await callers.ask(join, wrong_join(auth)) is Reason.UNAVAILABLE

    giving_up(auth, JOIN, talk)


def test_whoever_gives_up_a_forged_renewal_has_failed(auth: Auth) -> None:
    """Though its certificate is verified in a second step."""
    other = Auth()
    try:
        forger = Machine(other)
        forger.join(other.add_token(other.add_bot()))
        _, signed = forger.renew_request()
        forged = messages.signed_message(signed)
    finally:
        other.close()

    async def talk(callers: GivingUp, renew: Any) -> None:
        await callers.give_up(renew, forged)
        assert await callers.ask(renew, forged) is Reason.BAD_PROOF
        assert await callers.ask(renew, forged) is Reason.UNAVAILABLE

    giving_up(auth, RENEW, talk)


def test_whoever_gives_up_while_the_database_is_away_has_not_failed(auth: Auth) -> None:
    """A machine whose deadline passes is no guesser."""

    async def talk(callers: GivingUp, join: Any) -> None:
        callers.failure = StorageFailure("the database is away")
        for _ in range(3):
            await callers.give_up(join, wrong_join(auth))
        callers.failure = None
        assert await callers.ask(join, wrong_join(auth)) is Reason.TOKEN_UNKNOWN

    giving_up(auth, JOIN, talk)


def test_a_join_that_its_machine_has_given_up_holds(auth: Auth) -> None:
    """It has failed nobody, and is repeated like one whose reply was lost."""
    token = auth.add_token(auth.add_bot())

    async def talk(callers: GivingUp, join: Any) -> None:
        await callers.give_up(join, join_of(auth, token))
        assert await callers.ask(join, join_of(auth, token)) is Reason.TOKEN_USED

    giving_up(auth, JOIN, talk)


def test_a_loop_of_renewals_is_told_to_wait_and_hides_no_fork(auth: Auth) -> None:
    """Whoever copied an identity and renews as fast as he can is found by its owner's next renewal."""
    owner = Machine(auth)
    owner.join(auth.add_token(auth.add_bot()))
    thief = owner.copy()

    async def run(prepare: Any, finish: Any) -> Any:
        return finish(auth.write(prepare()))

    async def main() -> None:
        rows: list[AuditEvent] = []
        api = AuthApi(
            auth.context, run, rows.append, lambda: None, RefusalLog(), Limits(renewals_of_instance=0.1),
            seconds=lambda: 1.0,
        )
        async with calling(api, RENEW) as call:
            for _ in range(2):
                answer = await call(messages.signed_message(thief.renew_request()[1]), timeout=30)
                thief.accept(messages.issued_from(pb.IssueResponse.FromString(answer)))
            for _ in range(3):
                again = messages.signed_message(thief.renew_request()[1])
                assert await refused(call, again) is Reason.TOO_OFTEN
            assert [row.reason for row in rows] == [Reason.TOO_OFTEN.code]
            generation = auth.instance(owner.instance_id).generation
            assert await refused(call, messages.signed_message(owner.renew_request()[1])) is Reason.PROVE
            assert auth.instance(owner.instance_id).generation == generation == 3

    asyncio.run(main())
