"""What can be wrong with a machine's identity, looked at one after the other; nothing is changed.

Each check gives findings: what was seen, and where something is wrong what to do.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct

from mezite.certs import ssh
from mezite.certs.wire import Reader, string, u32
from mezite.core.duration import format_duration
from mezite.errors import CertificateRejected, InvalidInput, MeziteError, StateFailure
from mezite.identity.outputs import AGENT_SOCKET, CERTIFICATE, SSH_CONFIG, SSH_KEY
from mezite.identity.records import Held
from mezite.identity.state import DIRECTORY, peek

GOOD, NOTE, BAD = "ok", "note", "PROBLEM"
OFF = timedelta(seconds=30)
"""A clock that is off by more is worth a note."""
FAR_OFF = timedelta(hours=24)
"""X.509 and host certificates reach so far back, and no machine joins that is off by more."""
LEAST_SSH = (7, 3)
"""The first OpenSSH with CertificateFile, IdentityAgent and Include."""
TIMEOUT = 20


class Finding(Struct, frozen=True):
    check: str
    level: str
    text: str
    remedy: str = ""


def check_place(destination: Path) -> Iterator[Finding]:
    """The directory, and who else could get at it."""
    name = "directory"
    try:
        found = destination.stat()
    except (FileNotFoundError, NotADirectoryError):
        yield Finding(name, BAD, f"{destination} is not there", "start it: mezd identity start, or name "
                      "another --destination")
        return
    except OSError as error:
        yield Finding(name, BAD, f"{destination}: {error.strerror}", "run this as the account that runs mezd")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(name, BAD, f"{destination} is not a directory", "name the directory with --destination")
        return
    private, uid, mine = destination / DIRECTORY, found.st_uid, os.geteuid()
    # Root may look at a daemon of another account, such as the unit's.
    is_looked_at = mine == 0 and private.is_dir() and private.stat().st_uid == uid
    if not is_looked_at and uid not in (0, mine):
        yield Finding(name, BAD, f"{destination} belongs to another user (uid {uid})",
                      "run this as that user, or choose a directory of its own")
        return
    if not os.access(destination, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(name, BAD, f"{destination} belongs to uid {uid}, and this account may not write there",
                      "run this as that user, or choose a directory of its own")
        return
    if found.st_mode & stat.S_IWOTH:
        yield Finding(name, BAD, f"everybody may write to {destination}", f"chmod o-w {destination}")
    if private.is_dir() and private.stat().st_mode & 0o077:
        yield Finding(name, BAD, f"others can reach {private}, where the lineage keys are",
                      f"chmod 700 {private}")
    elif found.st_mode & stat.S_IWOTH == 0:
        whose = "this account's own" if uid in (0, mine) else f"its daemon's own (uid {uid})"
        yield Finding(name, GOOD, f"{destination} is {whose}")


def is_out_of_reach(destination: Path) -> bool:
    """Whether there is something that this account cannot look into, or is no directory at all."""
    try:
        if not destination.is_dir():
            return destination.exists()
        private = destination / DIRECTORY
        return not os.access(destination, os.R_OK | os.X_OK) or (
            private.exists() and not os.access(private, os.R_OK | os.X_OK)
        )
    except OSError:
        return True


def check_state(destination: Path) -> tuple[Held | None, list[Finding]]:
    """The identity, and what there is to say of it."""
    name = "identity"
    try:
        durable = peek(destination)
    except StateFailure as error:
        return None, [Finding(name, BAD, str(error), "give a new join token, or run this as its owner")]
    if durable is None or durable.held is None:
        return None, [Finding(name, BAD, "there is no identity yet",
                              "give the --join-token that `mezctl bots add` printed to mezd identity start")]
    held = durable.held
    text = f"bot {held.bot}, instance {held.instance_id}, generation {held.generation}"
    return held, [Finding(name, GOOD, text)]


def is_renewing(destination: Path) -> bool:
    """Whether a renewal was begun and has brought no identity: it was refused, or not answered."""
    try:
        durable = peek(destination)
    except StateFailure:
        return False
    return durable is not None and durable.held is not None and durable.pending is not None


def check_certificate(held: Held, now: datetime) -> Iterator[Finding]:
    name = "certificate"
    until = datetime.fromtimestamp(held.valid_before_unix, UTC)
    left = until - (now + held.skew)
    if left <= timedelta(0):
        yield Finding(name, BAD, f"it has ended, {format_duration(-left)} ago",
                      "see below why it is not renewed, or start the daemon: mezd identity start")
    else:
        yield Finding(name, GOOD, f"for {', '.join(held.principals)}, {format_duration(left)} left")
    names = [known.name for known in held.trust.nodes]
    if not held.trust.host_cas:
        yield Finding(name, BAD, "no host CA is known", "renew: mezctl identity renew")
    elif names:
        yield Finding("nodes", GOOD, f"known: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")


def check_files(destination: Path, held: Held) -> Iterator[Finding]:
    """What is published, as ssh would look at it."""
    name, key_path, certificate_path = "files", destination / SSH_KEY, destination / CERTIFICATE
    republish = "restart mezd: it writes the set anew"
    try:
        certificate = ssh.parse_certificate_line(certificate_path.read_text("ascii"))
    except FileNotFoundError:
        yield Finding(name, BAD, f"{certificate_path} is not there", republish)
        return
    except (OSError, ValueError, InvalidInput, CertificateRejected) as error:
        yield Finding(name, BAD, f"{certificate_path} cannot be read: {error}", republish)
        return
    if certificate.blob not in held.certificates:
        yield Finding(name, BAD, f"{certificate_path} is not the newest certificate",
                      "is a daemon running, and is there room on that file system? then restart mezd")
    if not key_path.exists():
        yield Finding(name, GOOD, "certificate and known_hosts, and no key: it is in the agent")
        return
    try:
        public = _public_of(key_path)
        status = key_path.stat()
    except (OSError, ValueError, CertificateRejected) as error:
        yield Finding(name, BAD, f"{key_path} cannot be read: {error}", republish)
        return
    if public != certificate.subject_blob:
        yield Finding(name, BAD, "ssh_key and ssh_key-cert.pub do not belong together", republish)
    elif status.st_uid == os.geteuid() and status.st_mode & 0o077:
        yield Finding(name, BAD, f"ssh refuses {key_path}: its mode is {status.st_mode & 0o777:04o}",
                      f"chmod 600 {key_path}, or leave `mode` and `group` out for the account that owns it")
    else:
        yield Finding(name, GOOD, "key and certificate belong together")


def _public_of(path: Path) -> bytes:
    """The public half in an OpenSSH private key file, which carries it in clear (PROTOCOL.key)."""
    lines = path.read_text("ascii").strip().splitlines()
    body = base64.b64decode("".join(lines[1:-1]))
    reader = Reader(body.removeprefix(b"openssh-key-v1\0"), "private key")
    for _ in range(3):
        reader.string()
    reader.u32()
    return reader.string()


def check_agent(destination: Path, held: Held) -> Iterator[Finding]:
    path = destination / AGENT_SOCKET
    if not path.exists():
        return
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(path))
            connection.sendall(string(b"\x0b"))
            reader = Reader(_read(connection), "agent's answer")
        if reader.byte() != 12:
            raise reader.malformed("not a list of identities")
        listed = [(reader.string(), reader.string())[0] for _ in range(reader.u32())]
    except (OSError, CertificateRejected) as error:
        yield Finding("agent", BAD, f"{path}: {error}", "is mezd running with --outputs=agent?")
        return
    if any(blob in held.certificates for blob in listed):
        yield Finding("agent", GOOD, f"{path} lists the certificate")
    else:
        yield Finding("agent", BAD, f"{path} does not list the newest certificate", "restart mezd")


def _read(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    return Reader(data if len(data) >= 4 else u32(0), "agent's answer").string()


def check_clock(ahead: timedelta, give_or_take: timedelta) -> Finding:
    """*ahead* is the server's clock less this machine's."""
    off = abs(ahead)
    text = f"{format_duration(off)} {'behind' if ahead > timedelta(0) else 'ahead of'} the server's"
    if off - give_or_take > FAR_OFF:
        return Finding("clock", BAD, text, "set it right (NTP); no machine joins that is so far off")
    if off - give_or_take > OFF:
        return Finding("clock", NOTE, text, "renewals go on, but set it right (NTP)")
    return Finding("clock", GOOD, "agrees with the server's")


def check_client(destination: Path) -> Iterator[Finding]:
    """The machine's ssh, and what it makes of our configuration."""
    name = "ssh"
    program = shutil.which("ssh")
    if program is None:
        yield Finding(name, BAD, "there is no ssh on the PATH", "install the OpenSSH client")
        return
    said = _run([program, "-V"]).stderr.strip()
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    if match is None:
        yield Finding(name, NOTE, f"{said[:80]!r} is not OpenSSH", "give it the key and certificate by hand")
    elif (int(match[1]), int(match[2])) < LEAST_SSH:
        yield Finding(name, BAD, f"{match[0]} is too old", "OpenSSH 7.3 or newer is needed")
    else:
        yield Finding(name, GOOD, said.split(",")[0])
    config = destination / SSH_CONFIG
    if not config.exists():
        return
    done = _run([program, "-G", "-F", str(config), "doctor.invalid"])
    if done.returncode != 0:
        yield Finding(name, BAD, f"it cannot read {config}: {_last(done.stderr)}", "restart mezd")


def check_login(destination: Path, held: Held, node: str, login: str) -> Finding:
    """A real one, that runs `true`."""
    name = "login"
    done = _run([
        "ssh", "-F", str(destination / SSH_CONFIG), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
        "-l", login, "--", node, "true",
    ])
    where = f"{login}@{node}"
    if done.returncode == 0:
        return Finding(name, GOOD, f"{where} lets this machine in")
    said = _last(done.stderr) or f"exit code {done.returncode}"
    if _DENIED in done.stderr and login not in held.principals:
        logins = ", ".join(held.principals)
        return Finding(name, BAD, f"{where}: {said}",
                       f"the certificate is for {logins}: give --login, or allow {login} in one of its roles")
    remedy = next((what for sign, what in _SSH_SAYS if sign in done.stderr), "ssh -v tells more")
    return Finding(name, BAD, f"{where}: {said}", remedy)


_DENIED = "Permission denied"
_SSH_SAYS = (
    (_DENIED, "is it locked, and does a role allow the node? `mezctl audit ls --type=authz.denied` tells; "
     "a plain sshd needs TrustedUserCAKeys"),
    ("Host key verification failed", "the node shows no host certificate by the Host CA"),
    ("No ED25519", "the node shows no host certificate by the Host CA"),
    ("Could not resolve hostname", "no such name; nodes of the cluster are listed above"),
    ("Connection refused", "no SSH server listens there"),
    ("timed out", "nothing answers there: a firewall, or the wrong address"),
)


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=TIMEOUT, check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 255, "", "timed out")
    except OSError as error:
        return subprocess.CompletedProcess(words, 255, "", f"{words[0]}: {error.strerror}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def finding_of(check: str, error: MeziteError, remedy: str) -> Finding:
    return Finding(check, BAD, str(error), remedy)
