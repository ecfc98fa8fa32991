"""The units under a real systemd, booted as PID 1 in namespaces of its own (systemd/boot.sh)."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import BIN, Process, environment, wait_for

HERE = Path(__file__).parent / "systemd"
UNITS = Path(__file__).parents[2] / "docs" / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE = 300.0
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
"""One that every account may run; this one may lie in somebody's home."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces"),
    pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd (Debian: systemd)"),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"needs {PYTHON} (Debian: python3)"),
]


def install(place: Path) -> None:
    """Mezite as it is installed here, for the Python that every account may run."""
    (place / "bin").mkdir(parents=True)
    packages = place / "lib" / PYTHON.name / "site-packages"
    shutil.copytree(sysconfig.get_path("purelib"), packages, symlinks=True)
    (place / "bin/python").symlink_to(PYTHON)
    (place / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for program in ("twistd", "mezd", "mezctl", "msh"):
        _, _, rest = (BIN / program).read_text().partition("\n")
        (place / "bin" / program).write_text(f"#!/opt/mezite/bin/python\n{rest}")
        (place / "bin" / program).chmod(0o755)


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, str]]:
    """What run.sh has seen, by name; skipped where no systemd can be booted."""
    with tempfile.TemporaryDirectory(prefix="mezite-systemd-") as name:
        payload = Path(name, "payload")
        payload.mkdir()
        install(payload / "opt")
        shutil.copytree(UNITS, payload / "units")
        shutil.copy(HERE / "run.sh", payload)
        Path(name).chmod(0o755)
        process = Process([HERE / "boot.sh", name], environment(Path(name)), Path(name, "boot.log"))
        try:
            wait_for(lambda: process.code is not None, "end of the machine", PATIENCE)
        finally:
            process.end_group()
        out = payload / "out"
        told = dict(line.split(": ", 1) for line in out.read_text().splitlines()) if out.exists() else {}
        if "booted" not in told:
            pytest.skip(f"no systemd can be booted here: {process.text()[-500:]}")
        logs = "".join(f"\n{path.name}:\n{path.read_text()[-3000:]}" for path in payload.glob("*.log"))
        assert told.get("done") == "yes", f"{told} {(payload / 'err').read_text()[-3000:]} {logs}"
        yield told


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("auth", "active serving machines"),
        ("keys", "encrypted"),  # the passphrase has come by LoadCredential
        ("socket", "mezite:mezite 660 in 755"),
        ("operator", '{"bots":[],"next":null}'),
        ("stranger", "3"),
        ("mezd", "active bot machine"),
        ("account", "mezd 600, uid dynamic"),
        ("login", "deploy"),
        ("msh", "deploy"),
        ("agent", "1"),
        ("token-seen", "00"),
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
