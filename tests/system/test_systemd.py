"""The units under a real systemd, booted as PID 1 in namespaces of its own (systemd/boot.sh)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.booted import install, machine, needs_systemd
from tests.system.box import ROOT
from tests.system.shellblocks import blocks

PAGE = ROOT / "docs" / "systemd.md"

pytestmark = needs_systemd


def fill(payload: Path) -> None:
    install(payload / "opt", "/opt/mezite", "mezite")
    shutil.copytree(ROOT / "docs" / "systemd", payload / "docs" / "systemd")
    found = blocks(PAGE.read_text(encoding="utf-8"), PAGE.name)
    for name, block in zip(("server", "machine"), [one for one in found if one.is_for_a_shell], strict=True):
        (payload / f"typed-{name}.sh").write_text(block.text + "\n")


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, str]]:
    """What run.sh has seen, by name; it types the blocks of systemd.md."""
    with machine("run.sh", fill) as told:
        yield told


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("auth", "active enabled serving machines"),
        ("keys", "encrypted"),  # the passphrase has come by LoadCredential
        ("socket", "mezite:mezite 660 in 755"),
        ("operator", '{"bots":[],"next":null}'),
        ("stranger", "3"),
        ("mezd", "active enabled bot machine"),
        ("account", "mezd 600, uid dynamic"),
        ("login", "deploy"),
        ("msh", "deploy"),
        ("agent", "1"),
        ("token-seen", "000"),
        ("without-token", "active deploy"),
        ("watchdog", "active deploy"),
        ("template", "deploy deploy"),
        ("hook", "told"),
        ("given", "deploy:readers 640 deploy"),
        ("removed", "failed 3 restarts 0"),
        ("reloaded", "active"),
        ("stopped", "success 0"),
    ],
)
def test_under_a_real_systemd(seen: dict[str, str], what: str, expected: str) -> None:
    assert seen[what] == expected
