"""The methods over a real connection: what strangers leave behind in log and audit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from mezite.auth import older
from mezite.certs.x509 import SERVER_NAME
from mezite.core.audit import AuditEvent
from mezite.core.request import TokenText
from mezite.errors import Reason, Refused
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.rpc import messages
from mezite.rpc.auth_api import AuthApi
from mezite.rpc.refusals import STRANGERS_PER_MINUTE, RefusalLog
from mezite.rpc.status import error_from_status
from tests.harness import Auth, Machine
from tests.rpc.serving import Ca, serving

JOIN = "/mezite.v1.IdentityService/Join"
Ask = Callable[[pb.SignedRequest], Awaitable[Reason]]


@pytest.fixture
def auth() -> Any:
    made = Auth()
    yield made
    made.close()


def asking(auth: Auth, talk: Callable[[Ask], Awaitable[None]]) -> list[AuditEvent]:
    """The rows that were left by the joins that *talk* sent, each refused."""
    rows: list[AuditEvent] = []

    async def run(prepare: Any, finish: Any) -> Any:
        return finish(auth.write(prepare()))

    async def main() -> None:
        api = AuthApi(auth.context, run, rows.append, lambda: None, RefusalLog())
        ca = Ca()
        async with serving(api, ca.leaf()) as port:
            roots = grpc.ssl_channel_credentials(ca.leaf()[1])
            options = [("grpc.ssl_target_name_override", SERVER_NAME)]
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", roots, options) as channel:
                call = channel.unary_unary(JOIN, pb.SignedRequest.SerializeToString)

                async def ask(request: pb.SignedRequest) -> Reason:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(request, timeout=30)
                    error = caught.value
                    told = error_from_status(error.code(), error.details() or "", error.trailing_metadata())
                    assert isinstance(told, Refused), told
                    return told.reason

                await talk(ask)

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
