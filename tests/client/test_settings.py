"""Settings of a program's identity: parsed as mezd's, faults by the names that the program wrote."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import mezite.client
from mezite.client import aio
from mezite.config.daemon import from_keywords
from mezite.errors import UsageError


@pytest.mark.parametrize(("settings", "expected"), [
    ({"renewal_interval": "soon"}, "renewal_interval: 'soon' is not a duration"),
    ({"renewal_interval": timedelta(0)}, "renewal_interval: '0s' is no time at all"),
    ({"renewal_interval": "2h", "certificate_ttl": timedelta(hours=1)},
     "renewal_interval: the renewal interval 2h is not shorter"),
    ({"auth_server": "host:port"}, "auth_server: 'host:port' is not an address"),
    ({"ca_pin": "abc"}, "ca_pin: expected 32"),
    ({"join_token": "x", "join_token_file": Path("y")}, "join_token_file: given together with join_token"),
])
def test_faults_name_the_keyword(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        aio.Identity(tmp_path, **settings)
    assert str(raised.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_an_identity_that_goes_on_has_a_directory() -> None:
    with pytest.raises(TypeError):
        aio.Identity(None, auth_server="127.0.0.1:1", join_token="x")  # type: ignore[arg-type]


def test_a_callback_that_would_have_to_be_awaited_is_refused(tmp_path: Path) -> None:
    async def renewed(credential: object) -> None:
        pass

    with pytest.raises(UsageError, match="on_renewal"):
        aio.Identity(tmp_path, on_renewal=renewed)


def test_no_module_of_it_chooses_a_reactor() -> None:
    """A program may install its own afterwards.  (Conch imports one, and so does what uses it.)"""
    program = ("import sys, mezite.client.aio, mezite.client.tx; "
               "print('twisted.internet.reactor' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_durations_are_texts_or_timedeltas(tmp_path: Path) -> None:
    config = from_keywords({"destination": str(tmp_path), "renewal_interval": "30m", "certificate_ttl": "1h"})
    assert (config.renewal_interval, config.certificate_ttl) == (timedelta(minutes=30), timedelta(hours=1))


def test_the_environment_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program says what it wants; a daemon's variables beside it mean nothing."""
    monkeypatch.setenv("MEZITE_CA_PIN", "no pin at all")
    assert from_keywords({"destination": str(tmp_path)}).ca_pin is None


def test_no_token_from_standard_input(tmp_path: Path) -> None:
    identity = aio.Identity(tmp_path, auth_server="127.0.0.1:1", join_token="-")
    with pytest.raises(UsageError, match="standard input"):
        asyncio.run(identity.start())


def test_blocking_calls_refuse_where_a_loop_runs(tmp_path: Path) -> None:
    async def joins() -> None:
        mezite.client.join(auth_server="127.0.0.1:1", join_token="x")

    async def leaves() -> None:
        mezite.client.leave(tmp_path)

    with pytest.raises(UsageError, match=r"await mezite\.client\.aio\.join"):
        asyncio.run(joins())
    with pytest.raises(UsageError, match=r"await mezite\.client\.aio\.leave"):
        asyncio.run(leaves())


@pytest.mark.parametrize(("install", "which"), [
    ("import twisted.internet.selectreactor as s; s.install()", "this is SelectReactor"),
    ("pass", "none is installed"),
])
def test_another_reactor_is_refused_in_words(tmp_path: Path, install: str, which: str) -> None:
    program = f"""{install}
from mezite.client import tx
def refused(failure):
    print(failure.type.__name__, failure.getErrorMessage())
tx.Identity({str(tmp_path)!r}, auth_server="127.0.0.1:1", join_token="x").start().addErrback(refused)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("UsageError mezite.client.tx needs Twisted's asyncio reactor")
    assert which in done.stdout
    assert done.stdout.count("\n") == 1
