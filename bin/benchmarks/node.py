"""Logins at our SSH node, beside asyncssh's server and the system's sshd; the clients are asyncssh."""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import AT_MOST, Limit, Row, Table, cpu_seconds
from benchmarks.server import AuthServer, auth_server, bare_process, free_port
from tests.system.processes import Process, run, wait_for

AT_ONCE = (1, 16)
KEY_EXCHANGE, CIPHER, MAC = "curve25519-sha256", "aes256-ctr", "hmac-sha2-256-etm@openssh.com"
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
_LIMIT = Limit(AT_MOST, 1.0)


@dataclass(frozen=True, slots=True)
class Node:
    port: int
    pid: int
    forks: bool = False
    """Each login in a process of its own, which counts once it has ended."""


def measure(quick: bool) -> list[Table]:
    if importlib.util.find_spec("asyncssh") is None:
        message = "asyncssh is missing (pip install 'mezite[dev]')"
        sys.stderr.write(f"bin/bench: SKIPPED node: {message}\n")
        return [Table(f"SSH logins: SKIPPED, {message}", "", [])]
    rounds, logins = (1, 32) if quick else (5, 160)
    with auth_server(node=True) as server:
        server.put_role("deploy", getpass.getuser())
        machine = server.machine()
        joined = machine.once(f"--join-token={server.new_bot('bench')}")
        assert joined.code == 0, joined
        _make_host(server)
        with (
            bare_process(server.root, "asyncssh_node", str(port := free_port()), server.root) as other,
            _sshd(server) as sshd,
        ):
            nodes = {"node": Node(server.node_port, server.pid), "asyncssh": Node(port, other.pid)}
            if sshd is not None:
                nodes["sshd"] = sshd
            return asyncio.run(_measure(machine.destination, server.root, nodes, rounds, logins))


def _make_host(server: AuthServer) -> None:
    """A host key with a certificate, and the User CA, for the others."""
    (server.root / "user_ca.pub").write_text(server.mezctl("ca", "export", "--type=user").out)
    for words in (
        ("-t", "ed25519", "-N", "", "-f", "host_ca"),
        ("-t", "ed25519", "-N", "", "-f", "host_key"),
        ("-s", "host_ca", "-h", "-I", "host", "-n", "127.0.0.1", "host_key.pub"),
    ):
        subprocess.run(["ssh-keygen", "-q", *words], cwd=server.root, check=True)


@contextmanager
def _sshd(server: AuthServer) -> Iterator[Node | None]:
    """The system's, where there is one that starts."""
    port, directory = free_port(), server.root
    if SSHD is None:
        sys.stderr.write("bin/bench: no sshd on this machine: SKIPPED\n")
        yield None
        return
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": directory / "host_key",
        "HostCertificate": directory / "host_key-cert.pub", "TrustedUserCAKeys": directory / "user_ca.pub",
        "AuthorizedKeysFile": "none", "UsePAM": "no", "PermitRootLogin": "yes", "StrictModes": "no",
        "PidFile": "none", "MaxStartups": "200", "UseDNS": "no",
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    process = Process([SSHD, "-D", "-e", "-f", "/dev/null", *words], server.env, directory / "sshd.log")
    try:
        wait_for(lambda: "Server listening" in process.text() or process.code is not None, "sshd")
        if process.code is not None:
            sys.stderr.write(f"bin/bench: sshd SKIPPED, it does not start: {process.text()}\n")
            yield None
        else:
            yield Node(port, process.pid, forks=True)
    finally:
        process.end_group()


class Logins:
    """What clients log in with."""

    def __init__(self, destination: Path, host_ca: str) -> None:
        import asyncssh

        self._connect = asyncssh.connect
        key = asyncssh.read_private_key(str(destination / "ssh_key"))
        certificate = asyncssh.read_certificate(str(destination / "ssh_key-cert.pub"))
        known = (destination / "known_hosts").read_text() + f"@cert-authority * {host_ca}"
        self._options: dict[str, Any] = {
            "client_keys": [(key, certificate)], "known_hosts": asyncssh.import_known_hosts(known),
            "kex_algs": [KEY_EXCHANGE], "encryption_algs": [CIPHER], "mac_algs": [MAC],
            "compression_algs": ["none"], "agent_path": None, "config": None,
            "server_host_key_algs": ["ssh-ed25519-cert-v01@openssh.com"],
        }

    async def __call__(self, node: Node, login: str, command: str | None) -> None:
        connecting = self._connect("127.0.0.1", node.port, username=login, **self._options)
        async with connecting as connection:
            if command is not None:
                done = await connection.run(command)
                if done.exit_status != 0:
                    raise RuntimeError(f"{command} at {node} ended with {done.exit_status}")
        await connection.wait_closed()

    async def cost(
        self, node: Node, login: str, command: str | None, count: int, at_once: int
    ) -> tuple[float, float]:
        """CPU time of the server for each of *count* logins, ms; and logins per second."""
        started = time.perf_counter()
        before = cpu_seconds(node.pid, with_children=node.forks)

        async def some() -> None:
            for _ in range(count // at_once):
                await self(node, login, command)

        await asyncio.gather(*(some() for _ in range(at_once)))
        done, wall = count // at_once * at_once, time.perf_counter() - started
        if node.forks:
            await asyncio.to_thread(_wait_for_no_child, node.pid)
        used = cpu_seconds(node.pid, with_children=node.forks) - before
        return used / done * 1e3, done / wall


def _wait_for_no_child(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: not children.read_text(), "end of sshd's sessions")


async def _measure(
    destination: Path, root: Path, nodes: dict[str, Node], rounds: int, count: int
) -> list[Table]:
    log_in = Logins(destination, (root / "host_ca.pub").read_text())
    cases: list[tuple[str, str, str | None, int]] = [
        (name, getpass.getuser() if name == "sshd" else "deploy", command, at_once)
        for at_once in AT_ONCE
        # sshd runs a command by the account's shell, whose start is not its own.
        for name, command in (
            ("node", None), ("asyncssh", None), ("sshd", None), ("node", "true"), ("asyncssh", "true")
        )
        if name in nodes
    ]
    for name, login, command, _ in cases:
        await log_in(nodes[name], login, command)
    found: dict[tuple[str, str | None, int], list[float]] = {}
    rates: dict[tuple[str, str | None, int], list[float]] = {}
    for number in range(rounds):
        for name, login, command, at_once in cases if number % 2 == 0 else reversed(cases):
            cost, rate = await log_in.cost(nodes[name], login, command, count, at_once)
            found.setdefault((name, command, at_once), []).append(cost)
            rates.setdefault((name, command, at_once), []).append(rate)
    other = "asyncssh's server, which trusts the User CA, and writes no audit log"
    rows, speeds = (_rows(figures, other, limit) for figures, limit in ((found, _LIMIT), (rates, None)))
    version = run(["ssh", "-V"], {"PATH": os.environ["PATH"]}).err.strip()
    notes = [f"{KEY_EXCHANGE}, {CIPHER}, {MAC}; Ed25519 host certificate and CA, P-256 user key; {version}"]
    return [
        Table("SSH logins, CPU in the server", "ms per login", rows, notes),
        Table("SSH logins, with the clients on the same machine", "logins/s", speeds),
    ]


def _rows(
    figures: dict[tuple[str, str | None, int], list[float]], other: str, limit: Limit | None
) -> list[Row]:
    rows = [
        Row(f"{'a login' if command is None else 'a login and a command'}, {at_once} at once",
            figures["node", command, at_once], other, figures["asyncssh", command, at_once], limit)
        for command in (None, "true")
        for at_once in AT_ONCE
    ]
    if ("sshd", None, AT_ONCE[0]) in figures:
        rows += [
            Row(f"the system's sshd: a login, {at_once} at once", figures["sshd", None, at_once], other,
                figures["asyncssh", None, at_once])
            for at_once in AT_ONCE
        ]
    return rows


