"""The command line of `bin/soak --postgres`."""

from __future__ import annotations

from fleet.several import Settings, parse


def test_what_is_asked_for_is_what_is_run() -> None:
    words = ["--postgres", "--servers=2", "--daemons=7", "--seconds=30", "--seed=21", "--json"]
    assert parse(words) == (Settings(servers=2, daemons=7, seconds=30, seed=21), True)
    assert parse([]) == (Settings(), False)
