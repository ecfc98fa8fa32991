"""The reference is made from the code as it is, with a word on everything; the site has no dead link."""

from __future__ import annotations

import shutil
import subprocess
import sys

import click
import pytest
from refdocs import codes, commands, events, metrics, settings
from refdocs.words import DAEMON, EVENTS, NODE, REASONS, SERVER

from mezite.config import daemon, outputs
from mezite.core.audit import EventType
from mezite.errors import Reason
from tests.docs.pages import ROOT

CLEAN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def test_everything_has_a_word() -> None:
    """A new setting, reason, code or event is told in bin/refdocs/words.py; what is gone is gone there."""
    assert set(SERVER) == set(settings.server_settings())
    assert set(REASONS) == {reason.code for reason in Reason}
    assert set(EVENTS) == {event.event_name for event in EventType}
    assert set(codes.node_codes()) == set(NODE) | (set(codes.node_codes()) & set(REASONS))
    assert set(daemon.FILE_KEYS) | (set(outputs.OUTPUT_KEYS) - set(daemon.KEYS)) == set(DAEMON)


def test_every_option_has_a_word() -> None:
    """Help texts are what the reference is made of."""
    silent = [f"{path} {param.name}" for name, program in commands.PROGRAMS.items()
              for path, command in commands.walk(program, name) for param in command.params
              if isinstance(param, click.Option) and not param.hidden and not param.help]
    assert silent == []


@pytest.mark.parametrize("reason", [reason.code for reason in Reason])
def test_troubleshooting_knows_every_reason(reason: str) -> None:
    assert f"`{reason}`" in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", codes.node_codes())
def test_every_code_of_the_node_is_told(code: str) -> None:
    told = "".join((ROOT / page).read_text(encoding="utf-8")
                   for page in ("docs/troubleshooting.md", "docs/node.md", "docs/conch-certificates.md"))
    assert f"`{code}`" in told


def test_metrics_are_those_that_are_served() -> None:
    """Collected, not listed: what a collector gives is on the page."""
    assert b"mezite_requests_total{" in metrics.server()
    assert b"mezite_identity_seconds_to_expiry" in metrics.daemon()
    assert "`mezite_identity_seconds_to_expiry`" in metrics.page()


def test_the_committed_pages_are_current() -> None:
    """bin/reference has been run since the code has changed."""
    assert "| `token_reused` |" in events.page()
    checked = subprocess.run([ROOT / "bin/reference", "--check"], env={"PYTHON": sys.executable, **CLEAN},
                             capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_site_builds_without_a_dead_link() -> None:
    """mkdocs in its strict mode: a link, an anchor or a page that is not there ends it."""
    if not shutil.which("mkdocs", path=f"{sys.prefix}/bin"):
        pytest.fail("mkdocs is missing: run bin/setup dev")
    built = subprocess.run([ROOT / "bin/docs", "--check"], env=CLEAN,
                           capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
