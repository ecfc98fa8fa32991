"""What the server's configuration names, found fit or refused in one line: directories, ports, key files."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from mezite.certs.keys import parse_public_line
from mezite.errors import Conflict, MeziteError, UsageError
from mezite.lockfile import LockFile


def make_data_dir(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise MeziteError(
            f"data_dir {path}: a file stands in its way; move it away or set another one"
        ) from None
    except OSError as error:
        raise MeziteError(
            f"data_dir {path}: {error.strerror}; create it for this account or set another one"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise MeziteError(f"data_dir {path}: not writable by this account; set its owner or another one")


def lock_data_dir(path: Path) -> LockFile:
    """Its lock, which one server at a time holds."""
    file = path / "lock"
    try:
        return LockFile(file, f"the data directory {path}")
    except OSError as error:
        raise MeziteError(
            f"{file}: {error.strerror}; it has to be a file that this account may write to: set its owner, "
            "or remove it while no server runs"
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; :class:`Conflict` when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise Conflict(
            f"cannot listen on {host}:{port} ({_plainly(error)}); stop what is there or set ssh.listen_addr"
        ) from None
    listening.setblocking(False)
    return listening


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket bound to *host*:*port* that does not listen: workers may listen
    beside it, and nobody else finds the port free.

    Raises :class:`Conflict` when another server is there; without this test, two
    servers of one account would share the port and the machines in silence.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with contextlib.closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise Conflict(
            f"cannot listen on {host}:{port} ({_plainly(error)}); stop what is there or set auth.listen_addr"
        ) from None
    return reserved


def read_cas(path: Path) -> list[bytes]:
    """The key blobs in a file of public keys, one a line, as sshd's TrustedUserCAKeys
    (``ssh.trusted_user_ca_keys``)."""
    try:
        lines = [line.strip() for line in path.read_bytes().decode("utf-8").split("\n")]
        found = [parse_public_line(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise UsageError(f"ssh.trusted_user_ca_keys: {path}: {error.strerror}") from None
    except (MeziteError, UnicodeDecodeError) as error:
        raise UsageError(f"ssh.trusted_user_ca_keys: {path}: {error}") from None
    if not found:
        raise UsageError(f"ssh.trusted_user_ca_keys: {path}: no key is in it")
    return found


def _plainly(error: OSError) -> str:
    """Without the address, which Python adds to some."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
