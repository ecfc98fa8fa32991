"""The clients that people have, against a real server whose node runs real commands.

Each is skipped, loudly, where it is not installed; ``.ci/run`` installs them all.
The node runs every login as the account that runs the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mezite.ssh.copying import SFTP_SERVERS
from tests.system.processes import (
    BIN,
    Cluster,
    Finished,
    MachineProcess,
    environment,
    free_port,
    run,
    wait_for,
)

ME = pwd.getpwuid(os.geteuid()).pw_name
DATA = os.urandom(3_000_000)
NAME = "web-server-01"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    there = shutil.which(program, path=f"{BIN}:{os.environ['PATH']}")
    return pytest.mark.skipif(there is None, reason=f"needs {program} ({package})")


needs_sftp_server = pytest.mark.skipif(
    not any(Path(place).exists() for place in SFTP_SERVERS),
    reason="needs OpenSSH's sftp-server (Debian: openssh-sftp-server)",
)
needs_rsync = needs("rsync", "Debian: rsync")
needs_ansible = needs("ansible-playbook", "PyPI: ansible-core")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("clients"), {"ssh": {"exec": "system", "run_as": ME}})
    made.start()
    options = {"max_session_ttl": "1h", "file_copy": True, "port_forwarding": True}
    deny = {"logins": ["nobody"]}
    made.add_role("free", options=options, deny=deny)
    made.add_role("narrow", options={"max_session_ttl": "1h"}, deny=deny)
    yield made
    made.close()
    log = (made.root / "server.log").read_text()
    assert "Traceback" not in log
    assert "critical" not in log


def joined(cluster: Cluster, role: str) -> MachineProcess:
    machine = cluster.machine(role)
    assert machine.once(f"--join-token={cluster.add_bot(role, roles=role)}").code == 0
    return machine


@pytest.fixture(scope="module")
def free(cluster: Cluster) -> MachineProcess:
    """A machine that may copy files and forward ports."""
    return joined(cluster, "free")


@pytest.fixture(scope="module")
def narrow(cluster: Cluster) -> MachineProcess:
    """A machine that may neither."""
    return joined(cluster, "narrow")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with ``there``, which the node's account can read, and nothing else."""
    (tmp_path / "there").write_bytes(DATA)
    return tmp_path


def config(machine: MachineProcess) -> Path:
    return machine.destination / "ssh_config"


def client(machine: MachineProcess, *words: str | Path, stdin: str = "") -> Finished:
    """An OpenSSH program with the machine's own configuration."""
    program, *rest = words
    return run([program, "-F", config(machine), *rest], machine.env, stdin=stdin, timeout=60)


def refusals(cluster: Cluster, machine: MachineProcess) -> list[str]:
    events = yaml.safe_load(cluster.ctl("audit", "ls", "--format", "json"))["events"]
    bot = f"bot/{machine.home.name}"
    denied = [one for one in events if one["event_type"] == "authz.denied"]
    return [one["reason"] for one in denied if bot in str(one)]


# --- ssh -----------------------------------------------------------------------------------


def test_ssh_runs_commands_by_the_accounts_own_shell(free: MachineProcess) -> None:
    done = client(free, "ssh", f"deploy@{NAME}", "echo $0; echo $SSH_CONNECTION >&2; exit 7")
    shell = Path(pwd.getpwuid(os.geteuid()).pw_shell).name
    assert (done.code, done.out.strip()) == (7, shell)
    assert len(done.err.split()) == 4


def test_ssh_with_a_terminal(free: MachineProcess) -> None:
    """One of its own, which controls the session; the status passes."""
    done = run(
        ["ssh", "-tt", "-F", config(free), f"deploy@{NAME}", "tty; echo $TERM; ps -o tty= -p $$; exit 4"],
        {**free.env, "TERM": "vt100"},
    )
    tty, term, controlling = done.out.split()
    assert (done.code, term, f"/dev/{controlling}") == (4, "vt100", tty)


def test_ssh_types_into_a_login_shell(free: MachineProcess) -> None:
    done = client(free, "ssh", "-tt", f"deploy@{NAME}", stdin="stty size; exit 9\n")
    assert done.code == 9


def test_a_reader_that_leaves_ends_the_program(free: MachineProcess) -> None:
    """As with sshd: `ssh node yes | head` is done when head is."""
    done = run(["sh", "-c", 'ssh -F "$0" "$1" yes | head -n 2', config(free), f"deploy@{NAME}"], free.env)
    assert (done.code, done.out) == (0, "y\ny\n")


def test_language_passes_and_nothing_else(free: MachineProcess) -> None:
    done = run(
        ["ssh", "-F", config(free), "-o", "SendEnv=LC_* LD_PRELOAD SECRET", f"deploy@{NAME}", "env"],
        {**free.env, "LC_TIME": "C.UTF-8", "SECRET": "x"},
    )
    assert "LC_TIME=C.UTF-8" in done.out
    assert "SECRET" not in done.out


# --- files ---------------------------------------------------------------------------------


@needs_sftp_server
@pytest.mark.parametrize("mode", ["-s", "-O"], ids=["sftp protocol", "legacy protocol"])
def test_scp_copies_both_ways(mode: str, free: MachineProcess, files: Path) -> None:
    up = client(free, "scp", mode, "-q", files / "there", f"deploy@{NAME}:{files}/up")
    down = client(free, "scp", mode, "-q", f"deploy@{NAME}:{files}/up", files / "down")
    assert (up.code, down.code, up.err, down.err) == (0, 0, "", "")
    assert (files / "down").read_bytes() == DATA


@needs_sftp_server
def test_sftp_copies_both_ways(free: MachineProcess, files: Path) -> None:
    batch = f"put {files}/there {files}/up\nget {files}/up {files}/down\nls -l {files}\n"
    done = client(free, "sftp", "-q", "-b", "-", f"deploy@{NAME}", stdin=batch)
    assert (done.code, done.err) == (0, "")
    assert (files / "down").read_bytes() == DATA


@needs_rsync
def test_rsync_copies_both_ways(free: MachineProcess, files: Path) -> None:
    shell = f"ssh -F {config(free)}"
    for source, target in (
        (f"{files}/there", f"deploy@{NAME}:{files}/up"),
        (f"deploy@{NAME}:{files}/up", f"{files}/down"),
    ):
        done = run(["rsync", "-a", "--checksum", "-e", shell, source, target], free.env)
        assert (done.code, done.err) == (0, "")
    assert (files / "down").read_bytes() == DATA


def test_file_copies_need_the_role_option(cluster: Cluster, narrow: MachineProcess, files: Path) -> None:
    """Each is refused with a reason, for the user and in the audit log; commands run."""
    target = f"deploy@{NAME}:{files}/up"
    assert client(narrow, "sftp", "-q", "-b", "-", f"deploy@{NAME}", stdin="ls\n").code == 255
    assert client(narrow, "scp", "-s", "-q", files / "there", target).code != 0
    legacy = client(narrow, "scp", "-O", "-q", files / "there", target)
    assert legacy.code != 0
    assert "no role of this identity allows file copies here (scp)" in legacy.err
    wanted = 3
    if shutil.which("rsync"):
        done = run(["rsync", "-e", f"ssh -F {config(narrow)}", files / "there", target], narrow.env)
        assert "no role of this identity allows file copies here (rsync)" in done.err
        wanted = 4
    assert not (files / "up").exists()
    wait_for(lambda: refusals(cluster, narrow).count("file_copy") == wanted, "refusals in the audit log")
    assert client(narrow, "ssh", f"deploy@{NAME}", "true").code == 0


# --- forwarding ----------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets, until it gets no more."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.settimeout(30)
                while data := peer.recv(65536):
                    peer.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(30)


def jump(machine: MachineProcess) -> Finished:
    return client(
        machine, "ssh", "-J", f"deploy@{NAME}", "-p", str(machine.cluster.node_port),
        "-i", machine.destination / "ssh_key", "-o", f"UserKnownHostsFile={machine.destination}/known_hosts",
        "deploy@127.0.0.1", "echo there",
    )


def test_ssh_jumps_through_the_node(free: MachineProcess) -> None:
    """``ssh -J``: here to the node itself, by another name."""
    done = jump(free)
    assert (done.code, done.out) == (0, "there\n")


def test_forwarded_data_passes_whole_and_ends(free: MachineProcess, echo: int) -> None:
    """The end of input passes on, and what comes back is read to its end."""
    text = "x" * 2_000_000
    done = client(free, "ssh", "-W", f"127.0.0.1:{echo}", f"deploy@{NAME}", stdin=text)
    assert (done.code, done.out) == (0, text)


def test_a_local_port_is_forwarded(cluster: Cluster, free: MachineProcess, echo: int) -> None:
    port = free_port()
    tunnel = cluster.spawn(
        ["ssh", "-N", "-F", config(free), "-o", "ExitOnForwardFailure=yes",
         "-L", f"127.0.0.1:{port}:localhost:{echo}", f"deploy@{NAME}"],
        free.env, free.home / "tunnel.log",
    )

    def answer() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as peer:
                peer.sendall(b"hello")
                return peer.recv(5)
        except OSError:
            return b""

    assert wait_for(answer, "forwarded answer") == b"hello"
    tunnel.stop()


def test_a_destination_that_refuses_is_told(free: MachineProcess) -> None:
    done = client(free, "ssh", "-W", f"127.0.0.1:{free_port()}", f"deploy@{NAME}")
    assert done.code == 255
    assert "the destination refuses the connection" in done.err


def test_forwarding_needs_role_and_certificate(cluster: Cluster, narrow: MachineProcess) -> None:
    done = jump(narrow)
    assert done.code == 255
    assert "administratively prohibited" in done.err
    wait_for(lambda: "port_forwarding" in refusals(cluster, narrow), "refusal in the audit log")


def test_the_node_listens_for_nobody(free: MachineProcess) -> None:
    """Remote, agent and X11 forwarding are refused, and the command runs."""
    done = client(free, "ssh", "-R", "0:127.0.0.1:9", f"deploy@{NAME}", "true")
    assert done.code == 0
    assert "remote port forwarding failed" in done.err
    done = client(free, "ssh", "-A", f"deploy@{NAME}", 'echo "${SSH_AUTH_SOCK:-none} ${DISPLAY:-none}"')
    assert done.out == "none none\n"


# --- libraries -----------------------------------------------------------------------------


@needs_ansible
@needs_sftp_server
def test_ansible_runs_a_playbook(free: MachineProcess, files: Path) -> None:
    """Over one shared connection, as its ssh plugin does it: sftp and many commands."""
    playbook = [
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {"name": "copy", "ansible.builtin.copy": {"src": f"{files}/there", "dest": f"{files}/up"}},
                {"name": "run", "ansible.builtin.command": {"cmd": f"wc -c {files}/up"}, "register": "count"},
                {"name": "say", "ansible.builtin.debug": {"var": "count.stdout"}},
            ],
        }
    ]
    (files / "play.yaml").write_text(yaml.safe_dump(playbook))
    (files / "hosts").write_text(
        f"{NAME} ansible_user=deploy ansible_python_interpreter={BIN}/python "
        f"ansible_remote_tmp={files}/remote ansible_ssh_common_args='-F {config(free)}'\n"
    )
    # Unix socket paths are short, temporary directories are not.
    with tempfile.TemporaryDirectory(prefix="mz") as sockets:
        settings = {
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets, "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=2s",
        }
        done = run(
            [BIN / "ansible-playbook", "-i", files / "hosts", files / "play.yaml"],
            environment(free.home, **settings), timeout=120,
        )
    assert done.code == 0, done
    assert f"{len(DATA)} {files}/up" in done.out
    assert (files / "up").read_bytes() == DATA


@needs_sftp_server
def test_asyncssh(free: MachineProcess, files: Path, echo: int) -> None:
    """Host certificate, command, signal, terminal, sftp and forwarding by asyncssh."""
    asyncssh = pytest.importorskip("asyncssh", reason="needs asyncssh (PyPI)")

    async def talk() -> None:
        async with asyncssh.connect(
            "127.0.0.1", free.cluster.node_port, username="deploy", config=None, agent_path=None,
            client_keys=[(str(free.destination / "ssh_key"), str(free.destination / "ssh_key-cert.pub"))],
            known_hosts=str(free.destination / "known_hosts"),
        ) as connection:
            done = await connection.run("cat; exit 3", input="through")
            assert (done.stdout, done.exit_status) == ("through", 3)
            process = await connection.create_process("sleep 60")
            process.send_signal("TERM")
            await process.wait()
            assert process.exit_signal[0] == "TERM"
            process = await connection.create_process(
                "stty size; read line; stty size", term_type="xterm", term_size=(81, 25)
            )
            assert (await process.stdout.readline()).strip() == "25 81"
            process.change_terminal_size(100, 40)
            process.stdin.write("\n")
            assert "40 100" in await process.stdout.read()
            async with connection.start_sftp_client() as sftp:
                await sftp.put(str(files / "there"), str(files / "up"))
            reader, writer = await connection.open_connection("127.0.0.1", echo)
            writer.write(b"there and back")
            writer.write_eof()
            assert await reader.read() == b"there and back"

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert (files / "up").read_bytes() == DATA


@needs_sftp_server
def test_paramiko(free: MachineProcess, files: Path) -> None:
    """It knows no host certificates: it is given the host's plain key."""
    paramiko = pytest.importorskip("paramiko", reason="needs paramiko (PyPI)")
    pinned = files / "pinned"
    run(
        ["ssh", "-F", config(free), "-o", f"UserKnownHostsFile={pinned}", "-o", "StrictHostKeyChecking=no",
         "-o", "HostKeyAlgorithms=ssh-ed25519", f"deploy@{NAME}", "true"],
        free.env,
    )
    host_key = paramiko.Ed25519Key(data=_blob(pinned))
    key = paramiko.ECDSAKey.from_private_key_file(str(free.destination / "ssh_key"))
    key.load_certificate(str(free.destination / "ssh_key-cert.pub"))
    with paramiko.SSHClient() as ssh:
        address = f"[127.0.0.1]:{free.cluster.node_port}"
        ssh.get_host_keys().add(address, "ssh-ed25519", host_key)
        ssh.connect(
            "127.0.0.1", free.cluster.node_port, "deploy", pkey=key, allow_agent=False, look_for_keys=False,
            timeout=30,
        )
        stdin, stdout, stderr = ssh.exec_command("cat; echo err >&2; exit 6", timeout=30)
        stdin.write("in")
        stdin.channel.shutdown_write()
        assert (stdout.read(), stderr.read(), stdout.channel.recv_exit_status()) == (b"in", b"err\n", 6)
        with ssh.open_sftp() as sftp:
            sftp.put(str(files / "there"), str(files / "up"))
        _, stdout, _ = ssh.exec_command("tty", get_pty=True, timeout=30)
        assert stdout.read().startswith(b"/dev/pts/")
    assert (files / "up").read_bytes() == DATA


def _blob(known_hosts: Path) -> bytes:
    from mezite.certs.keys import parse_public_line

    return parse_public_line(" ".join(known_hosts.read_text().split()[1:3]))
