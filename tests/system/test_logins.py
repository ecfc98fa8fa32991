"""The tool that logs in while identities are renewed all the time, for a moment."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from tests.system.processes import run

ROOT = Path(__file__).parents[2]


def test_no_login_falls_into_a_renewal() -> None:
    """Forty logins by agent and by ssh_config, some renewals in each."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bin'}"}
    done = run(
        [sys.executable, "-m", "fleet.during_renewals", "--logins=20", "--every=0.3", "--minutes=2"], env,
        timeout=240,
    )
    assert done.code == 0, done
    rows = re.findall(r"^(agent|ssh_config) +(\d+) +(\d+)", done.out, re.MULTILINE)
    assert rows == [("agent", "20", "0"), ("ssh_config", "20", "0")], done.out
