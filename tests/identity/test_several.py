"""A machine that knows several servers, and what it makes of each one's answer."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from mezite.core.request import Issued, RenewRequest
from mezite.errors import MeziteError, NoAnswer, Reason, Refused, Unreachable, UntrustedServer
from mezite.identity.remote import Known
from mezite.identity.several import SeveralRemotes

ANSWER = cast(Issued, object())
REQUEST = cast(RenewRequest, object())


class Server:
    """Answers with what it is told to."""

    def __init__(self, name: str, outcome: Any = ANSWER) -> None:
        self.address = name
        self.outcome = outcome
        self.asked = 0

    def ask(self, request: object, sign: object, known: Known, nonce: bytes) -> Deferred[Issued]:
        assert request is REQUEST
        self.asked += 1
        return fail(self.outcome) if isinstance(self.outcome, Exception) else succeed(self.outcome)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(remote: SeveralRemotes) -> Any:
    outcomes: list[Any] = []
    remote.ask(REQUEST, lambda data: b"", Known(), b"").addBoth(outcomes.append)
    (outcome,) = outcomes
    return getattr(outcome, "value", outcome)


def in_order(*servers: Server, clock: Clock | None = None) -> SeveralRemotes:
    return SeveralRemotes(servers, lambda order: None, clock or Clock())


AWAY, SLOW = Unreachable("refused"), NoAnswer("20 s")
BUSY = Refused(Reason.UNAVAILABLE, "no database")


@pytest.mark.parametrize("error", [AWAY, SLOW, BUSY, Refused(Reason.SERVER_CLOCK, "x"), UntrustedServer("x")])
def test_the_next_server_is_asked_when_one_cannot_answer(error: MeziteError) -> None:
    first, second = Server("a:1", error), Server("b:1")
    assert ask(in_order(first, second)) is ANSWER
    assert (first.asked, second.asked) == (1, 1)


@pytest.mark.parametrize("reason", [Reason.PROVE, Reason.LOCKED, Reason.TOKEN_USED, Reason.BAD_PROOF])
def test_a_refusal_of_the_machine_is_an_answer(reason: Reason) -> None:
    """No other server would say anything else: they have one database."""
    refused = Refused(reason, "no")
    first, second = Server("a:1", refused), Server("b:1")
    assert ask(in_order(first, second)) is refused
    assert second.asked == 0


def test_when_none_answers_the_last_one_speaks() -> None:
    assert ask(in_order(Server("a:1", AWAY), Server("b:1", SLOW))) is SLOW


def test_a_stranger_decides_only_where_all_are() -> None:
    """One mistyped address must not end a daemon."""
    stranger = UntrustedServer("not ours")
    assert ask(in_order(Server("a:1", stranger), Server("b:1", AWAY))) is AWAY
    assert ask(in_order(Server("a:1", stranger), Server("b:1", UntrustedServer("x")))) is stranger


def test_one_that_failed_is_asked_last_for_a_minute() -> None:
    clock = Clock()
    first, second = Server("a:1", AWAY), Server("b:1")
    remote = in_order(first, second, clock=clock)
    for _ in range(3):
        assert ask(remote) is ANSWER
    assert (first.asked, second.asked) == (1, 3)
    clock.now += 61
    first.outcome = ANSWER
    assert ask(remote) is ANSWER
    assert (first.asked, second.asked) == (2, 3)


def test_the_order_is_by_chance() -> None:
    first, second = Server("a:1"), Server("b:1")
    remote = SeveralRemotes([first, second], lambda order: order.reverse(), Clock())
    assert ask(remote) is ANSWER
    assert (first.asked, second.asked) == (0, 1)
    assert remote.address == "a:1,b:1"
