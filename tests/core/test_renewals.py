"""How often an instance may renew."""

from __future__ import annotations

from mezite.core.renewals import _KEPT, RenewalRates


def granted(rates: RenewalRates, instance: str, seconds: int, each: float) -> int:
    """How many of one renewal every *each* seconds are granted."""
    return sum(rates.wait(instance, number * each) is None for number in range(int(seconds / each)))


def test_a_loop_is_slowed_down_and_told_when() -> None:
    rates = RenewalRates(5)
    assert 100 + 5 * 59 <= granted(rates, "loop", 60, 1 / 2000) <= 100 + 5 * 60
    assert rates.wait("loop", 60.0) == 1.0
    assert rates.wait("loop", 61.0) is None


def test_no_daemon_meets_it() -> None:
    """One second between renewals, each of them asked for four times, for an hour."""
    assert granted(RenewalRates(5), "daemon", 3600, 1 / 4) == 3600 * 4


def test_one_loop_slows_nobody_else_down() -> None:
    rates = RenewalRates(5)
    granted(rates, "loop", 10, 1 / 1000)
    assert granted(rates, "daemon", 60, 1.0) == 60


def test_memory_is_bounded_and_a_loop_is_not_forgotten() -> None:
    rates = RenewalRates(5)
    granted(rates, "loop", 1, 1 / 1000)
    for number in range(5 * _KEPT):
        rates.wait(f"instance-{number}", 1.0)
        if not number % 100:
            assert rates.wait("loop", 1.0) is not None
    assert len(rates._recent) + len(rates._older) <= 2 * _KEPT
