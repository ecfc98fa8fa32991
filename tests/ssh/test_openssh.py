"""The system's own ``ssh`` against a node in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mezite.certs import keys, ssh
from mezite.core.template import HOST
from tests.ssh.node import user_certificate

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0


def keygen(*words: str, cwd: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], check=True, cwd=cwd, capture_output=True)


class Node:
    """A running node, its keys, and logins to it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        for name in ("user_ca", "host_ca", "foreign_ca"):
            (directory / name).write_bytes(keys.private_to_openssh(keys.generate_ca_key(), name))
            (directory / name).chmod(0o600)
            keygen("-y", "-f", name, cwd=directory)
        self.ca = load(directory / "user_ca")
        self.foreign_ca = load(directory / "foreign_ca")
        (directory / "known_hosts").write_text(
            f"@cert-authority * {keys.public_line(keys.public_blob(load(directory / 'host_ca')))}\n"
        )
        words = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        self.log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ssh.node_process", str(directory), *words],
            stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)
        assert self.port, (directory / "log").read_text()

    def close(self) -> str:
        """Stops the node and gives its log; it must end by itself."""
        self.process.terminate()
        assert self.process.wait(60) == 0
        self.process.stdout.close()  # type: ignore[union-attr]
        self.log.close()
        return (self.directory / "log").read_text()

    def identity(self, name: str = "id", **changes: Any) -> Path:
        """A private key with its certificate beside it."""
        path = self.directory / name
        if not path.exists():
            path.write_bytes(keys.private_to_openssh(keys.generate_key(), "test"))
            path.chmod(0o600)
        blob = user_certificate(keys.public_blob(load(path)), changes.pop("ca", self.ca), **changes)
        (self.directory / f"{name}-cert.pub").write_text(ssh.certificate_line(blob) + "\n")
        return path

    def command(self, identity: Path, *words: str, login: str = "deploy", options: tuple[str, ...] = ()
                ) -> list[str]:
        return [
            "ssh", "-F", "none", "-i", str(identity), "-p", str(self.port),
            # Of an option given twice, ssh takes the first.
            *(f"-o{one}" for one in (
                *options,
                "IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "StrictHostKeyChecking=yes",
                f"UserKnownHostsFile={self.directory / 'known_hosts'}", "GlobalKnownHostsFile=none",
                "LogLevel=ERROR")),
            f"{login}@127.0.0.1", *words,
        ]

    def run(self, identity: Path, *words: str, stdin: bytes = b"", **how: Any
            ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(identity, *words, **how), input=stdin, capture_output=True, timeout=60
        )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "audit").read_text().splitlines()]

    def refusals(self) -> list[str]:
        return [event["reason"] for event in self.events() if event["type"] == "authz.denied"]

    def last_refusal(self) -> str:
        return self.refusals()[-1]


def load(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    return load_ssh_private_key(path.read_bytes(), None)


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of *condition*; the real ``ssh`` gives no other sign."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def started(factory: pytest.TempPathFactory, **settings: Any) -> Iterator[Node]:
    node = Node(factory.mktemp("node"), **settings)
    node.directory.chmod(0o755)
    try:
        yield node
    finally:
        log = node.close()
    assert "Traceback" not in log
    assert "#critical]" not in log


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from started(tmp_path_factory)


@pytest.fixture(scope="module")
def principals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from started(tmp_path_factory, authorization="principals")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    who = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    yield from started(
        tmp_path_factory, exec="system", run_as="nobody" if IS_ROOT else who, hangup_grace_seconds=1
    )


def test_good_certificate_logs_in(builtin: Node) -> None:
    """With strict checking of the host, by nothing but the Host CA."""
    done = builtin.run(builtin.identity("good"), "whoami")
    assert (done.stdout, done.returncode, done.stderr) == (b"deploy\n", 0, b"")
    shown = json.loads(builtin.run(builtin.identity("good"), "certificate").stdout)
    assert (shown["bot"], shown["serial"]) == ("ci", 12)


def test_streams_and_status_pass(builtin: Node) -> None:
    identity = builtin.identity("streams")
    data = os.urandom(3_000_000)
    assert builtin.run(identity, "echo", stdin=data).stdout == data
    assert builtin.run(identity, "false").returncode == 1
    assert builtin.run(identity, "nonsense").returncode == 127


def test_terminal_is_refused_cleanly(builtin: Node) -> None:
    """By a plain no: ssh gives up by itself where a terminal was demanded."""
    done = builtin.run(builtin.identity("good"), "echo", "x", options=("RequestTTY=force",))
    assert b"PTY allocation request failed" in done.stderr


def test_keys_change_while_data_flow(builtin: Node) -> None:
    data = os.urandom(4_000_000)
    done = builtin.run(builtin.identity("rekey"), "echo", stdin=data, options=("RekeyLimit=512K",))
    assert done.stdout == data


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": ({"valid_before": 1_600_000_000, "valid_after": 0}, "deploy", "expired"),
    "not yet valid": ({"valid_after": 4_000_000_000, "valid_before": 2**63}, "deploy", "not_yet_valid"),
    "wrong login": ({}, "root", "wrong_principal"),
    "host certificate": ({"type": HOST}, "deploy", "wrong_type"),
    "other address": ({"critical_options": (("source-address", "192.0.2.0/24"),)}, "deploy",
                      "source_address"),
    "login denied by roles": ({"principals": ("backup",)}, "backup", "no_logins"),
    "no roles": ({"extensions": ()}, "deploy", "role_gone"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_certificate_is_refused(what: str, builtin: Node) -> None:
    changes, login, code = BAD[what]
    before = len(builtin.refusals())
    done = builtin.run(builtin.identity("bad", **changes), "whoami", login=login)
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr
    # ssh itself does not offer a host certificate, only the key; test_userauth does.
    # That is told when the connection has ended.
    wanted = ["no_certificate" if code == "wrong_type" else code]
    wait_for(lambda: builtin.refusals()[before:] == wanted)


def test_foreign_ca_is_refused(builtin: Node) -> None:
    assert builtin.run(builtin.identity("bad", ca=builtin.foreign_ca), "whoami").returncode == 255
    assert builtin.last_refusal() == "untrusted_ca"


def test_key_without_certificate_is_refused(builtin: Node) -> None:
    path = builtin.identity("bare")
    Path(f"{path}-cert.pub").unlink()
    before = len(builtin.refusals())
    assert builtin.run(path, "whoami").returncode == 255
    wait_for(lambda: builtin.refusals()[before:] == ["no_certificate"])


def test_unknown_host_ca_is_refused_by_ssh(builtin: Node) -> None:
    """Our host certificate is what convinces ssh, nothing else."""
    other = builtin.directory / "other_hosts"
    other.write_text(f"@cert-authority * {keys.public_line(keys.public_blob(builtin.foreign_ca))}\n")
    done = builtin.run(builtin.identity("good"), "whoami", options=(f"UserKnownHostsFile={other}",))
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr


def test_plain_host_key_is_offered_too(builtin: Node) -> None:
    """For clients that know no certificates, and those that pinned the key itself."""
    pinned = builtin.directory / "pinned_hosts"
    found = builtin.run(
        builtin.identity("good"), "true",
        options=(f"UserKnownHostsFile={pinned}", "StrictHostKeyChecking=no", "HostKeyAlgorithms=ssh-ed25519"),
    )
    assert found.returncode == 0
    assert pinned.read_text().split()[1] == "ssh-ed25519"
    again = builtin.run(
        builtin.identity("good"), "true",
        options=(f"UserKnownHostsFile={pinned}", "HostKeyAlgorithms=ssh-ed25519"),
    )
    assert again.returncode == 0


@pytest.mark.parametrize("key_type", [("ed25519",), ("ecdsa", "-b", "384"), ("rsa", "-b", "2048")])
def test_certificates_by_ssh_keygen_log_in(key_type: tuple[str, ...], principals: Node) -> None:
    """Made by ``ssh-keygen -s`` with the same CA: principals are all that counts here."""
    name = f"kg-{key_type[0]}"
    keygen("-t", *key_type, "-N", "", "-f", name, cwd=principals.directory)
    keygen("-s", "user_ca", "-I", "by keygen", "-n", "deploy", "-V", "+5m", "-O", "force-command=whoami",
           f"{name}.pub", cwd=principals.directory)
    done = principals.run(principals.directory / name, "echo", "no")
    assert (done.stdout, done.returncode) == (b"deploy\n", 0)


@pytest.mark.parametrize("kind", ["mlkem768x25519-sha256", "curve25519-sha256", "ecdh-sha2-nistp256"])
def test_key_exchanges(kind: str, builtin: Node) -> None:
    known = subprocess.run(["ssh", "-Q", "kex"], check=True, capture_output=True, text=True).stdout.split()
    if kind not in known:
        pytest.skip(f"this ssh knows no {kind}")
    assert builtin.run(builtin.identity("kex"), "true", options=(f"KexAlgorithms={kind}",)).returncode == 0


@pytest.mark.parametrize("suffix", ["", "-etm@openssh.com"])
@pytest.mark.parametrize("size", ["256", "512"])
def test_packet_codes(size: str, suffix: str, builtin: Node) -> None:
    data = os.urandom(300_000)
    options = (f"MACs=hmac-sha2-{size}{suffix}", "RekeyLimit=100K")
    assert builtin.run(builtin.identity("mac"), "echo", stdin=data, options=options).stdout == data


@pytest.mark.parametrize(
    "option", ["Ciphers=aes128-cbc", "MACs=hmac-sha1", "KexAlgorithms=diffie-hellman-group14-sha1"]
)
def test_weak_algorithms_are_refused(option: str, builtin: Node) -> None:
    done = builtin.run(builtin.identity("kex"), "true", options=(option, "LogLevel=INFO"))
    assert done.returncode == 255
    assert b"no matching" in done.stderr


# --- real commands -------------------------------------------------------------------------


def test_system_runs_commands(system: Node) -> None:
    identity = system.identity("sys")
    done = system.run(identity, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert system.run(identity, "kill -9 $$").returncode == 255
    assert system.run(identity, "cat", stdin=b"data").stdout == b"data"
    # Without a command it is a login shell, as the minus says.
    assert system.run(identity, stdin=b"echo from $0").stdout == b"from -sh\n"


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_system_drops_all_rights(system: Node) -> None:
    command = "id -u; id -G; umask; pwd; grep CapEff /proc/self/status"
    shown = system.run(system.identity("sys"), command).stdout
    uid, groups, umask, cwd, capabilities = shown.decode().splitlines()
    assert (uid, groups, umask, cwd) == ("65534", "65534", "0022", "/")
    assert capabilities.split()[1] == "0" * 16


def test_system_environment_is_small(system: Node) -> None:
    blob = {"critical_options": (("force-command", "env"),)}
    shown = system.run(system.identity("forced", **blob), "rm -rf x").stdout.decode()
    found = dict(line.split("=", 1) for line in shown.splitlines())
    assert found["SSH_ORIGINAL_COMMAND"] == "rm -rf x"
    assert found["MEZITE_BOT"] == "ci"
    assert set(found) <= {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "SSH_CLIENT", "SSH_CONNECTION", "SSH_ORIGINAL_COMMAND",
        "MEZITE_LOGIN", "MEZITE_BOT", "MEZITE_INSTANCE", "PWD", "SHLVL", "_", "OLDPWD",
    }


def test_system_passes_much_data(system: Node) -> None:
    data = os.urandom(5_000_000)
    assert system.run(system.identity("sys"), "cat", stdin=data).stdout == data


def test_output_held_by_a_child_is_waited_for(system: Node) -> None:
    done = system.run(system.identity("sys"), "(sleep 0.3; echo late) & exit 3")
    assert (done.stdout, done.returncode) == (b"late\n", 3)


def children(node: Node) -> set[int]:
    """Processes below the node, by session: they outlive their parents' parents."""
    found = subprocess.run(
        ["pgrep", "-f", str(node.directory / "marker")], capture_output=True, text=True
    ).stdout
    return {int(word) for word in found.split()} - {os.getpid()}


def remote(node: Node) -> set[int]:
    """Of these, the ones that are no ``ssh`` client of this test."""
    mine = set()
    for pid in children(node):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] != b"ssh":
                mine.add(pid)
        except OSError:
            pass
    return mine


STUBBORN = "trap '' HUP TERM; : {marker}; sh -c 'sleep 600; : {marker}' & echo ready; wait"


def test_lost_connection_leaves_no_process(system: Node) -> None:
    """The group is hung up, and killed where it does not listen."""
    command = STUBBORN.format(marker=system.directory / "marker")
    client = subprocess.Popen(
        system.command(system.identity("sys"), command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    assert len(remote(system)) >= 2
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    wait_for(lambda: not remote(system))


def test_slow_reader_costs_no_memory(system: Node) -> None:
    """The program is held, not its output collected."""
    client = subprocess.Popen(
        system.command(system.identity("sys"), "head -c 300000000 /dev/zero; echo done >&2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )
    assert client.stdout is not None
    client.stdout.read(1)
    before = resident(system)
    time.sleep(1)
    assert resident(system) - before < 30_000
    client.kill()
    client.communicate()


def resident(node: Node) -> int:
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


def test_lock_ends_live_sessions_and_their_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    who = "nobody" if IS_ROOT else subprocess.run(
        ["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    for node in started(tmp_path_factory, exec="system", run_as=who, hangup_grace_seconds=1):
        command = STUBBORN.format(marker=node.directory / "marker")
        client = subprocess.Popen(
            node.command(node.identity("sys"), command), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        (node.directory / "lock").touch()
        _, error = client.communicate(timeout=60)
        assert client.returncode == 255
        assert b"this identity is locked" in error or not error
        wait_for(lambda: not remote(node))  # noqa: B023
        assert node.run(node.identity("sys"), "true").returncode == 255
        assert node.last_refusal() == "locked"
        (end,) = wait_for(lambda: [one for one in node.events() if one["type"] == "session.end"])  # noqa: B023
        assert end["reason"] == "locked"
        assert "exit_status" not in end


def test_stop_leaves_no_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    who = "nobody" if IS_ROOT else subprocess.run(
        ["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    node = Node(tmp_path_factory.mktemp("node"), exec="system", run_as=who, hangup_grace_seconds=1)
    client = subprocess.Popen(
        node.command(node.identity("sys"), STUBBORN.format(marker=node.directory / "marker")),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    assert "Traceback" not in node.close()
    assert remote(node) == set()
    client.communicate(timeout=60)


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_login_runs_as_its_own_account(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Which must exist, and have a shell that lets it in."""
    for node in started(tmp_path_factory, exec="system"):
        identity = node.identity("sys", principals=("deploy", "nobody", "root"))
        for login in ("deploy", "nobody"):
            assert node.run(identity, "true", login=login).returncode == 255
            assert node.last_refusal() == "account"
        assert node.run(identity, "id -un", login="root").stdout == b"root\n"
