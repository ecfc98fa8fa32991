"""Real processes for tests: started here, stopped here, each by its own process id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml

from mezite.admin.client import connect
from mezite.errors import MeziteError

BIN = Path(sys.executable).parent
TIMEOUT = 60.0
"""Seconds that anything may take before a test gives up: generous, machines are noisy."""


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that the kernel has chosen, and gives to nobody else while this
    process lives: it stays bound, without listening, and servers bind it by its number
    (SO_REUSEADDR, which all of them set).  Whoever connects before that is refused."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _reserved.append(held)
    return int(held.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """What *condition* gives once it is true; fails, naming *what*, after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {timeout} s")
        time.sleep(0.05)


def environment(home: Path, **more: str) -> dict[str, str]:
    """A clean environment: nothing of the caller's configuration or agent."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONWARNINGS": "ignore",
        **more,
    }


_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """A test run that is killed itself leaves nobody behind (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def run(
    argv: Sequence[str | Path], env: Mapping[str, str], *, stdin: str = "", timeout: float = TIMEOUT
) -> Finished:
    done = subprocess.run(
        [str(word) for word in argv], env=dict(env), input=stdin, capture_output=True, text=True,
        timeout=timeout, check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def ask(socket_path: Path, method: str) -> Any:
    """The answer on an operator's socket, or ``None`` while there is none: what is asked again
    and again is asked without starting a program for it each time."""
    try:
        with contextlib.closing(connect([socket_path], remedy="", timeout=TIMEOUT)) as client:
            return client.call(method)
    except MeziteError:
        return None


class Process:
    """A process of ours that goes on until it is stopped; its output lies in *log*."""

    def __init__(self, argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in argv], env=dict(env), stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and waits; the exit code (negative: by a signal)."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def end_group(self) -> None:
        """Kills it and whatever it has started: it leads a session of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = TIMEOUT) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._process.args!r} is still running:\n{self.text()}") from None


@dataclass
class Cluster:
    """An auth server with its node, the operator's CLI, and machines."""

    root: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    server: Process | None = None

    def __post_init__(self) -> None:
        self.port, self.node_port = free_port(), free_port()
        self.config = self.root / "mezite.yaml"
        self.data = self.root / "data"
        self.env = environment(self.root / "home")
        (self.root / "home").mkdir()
        document: dict[str, Any] = {
            "cluster_name": "example",
            "data_dir": str(self.data),
            "auth": {
                "listen_addr": f"127.0.0.1:{self.port}",
                "public_addr": f"127.0.0.1:{self.port}",
                "admin_socket": str(self.data / "admin.sock"),
            },
            "ssh": {
                "enabled": True,
                "listen_addr": f"127.0.0.1:{self.node_port}",
                "node_name": "web-server-01",
                "host_names": ["web-server-01", "127.0.0.1", "localhost"],
                "labels": {"env": "staging"},
            },
        }
        for key, value in self.overrides.items():
            if isinstance(value, dict):
                document.setdefault(key, {}).update(value)
            else:
                document[key] = value
        self.config.write_text(yaml.safe_dump(document))

    # --- the server ---------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> Process:
        argv: list[str | Path] = [BIN / "twistd", "-n", "--pidfile=", "mezite-auth", "--config", self.config]
        self.server = self.spawn(argv, self.env, self.root / "server.log")
        if wait:
            wait_for(self.is_serving, f"server on {self.port}; {self.server.text()[-2000:]}")
        return self.server

    def is_serving(self) -> bool:
        assert self.server is not None
        assert self.server.code is None, self.server.text()
        if ask(self.data / "admin.sock", "status") is None:
            return False
        return self._listens(self.port) and self._listens(self.node_port)

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def spawn(self, argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> Process:
        process = Process(argv, env, log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self.processes):
            process.end_group()

    # --- operators ----------------------------------------------------------------------------

    def mezctl(self, *words: str | Path, stdin: str = "") -> Finished:
        return run([BIN / "mezctl", "--socket", self.data / "admin.sock", *words], self.env, stdin=stdin)

    def ctl(self, *words: str | Path) -> str:
        """The output of a mezctl that must succeed."""
        done = self.mezctl(*words)
        assert done.code == 0, (words, done)
        return done.out

    def add_role(self, name: str = "ci-deployer", **changes: Any) -> None:
        """The documented role, with top-level parts of its spec replaced."""
        spec: dict[str, Any] = {
            "options": {"max_session_ttl": "1h"},
            "allow": {"node_labels": {"env": ["staging", "production"]}, "logins": ["deploy"]},
            "deny": {"logins": ["root"]},
        }
        spec.update(changes)
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"kind": "role", "metadata": {"name": name}, "spec": spec}))
        self.ctl("roles", "create", f"--from-file={path}")

    def add_bot(self, name: str = "github-deploy", *words: str, roles: str = "ci-deployer") -> str:
        """A bot made; its join token."""
        out = self.ctl("bots", "add", f"--name={name}", f"--roles={roles}", "--token-ttl=1h", *words)
        return token_in(out)

    # --- machines -----------------------------------------------------------------------------

    def machine(self, name: str = "machine") -> MachineProcess:
        return MachineProcess(self, self.root / name)


def token_in(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("Join token: ")]
    return line.split()[2]


class MachineProcess:
    """A machine with its home, its destination, and mezd, msh and ssh to run there."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster = cluster
        self.home = home
        home.mkdir(exist_ok=True)
        self.destination = home / "certs"
        self.env = environment(home)

    def argv(self, *words: str | Path) -> list[str | Path]:
        return [
            BIN / "mezd", "identity", "start", f"--auth-server=127.0.0.1:{self.cluster.port}",
            f"--destination={self.destination}", *words,
        ]

    def once(self, *words: str | Path, stdin: str = "") -> Finished:
        """One-shot."""
        return run(self.argv("--one-shot", *words), self.env, stdin=stdin, timeout=60)

    def daemon(self, *words: str | Path) -> Process:
        return self.cluster.spawn(self.argv(*words), self.env, self.home / "mezd.log")

    def status(self) -> dict[str, Any]:
        """`identity status` of the running daemon, or empty while it does not answer."""
        return ask(self.destination / ".mezite" / "control.sock", "identity.status") or {}

    def ssh(self, *command: str, login: str = "deploy", options: Sequence[str] = ()) -> Finished:
        """The documented long form, strict about the host."""
        files = self.destination
        return run(
            [
                "ssh", "-F", "none", "-p", str(self.cluster.node_port), "-i", files / "ssh_key",
                "-o", f"CertificateFile={files}/ssh_key-cert.pub",
                "-o", f"UserKnownHostsFile={files}/known_hosts",
                "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
                *options, f"{login}@127.0.0.1", *command,
            ],
            self.env,
        )


def call(port: int, ca_pem: bytes, method: str, message: bytes) -> bytes:
    """One raw RPC, as bytes in and bytes out."""
    credentials = grpc.ssl_channel_credentials(ca_pem)
    options = (("grpc.ssl_target_name_override", "auth.mezite.internal"),)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        answer: bytes = channel.unary_unary(method, None, None)(message, timeout=TIMEOUT)
        return answer
