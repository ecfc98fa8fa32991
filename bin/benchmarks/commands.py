"""How long the commands take from start to end, beside what Python itself needs for the same imports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import AT_MOST, Limit, Row, Table
from benchmarks.server import auth_server, interleaved
from tests.system.processes import BIN

BOTS = 100
CLI_IMPORTS = "import click, json, socket"
DAEMON_IMPORTS = (
    "from twisted.internet import asyncioreactor; asyncioreactor.install(); "
    "import grpc.aio; from cryptography import x509; "
    "from cryptography.hazmat.primitives.asymmetric import ec; "
    "from cryptography.hazmat.primitives import serialization"
)


def measure(quick: bool) -> list[Table]:
    rounds = 2 if quick else 15
    with auth_server() as server:
        server.put_role("deploy")
        for number in range(BOTS - 1):
            server.new_bot(f"bot-{number}")
        token = server.new_bot("daemon", rounds + 1)
        held = server.machine("held")
        joined = held.once(f"--join-token={token}")
        assert joined.code == 0, joined
        env = {**held.env, "MEZITE_ADMIN_SOCKET": str(server.data / "admin.sock")}
        fresh = (server.machine(f"fresh-{number}") for number in range(rounds))

        def wall(argv: Sequence[str | Path], lines: int = 0) -> float:
            """Milliseconds; the command has to end with 0 and print at least *lines*."""
            started = time.perf_counter()
            done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
            took = (time.perf_counter() - started) * 1e3
            if done.returncode or len(done.stdout.splitlines()) < lines:
                raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}")
            return took

        def command(*words: str | Path, lines: int = 0) -> Callable[[], float]:
            return lambda: wall(words, lines)

        found = interleaved(rounds, [
            command(sys.executable, "-c", CLI_IMPORTS),
            command(BIN / "mezctl", "bots", "ls", lines=BOTS),
            command(BIN / "mezctl", "--help", lines=10),
            command(BIN / "msh", "env", f"--cert={held.destination}", lines=3),
            command(sys.executable, "-c", DAEMON_IMPORTS),
            command(*held.argv("--one-shot")),
            lambda: wall(next(fresh).argv("--one-shot", f"--join-token={token}")),
        ])
    cli, bots, usage, environment, daemon, renewal, join = found
    plain, large = f"python -c '{CLI_IMPORTS}'", f"python -c '{DAEMON_IMPORTS}'"
    return [
        Table(
            "wall time of commands", "ms",
            [
                Row(f"mezctl bots ls ({BOTS} bots)", bots, plain, cli, Limit(AT_MOST, 1.6)),
                Row("mezctl --help", usage, plain, cli),
                Row("msh env", environment, plain, cli),
                Row("mezd identity start --one-shot, renewing", renewal, large, daemon, Limit(AT_MOST, 1.5)),
                Row("mezd identity start --one-shot, joining", join, large, daemon, Limit(AT_MOST, 1.5)),
            ],
        )
    ]
