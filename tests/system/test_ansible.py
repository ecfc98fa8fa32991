"""The playbook that gives machines an identity, played on a machine of its own under a real systemd."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.booted import install, machine, needs_systemd
from tests.system.box import ROOT
from tests.system.processes import BIN
from tests.system.wheels import make_wheels

PLAYBOOK = ROOT / "docs/examples/ansible/mezd.yaml"

pytestmark = [
    *needs_systemd,
    pytest.mark.skipif(not (BIN / "ansible-playbook").exists(), reason="needs ansible-core (PyPI)"),
]


def not_installed() -> list[str]:
    """Debian packages that the play installs, its own needs, and those of the way in: none can be fetched on
    that machine."""
    (play,) = yaml.safe_load(PLAYBOOK.read_text(encoding="utf-8"))
    (apt,) = [task["ansible.builtin.apt"]["name"] for task in play["tasks"] if "ansible.builtin.apt" in task]
    return [name for name in ["openssh-server", "python3-apt", "sudo", *apt] if subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name],
        capture_output=True, text=True, check=False).stdout != "installed"]


def fill(payload: Path) -> None:
    install(payload / "control", "/payload/control", "mezite", "ansible-core")
    make_wheels(payload / "wheels", payload / "build")
    shutil.copytree(ROOT / "docs", payload / "docs")


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, str]]:
    """What ansible.sh has seen, by name."""
    missing = not_installed()
    if missing:
        pytest.skip(f"needs Debian's {', '.join(missing)}")
    with machine("ansible.sh", fill) as told:
        yield told


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("auth", "active"),
        # With --check: no file is made, and no token beside the bot's own.
        ("untried", "0 changed=3 failed=0"),
        ("untried-left", "0 1"),
        # Packages, settings, unit, token, start, and no token left behind.
        ("first", "0 changed=8 failed=0"),
        ("first-unit", "active enabled"),
        ("first-login", "deploy"),
        ("first-left", "identity.yaml"),
        ("again", "0 changed=0 failed=0"),
        # The settings, a restart, and enabled again; no second instance.
        ("changed", "0 changed=3 failed=0"),
        ("changed-unit", "active enabled"),
        ("changed-login", "deploy"),
        ("joined", "1"),
        # Removed by an operator, it comes back when one says so, and the reason is told when it cannot.
        ("removed", "failed"),
        ("nobody", "2 changed=1 failed=1"),
        ("nobody-told", "1"),
        ("anew", "0 changed=4 failed=0"),
        ("anew-unit", "active"),
        ("anew-login", "deploy"),
        ("anew-left", "identity.yaml"),
        ("secrets-told", "0"),
    ],
)
def test_the_playbook_gives_a_machine_its_identity(seen: dict[str, str], what: str, expected: str) -> None:
    assert seen[what] == expected
