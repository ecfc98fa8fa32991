"""A systemd of its own, booted as PID 1 in namespaces (systemd/boot.sh), and what a script has seen there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.system.processes import BIN, Process, environment, wait_for
from tests.system.wheels import needed

HERE = Path(__file__).parent / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE = 300.0
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
"""One that every account may run; this one may lie in somebody's home."""

needs_systemd = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces"),
    pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd (Debian: systemd)"),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"needs {PYTHON} (Debian: python3)"),
]


def install(place: Path, home: str, *names: str) -> None:
    """Packages as they are installed here, with all that they need, for the Python that every account
    may run; *home* is where *place* is on the machine."""
    (place / "bin").mkdir(parents=True)
    packages = place / "lib" / PYTHON.name / "site-packages"
    for name in names:
        for package in (distribution(name), *needed(name).values()):
            for file in package.files or []:
                if ".." not in file.parts:
                    _link(Path(str(file.locate())), packages / file)
    (place / "bin/python").symlink_to(PYTHON)
    (place / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for program in ("twistd", "mezd", "mezctl", "msh", "ansible-playbook"):
        if (BIN / program).exists():
            _, _, rest = (BIN / program).read_text().partition("\n")
            (place / "bin" / program).write_text(f"#!{home}/bin/python\n{rest}")
            (place / "bin" / program).chmod(0o755)


def _link(source: Path, target: Path) -> None:
    """What is only read need not be copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except FileExistsError:
        pass  # of two packages that are asked for
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def machine(script: str, fill: Callable[[Path], None]) -> Iterator[dict[str, str]]:
    """What *script*, of the directory systemd, has seen on a machine with what *fill* put into its
    /payload, by name; the test is skipped where no systemd can be booted."""
    with tempfile.TemporaryDirectory(prefix="mezite-systemd-") as name:
        payload = Path(name, "payload")
        (payload / "opt").mkdir(parents=True)
        fill(payload)
        shutil.copy(HERE / script, payload / "run.sh")
        Path(name).chmod(0o755)
        process = Process([HERE / "boot.sh", name], environment(Path(name)), Path(name, "boot.log"))
        try:
            wait_for(lambda: process.code is not None, "end of the machine", PATIENCE)
        finally:
            process.end_group()
        out = payload / "out"
        said = [line for line in out.read_text().splitlines() if ": " in line] if out.exists() else []
        told = dict(line.split(": ", 1) for line in said)
        if "booted" not in told:
            pytest.skip(f"no systemd can be booted here: {process.text()[-500:]}")
        logs = "".join(f"\n{path.name}:\n{path.read_text()[-3000:]}" for path in payload.glob("*.log"))
        assert told.get("done") == "yes", f"{told} {(payload / 'err').read_text()[-3000:]} {logs}"
        yield told
