"""Rates and the queue: who is served, who is sent away, and for how long."""

from __future__ import annotations

from mezite.core.admission import MOST_WAIT_S, Admission, Kind, Limits, _network

HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


def fail(admission: Admission, address: str, now: float, kind: Kind = Kind.RENEW) -> bool:
    """One request that proves nothing; whether it was even looked at."""
    if admission.enter(kind, address, now) is not None:
        return False
    admission.leave(kind, address, now, failed=True)
    return True


def succeed(admission: Admission, address: str, now: float, kind: Kind = Kind.RENEW) -> bool:
    if admission.enter(kind, address, now) is not None:
        return False
    admission.leave(kind, address, now, proven=True)
    return True


def test_whoever_fails_too_often_is_looked_at_seldom() -> None:
    """A guesser gets five tries a second, after a hundred at once."""
    admission = Admission(Limits(), 0)
    tried = sum(fail(admission, HOME, second / 100, Kind.JOIN) for second in range(100 * 60))
    assert tried <= 100 + 5 * 60
    assert succeed(admission, ELSEWHERE, 60, Kind.JOIN)


def test_guesses_that_come_at_once_are_guesses_that_come_in_turn() -> None:
    """Of who has failed before, no more are let in together than may fail; of whom nothing is known, all."""
    admission, looked_at = Admission(Limits(), 0), []
    for second in range(60):
        now = float(second)
        entered = [admission.enter(Kind.JOIN, HOME, now) is None for _ in range(100)].count(True)
        for _ in range(entered):
            admission.leave(Kind.JOIN, HOME, now, failed=True)
        looked_at.append(entered)
    assert looked_at[0] == 100
    assert sum(looked_at) <= 100 + 5 * 60
    assert all(admission.enter(Kind.JOIN, ELSEWHERE, 60.0) is None for _ in range(300))


def test_a_flood_from_one_address_leaves_renewals_from_it_a_way() -> None:
    """Those that prove nothing by themselves share twenty renewals a second with him."""
    admission = Admission(Limits(), 0)
    while fail(admission, HOME, 0, Kind.JOIN):
        pass
    assert not succeed(admission, HOME, 0, Kind.JOIN)
    renewed = 0
    for number in range(60_000):
        fail(admission, HOME, number / 1000, Kind.JOIN)
        renewed += succeed(admission, HOME, number / 1000)
    assert 20 * 60 <= renewed <= 20 * 80 + 5 * 60
    assert succeed(admission, HOME, 61)


def test_a_renewal_that_proves_itself_is_let_in_through_any_flood() -> None:
    """It shares nothing with an attacker of its address, or of all; and is asked only where it has to be."""
    admission = Admission(Limits(), 0)
    asked = []

    def proves_itself() -> bool:
        asked.append(True)
        return True

    assert admission.enter(Kind.RENEW, HOME, 0, proves_itself) is None
    admission.leave(Kind.RENEW, HOME, 0)
    assert not asked
    for number in range(60_000):
        fail(admission, HOME, number / 1000)
    assert admission.enter(Kind.RENEW, HOME, 60, lambda: False) is not None
    assert admission.enter(Kind.RENEW, HOME, 60, proves_itself) is None
    assert len(asked) == 1
    for number in range(100_000):
        fail(admission, f"203.0.{number // 250 % 250}.{number % 250}", 60 + number / 10_000)
    assert admission.enter(Kind.RENEW, ELSEWHERE, 70, lambda: False) is not None
    assert admission.enter(Kind.RENEW, ELSEWHERE, 70, proves_itself) is None
    # A proof is no ticket for a join, and none past the end of the queue.
    assert admission.enter(Kind.JOIN, HOME, 70, proves_itself) is not None
    full = Admission(Limits(waiting=1), 0)
    assert full.enter(Kind.RENEW, HOME, 0) is None
    assert full.enter(Kind.RENEW, HOME, 0, proves_itself) is not None


def test_a_flood_from_everywhere_does_not_stop_machines_that_have_renewed_before() -> None:
    """Nor does it let more than a share of the unknown in."""
    admission = Admission(Limits(), 0)
    assert succeed(admission, HOME, 0)
    looked_at = 0
    for number in range(100_000):
        now = number / 10_000
        looked_at += fail(admission, f"203.0.{number // 250 % 250}.{number % 250}", now)
        if number % 100 == 0:
            assert succeed(admission, HOME, now)
    assert looked_at <= (200 + 20) * (20 + 10) + 1


def test_joins_have_a_rate_of_their_own_and_renewals_none() -> None:
    admission = Admission(Limits(joins=10, joins_of_address=1000), 0)
    assert sum(succeed(admission, HOME, 0, Kind.JOIN) for _ in range(1000)) == 200
    assert all(succeed(admission, HOME, 0) for _ in range(1000))


def test_those_who_are_turned_away_come_again_one_after_the_other() -> None:
    """In the order they came, at the pace that the server keeps; so a herd is served in order."""
    admission = Admission(Limits(joins=10, joins_of_address=10), 0)
    while succeed(admission, HOME, 0, Kind.JOIN):
        pass
    waits = [admission.enter(Kind.JOIN, HOME, 0.0) for _ in range(100)]
    assert waits == sorted(waits)  # type: ignore[type-var]
    due = [wait for wait in waits if wait is not None and wait > 1]
    assert len(due) >= 85
    assert all(succeed(admission, HOME, wait + 0.2, Kind.JOIN) for wait in due)


def test_the_queue_has_an_end_and_joins_get_half_of_it() -> None:
    admission = Admission(Limits(waiting=100, joins=1000, joins_of_address=1000), 0)
    assert [admission.enter(Kind.JOIN, HOME, 0) for _ in range(51)].count(None) == 50
    assert [admission.enter(Kind.RENEW, HOME, 0) for _ in range(51)].count(None) == 50
    assert admission.waiting == 100
    waits = [admission.enter(Kind.RENEW, HOME, 0) for _ in range(1000)]
    assert waits[0] is not None
    assert 1 <= waits[0] < waits[-1] < 10  # type: ignore[operator]
    admission.leave(Kind.JOIN, HOME, 0, proven=True)
    assert admission.enter(Kind.RENEW, HOME, 0) is None


def test_a_slow_server_sends_away_for_longer_and_never_for_more_than_a_quarter_of_an_hour() -> None:
    admission = Admission(Limits(waiting=100), 0)
    for _ in range(100):
        assert admission.enter(Kind.RENEW, HOME, 0) is None
    for second in range(1, 20):
        admission.leave(Kind.RENEW, HOME, second, proven=True)
        admission.enter(Kind.RENEW, HOME, second)
    waits = [admission.enter(Kind.RENEW, HOME, 20) or 0 for _ in range(2000)]
    assert waits[0] > 50
    assert MOST_WAIT_S - 100 < max(waits) <= MOST_WAIT_S
    # A line that is longer begins anew: they come all the time, and not all in the end.
    assert sum(wait > MOST_WAIT_S - 100 for wait in waits) < 400
    # Nor does it keep more than it can answer before they give up.
    assert admission.room < 20
    assert admission.enter(Kind.JOIN, HOME, 400) is not None


def test_those_who_give_up_do_not_make_a_server_look_fast() -> None:
    admission = Admission(Limits(waiting=100), 0)
    for second in range(1, 60):
        for _ in range(100):
            if admission.enter(Kind.RENEW, HOME, second) is None and admission.waiting > 50:
                admission.leave(Kind.RENEW, HOME, second, given_up=True)
        admission.leave(Kind.RENEW, HOME, second, proven=True)
    assert admission.room < 20


def test_an_ipv6_customer_is_one_address() -> None:
    assert _network("2001:db8::1") == _network("2001:db8:0:0:ffff::2") == "2001:db8:0:0"
    assert _network("::1") == "0:0:0:0"
    assert _network("unix") == "unix"
    admission = Admission(Limits(), 0)
    tried = sum(fail(admission, f"2001:db8::{number:x}", 0) for number in range(1000))
    assert tried <= 100 + 400


def test_addresses_are_not_remembered_without_end() -> None:
    admission = Admission(Limits(failures=1e9), 0)
    for number in range(50_000):
        fail(admission, f"address-{number}.", 0)
        succeed(admission, f"other-{number}.", 0, Kind.RENEW)
    assert len(admission._failures_of._known) == len(admission._proven) == 20_000
