"""The real auth server as a process, and bare servers beside it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mezite.admin.client import Client, connect
from tests.system.processes import Cluster, Process, free_port, wait_for

HERE = Path(__file__).parent
ROLE = "deployer"
MANY_JOINS = {
    "joins_per_second": 100_000, "joins_per_second_of_address": 100_000,
    "renewals_per_second_of_instance": 100_000,
}
"""All machines of a benchmark share one address, are few, and join and renew as fast as they can."""


class AuthServer(Cluster):
    """`twistd mezite-auth`."""

    def is_serving(self) -> bool:
        assert self.server is not None
        assert self.server.code is None, self.server.text()
        with_node = "ssh" not in self.overrides or self.overrides["ssh"]["enabled"]
        ports = (self.port, self.node_port) if with_node else (self.port,)
        return (self.data / "admin.sock").exists() and all(map(self._listens, ports))

    @property
    def pid(self) -> int:
        assert self.server is not None
        return self.server.pid

    @property
    def pids(self) -> list[int]:
        """The processes that serve machines."""
        return children(self.pid) or [self.pid]

    def admin(self) -> Client:
        return connect([self.data / "admin.sock"], remedy="")

    def put_role(self, *logins: str) -> None:
        allow = {"node_labels": {"env": "staging"}, "logins": list(logins)}
        spec = {"options": {"max_session_ttl": "1h"}, "allow": allow}
        document = {"kind": "role", "metadata": {"name": ROLE}, "spec": spec}
        self.admin().call("roles.put", {"document": document})

    def new_bot(self, name: str, uses: int = 1) -> str:
        """The text of its join token, good for *uses* machines."""
        given = {"name": name, "roles": [ROLE], "token_ttl": "1h", "uses": uses}
        return str(self.admin().call("bots.add", given)["join_token"])


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]


@contextmanager
def auth_server(*, node: bool = False, workers: int = 1) -> Iterator[AuthServer]:
    """One that is serving, in a directory of its own; everything ends with the block."""
    with tempfile.TemporaryDirectory(prefix="mezite-bench.") as directory:
        overrides: dict[str, Any] = {"limits": MANY_JOINS}
        if not node:
            overrides["ssh"] = {"enabled": False}
        if workers > 1:
            overrides["auth"] = {"workers": workers}
        server = AuthServer(Path(directory), overrides)
        try:
            server.start()
            yield server
        finally:
            server.close()


@contextmanager
def bare_process(directory: Path, module: str, *words: str | Path) -> Iterator[Process]:
    """``python -m benchmarks.<module> words…``, once it has said that it is ready."""
    log = directory / f"{module}.log"
    root = HERE.parent.parent
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{root}:{HERE.parent}", "GRPC_VERBOSITY": "NONE"}
    process = Process([sys.executable, "-m", f"benchmarks.{module}", *words], env, log)
    try:
        wait_for(lambda: process.code is not None or "ready" in process.text(), module)
        assert process.code is None, process.text()
        yield process
    finally:
        process.end_group()


def interleaved(rounds: int, sides: Sequence[Callable[[], Any]]) -> list[list[Any]]:
    """What each of *sides* gave in each round; the order turns round every time,
    so that nobody is always the one who comes after."""
    found: list[list[Any]] = [[] for _ in sides]
    for number in range(rounds):
        order = list(enumerate(sides))
        for index, side in order if number % 2 == 0 else reversed(order):
            found[index].append(side())
    return found


__all__ = ["MANY_JOINS", "AuthServer", "auth_server", "bare_process", "free_port", "interleaved"]
