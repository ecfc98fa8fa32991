"""What an account is told that may not look into the identity of another."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.identity import doctor
from mezite.identity.destination import Directory
from mezite.identity.outputs import Outputs
from mezite.identity.state import StateFile
from tests.identity.making import durable, held

ROOT = Path(__file__).parents[2]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An identity of root's below a directory that everybody may enter."""
    base = tmp_path_factory.mktemp("base")
    for parent in (base, *base.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    place = base / "certs"
    Directory(place).publish(Outputs.from_held(held()), timedelta(0))
    state = StateFile(place)
    state.load()
    state.save(durable())
    state.release()
    return place


def as_nobody(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*NOBODY, f"from mezite.cli.{program} import main; main()", *map(str, words)],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1",
             "PYTHONPATH": os.pathsep.join([str(ROOT), *(one for one in sys.path if one)])},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )
    if done.returncode in (126, 127) or "ModuleNotFoundError" in done.stderr or "setpriv" in done.stderr:
        pytest.skip(f"nobody cannot run Python here: {done.stderr[-200:]}")
    return done


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_doctor_says_who_is_to_run_it(roots: Path, mode: int) -> None:
    """And nothing that only seems wrong to somebody who sees nothing."""
    roots.chmod(mode)
    done = as_nobody("mezd", "identity", "doctor", f"--destination={roots}")
    assert (done.returncode, done.stderr) == (1, "")
    (problem, remedy) = done.stdout.splitlines()
    assert problem.split(maxsplit=2)[:2] == ["PROBLEM", "directory"]
    assert f"{roots} belongs to uid 0, and this account may not write there" in problem
    assert "run this as that user" in remedy


def test_below_a_directory_that_nobody_may_enter(roots: Path) -> None:
    roots.chmod(0o700)
    done = as_nobody("mezd", "identity", "doctor", f"--destination={roots}/below")
    assert done.returncode == 1
    assert f"{roots}/below: Permission denied" in done.stdout.splitlines()[0]


def test_doctor_of_root_looks_at_the_daemon_of_another_account(tmp_path: Path) -> None:
    """As at the unit's, which runs as an account of its own."""
    place = tmp_path / "certs"
    place.mkdir(mode=0o700)
    (place / ".mezite").mkdir(mode=0o700)
    os.chown(place, 65534, -1)
    (found,) = doctor.check_place(place)
    assert (found.level, "another user" in found.text) == ("PROBLEM", True)
    os.chown(place / ".mezite", 65534, -1)
    (found,) = doctor.check_place(place)
    assert (found.level, found.text) == ("ok", f"{place} is its daemon's own (uid 65534)")


def test_leave_and_msh_name_the_account_that_may(roots: Path) -> None:
    roots.chmod(0o700)
    done = as_nobody("mezd", "identity", "leave", f"--destination={roots}")
    assert (done.returncode, done.stderr) == (
        1, f"mezd: cannot look into {roots}: Permission denied; run this as the account that runs mezd "
        "there (state)\n"
    )
    done = as_nobody("msh", "ssh", f"--cert={roots}", "node")
    assert (done.returncode, done.stderr) == (
        2, f"msh: --cert: {roots}/ssh_key-cert.pub: Permission denied; become the account that it belongs "
        "to, or give --cert=PATH (usage)\n"
    )
