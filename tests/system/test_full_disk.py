"""The server's data directory is full: refusals that say so, and no help needed but room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import Cluster, free_port, wait_for
from tests.system.test_coming_back import generation
from tests.system.test_readiness import ask

DIAG = f"127.0.0.1:{free_port()}"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose data directory is a file system of three megabytes."""
    made = Cluster(tmp_path, {"diag": {"listen_addr": DIAG}})
    made.data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", made.data], capture_output=True,
        check=False, timeout=30,
    )
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here: a full data directory is NOT tested with a real server")
    try:
        made.start()
        yield made
    finally:
        made.close()
        subprocess.run(["umount", "-l", made.data], check=True, timeout=30)


def fill(path: Path) -> None:
    """Not a byte is left."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (65536, 4096, 1):
            try:
                while True:
                    os.write(descriptor, b"x" * size)
            except OSError:
                continue
    finally:
        os.close(descriptor)


def test_a_full_data_directory_refuses_clearly_and_recovers_by_itself(small: Cluster) -> None:
    """Nothing half done, nobody locked, no token lost; the daemon and the server go on with the room."""
    small.add_role()
    machine = small.machine()
    daemon = machine.daemon(f"--join-token={small.add_bot()}", "--renewal-interval=1s")
    wait_for(lambda: generation(machine) >= 1, "join")
    token = small.add_bot("late")
    ballast = small.data / "ballast"

    def is_full() -> bool:
        """SQLite's log has room of its own, which renewals use up first."""
        fill(ballast)
        return ask(DIAG)[0] == 503

    wait_for(is_full, "full disk", 90)
    code, told = ask(DIAG)
    assert (code, "the database cannot be written" in told, "disk is full" in told) == (503, True, True), told
    assert ask(DIAG, "/healthz") == (200, "ok\n"), "a restart would not help"
    wait_for(lambda: "(unavailable)" in (machine.home / "mezd.log").read_text(), "refusal of a renewal")
    late = small.machine("late")
    refused = late.once(f"--join-token={token}")
    assert (refused.code, "unavailable" in refused.err) == (1, True), refused
    locked = small.mezctl("bots", "lock", "github-deploy")
    assert (locked.code, len(locked.lines)) == (1, 1), locked
    assert "the disk is full; make room there, and it goes on by itself" in locked.err
    assert small.mezctl("status").code == 0
    backup = small.mezctl("backup", small.data / "copy")
    assert (backup.code, len(backup.lines)) == (1, 1), backup
    assert not (small.data / "copy").exists()
    assert small.server is not None
    assert (small.server.code, daemon.code) == (None, None)

    ballast.unlink()
    wait_for(lambda: ask(DIAG)[0] == 200, "readiness", 60)
    goal = generation(machine) + 1
    wait_for(lambda: generation(machine) >= goal, "renewal with room", 90)
    assert late.once(f"--join-token={token}").code == 0
    assert "put back from a copy" not in small.ctl("status")
    # A server that was killed in the middle of it starts again on what it had.
    fill(ballast)
    small.server.kill()
    ballast.unlink()
    small.start()
    wait_for(lambda: generation(machine) > goal, "renewal after the restart", 90)
    assert "put back from a copy" not in small.ctl("status")
    assert "locked for good" not in small.ctl("status")
