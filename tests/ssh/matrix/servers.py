"""sshd and the node, each on a loopback port, trusting the same CAs; and a raw client for both."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.conch.ssh.transport import SSHTransportBase

from mezite.certs import keys, wire
from tests.ssh.client import FAILURE, PK_OK, REQUEST, SERVICE_ACCEPT, SERVICE_REQUEST, SUCCESS, RawClient
from tests.system.processes import free_port

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
TIMEOUT = 60.0


class Sshd:
    """A stock sshd with a configuration of its own, that trusts *cas* and nothing else."""

    def __init__(self, directory: Path, cas: Iterable[Any], **options: Any) -> None:
        assert SSHD is not None
        self.directory = directory
        (directory / "host_key").write_bytes(keys.private_to_openssh(keys.generate_ca_key(), "host"))
        (directory / "host_key").chmod(0o600)
        (directory / "cas.pub").write_text(
            "".join(keys.public_line(keys.public_blob(ca)) + "\n" for ca in cas)
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.port = free_port()
        options = {
            "Port": self.port, "ListenAddress": "127.0.0.1", "HostKey": directory / "host_key",
            "TrustedUserCAKeys": directory / "cas.pub", "AuthorizedKeysFile": "none", "UsePAM": "no",
            "PasswordAuthentication": "no", "PermitRootLogin": "yes", "StrictModes": "no", "PidFile": "none",
            "KbdInteractiveAuthentication": "no", "UseDNS": "no", "MaxStartups": "100", **options,
        }
        words = [f"-o{name}={value}" for name, value in options.items()]
        self._log = (directory / "sshd.log").open("wb")
        self._process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", "/dev/null", *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        self.is_up = any(b"Server listening" in line for line in self._process.stderr)
        self._drain = subprocess.Popen(["cat"], stdin=self._process.stderr, stdout=self._log)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT)
        assert self._process.stderr is not None
        self._process.stderr.close()
        try:
            self._drain.wait(TIMEOUT)
        finally:
            self._drain.kill()
            self._log.close()


class _Socket:
    """What Conch's client needs of a transport, over a blocking socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self.is_open = False

    def loseConnection(self) -> None:
        self.is_open = False


class Connection:
    """One connection to a real server, up to its answers to login requests."""

    def __init__(self, port: int) -> None:
        self._io = _Socket(port)
        self.client = RawClient(strict=True)
        self.client.factory = None  # type: ignore[assignment]
        self.client.makeConnection(self._io)  # type: ignore[arg-type]
        self._read_until(self._is_ready)
        assert self.ask(SERVICE_REQUEST, wire.string(b"ssh-userauth")) == SERVICE_ACCEPT

    def _is_ready(self) -> bool:
        none = SSHTransportBase._KEY_EXCHANGE_NONE
        return self.client.sessionID is not None and self.client._keyExchangeState == none

    def _read_until(self, done: Any) -> None:
        while self._io.is_open and not done():
            data = self._io.socket.recv(65536)
            if data:
                self.client.dataReceived(data)
            else:
                self._io.is_open = False

    def ask(self, number: int, payload: bytes) -> int | None:
        """The number of the answer; ``None`` when the server ends the connection instead."""
        self.client.received.clear()
        try:
            self.client.sendPacket(number, payload)
            self._read_until(lambda: self.client.received)
        except OSError:
            self._io.is_open = False
        return self.client.received[0][0] if self.client.received else None

    @property
    def is_open(self) -> bool:
        return self._io.is_open

    @property
    def session(self) -> bytes:
        assert self.client.sessionID is not None
        return self.client.sessionID

    def close(self) -> None:
        self._io.socket.close()


class Judge:
    """Puts one case after the other to a server; a connection serves until it is ended or logged in."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self._login = b""

    def _connected(self, login: bytes) -> Connection:
        if self._connection is None or login != self._login:
            self.close()
            self._connection, self._login = Connection(self._port), login
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, payload: bytes) -> int | None:
        assert self._connection is not None
        answer = self._connection.ask(REQUEST, payload)
        if answer == SUCCESS or not self._connection.is_open:
            self.close()
        return answer

    def admits(self, case: Any) -> bool:
        connection = self._connected(case.login)
        answer = self._ask(case.request(connection.session))
        assert answer in (SUCCESS, FAILURE, None), answer
        return answer == SUCCESS

    def invites(self, case: Any) -> bool:
        """Whether the question without a signature is answered with PK_OK."""
        self._connected(case.login)
        answer = self._ask(case.probe())
        assert answer in (PK_OK, FAILURE, None), answer
        return answer == PK_OK
