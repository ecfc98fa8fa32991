"""Readiness of both programs, as a load balancer and as systemd see it."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import TIMEOUT, Cluster, Process, free_port, run, wait_for
from tests.system.test_coming_back import generation

DIAG = f"127.0.0.1:{free_port()}"


def ask(address: str, path: str = "/readyz", method: str = "GET") -> tuple[int, str]:
    """Status and body; 0 while nobody listens."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Systemd:
    """The notification socket of a service manager, which reads what comes at once."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self._lines: list[str] = []
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1500000"}

    def lines(self) -> list[str]:
        """All that has been told so far."""
        return list(self._lines)

    def is_told_of(self, reason: str) -> bool:
        """As the reason for which the program is not ready."""
        return any(line.startswith("STATUS=not ready: ") and reason in line for line in self.lines())

    def _read(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                self._lines += self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._closing.set()
        self._reader.join(10)
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_a_daemon_goes_red_before_its_certificate_is_at_risk(cluster: Cluster, systemd: Systemd) -> None:
    """Ready with the first certificate and not before; red with the reason when the server is away or
    refuses, on HTTP, in `identity status` and for systemd alike; green again by itself."""
    cluster.add_role()
    machine = cluster.machine()
    address = f"127.0.0.1:{free_port()}"
    machine.env |= systemd.environment
    server = cluster.server
    token = cluster.add_bot()
    assert server is not None
    server.stop()
    daemon = machine.daemon(f"--join-token={token}", "--renewal-interval=2s", f"--diag-addr={address}")
    wait_for(lambda: ask(address)[0] == 503, "daemon without identity")
    assert "there is no identity yet" in ask(address)[1]
    assert ask(address, "/healthz") == (200, "ok\n")
    wait_for(lambda: "WATCHDOG=1" in systemd.lines(), "sign of life")
    assert "READY=1" not in systemd.lines()
    cluster.start()
    wait_for(lambda: ask(address) == (200, "ready\n"), "readiness")
    assert (machine.destination / "ssh_key-cert.pub").exists()
    wait_for(lambda: "READY=1" in systemd.lines(), "notification")
    status = machine.status()
    assert (status["ready"], status["not_ready_reason"]) == (True, None)
    cluster.ctl("bots", "lock", "github-deploy", "--reason=looked odd")
    wait_for(lambda: "looked odd" in ask(address)[1], "refusal")
    assert machine.status()["ready"] is False
    assert "(locked)" in machine.status()["not_ready_reason"]
    assert ask(address, "/healthz")[0] == 200, "a restart would not help"
    cluster.ctl("bots", "unlock", "github-deploy")
    wait_for(lambda: ask(address)[0] == 200, "readiness after the lock")
    assert cluster.server is not None
    cluster.server.stop()
    wait_for(lambda: "renewals in a row have failed" in ask(address)[1], "two failures")
    assert generation(machine) >= 1
    for reason in ("looked odd", "in a row have failed"):
        wait_for(lambda reason=reason: systemd.is_told_of(reason), f"status with {reason!r}")
    assert daemon.stop() == 0
    wait_for(lambda: "STOPPING=1" in systemd.lines(), "notification of the end")
    assert systemd.lines().count("READY=1") == 1
    assert systemd.lines().count("WATCHDOG=1") > 3


@pytest.mark.config(diag={"listen_addr": DIAG})
def test_the_server_is_ready_while_it_can_serve(cluster: Cluster) -> None:
    wait_for(lambda: ask(DIAG) == (200, "ready\n"), "readiness")
    assert ask(DIAG, "/healthz") == (200, "ok\n")
    assert ask(DIAG, "/")[0] == 404
    assert ask(DIAG, method="POST")[0] == 405
    assert ask(DIAG, method="HEAD") == (200, "")
    second = run(
        [*cluster.machine("other").argv("--join-token=tok-bot-" + "0" * 12 + ("-" + "0" * 32) * 2),
         f"--diag-addr={DIAG}"],
        cluster.env,
    )
    assert (second.code, len(second.lines)) == (1, 1), second
    assert "for diagnostics" in second.err


def test_the_server_tells_systemd_when_everything_listens(cluster: Cluster, systemd: Systemd) -> None:
    assert cluster.server is not None
    cluster.server.stop()
    cluster.env |= systemd.environment
    server: Process = cluster.start(wait=False)
    wait_for(lambda: "READY=1" in systemd.lines(), "notification")
    assert cluster._listens(cluster.port)
    assert cluster._listens(cluster.node_port)
    wait_for(lambda: systemd.lines().count("WATCHDOG=1") > 2, "signs of life")
    assert server.stop() == 0
    wait_for(lambda: systemd.lines()[-1] == "STOPPING=1", "notification of the end")


@pytest.mark.config(diag={"listen_addr": DIAG})
def test_a_database_that_takes_too_long_is_told(cluster: Cluster) -> None:
    """Another process keeps it locked, as one that was stopped in the middle of a commit."""
    other = sqlite3.connect(cluster.data / "mezite.db", isolation_level=None)
    try:
        other.execute("begin immediate")
        assert ask(DIAG) == (503, "not ready: the database takes longer than 2 s to write\n")
        other.execute("rollback")
        wait_for(lambda: ask(DIAG) == (200, "ready\n"), "readiness")
    finally:
        other.close()
    assert cluster.server is not None
    assert "Traceback" not in cluster.server.text()
