"""The agent output with the programs that people have, and what is left of it when it ends."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh.matrix.both import sshd_or_skip
from tests.system.processes import (
    BIN,
    TIMEOUT,
    Cluster,
    Finished,
    MachineProcess,
    Process,
    environment,
    run,
    wait_for,
)
from tests.system.test_clients import ME, NAME, needs, needs_ansible

needs_agent_tools = needs("ssh-add", "Debian: openssh-client")
needs_git = needs("git", "Debian: git")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("agent"), {"ssh": {"exec": "system", "run_as": ME}})
    made.start()
    made.add_role("free", options={"max_session_ttl": "1h", "file_copy": True}, deny={"logins": ["nobody"]})
    yield made
    made.close()
    assert "Traceback" not in (made.root / "server.log").read_text()


def serving(cluster: Cluster, name: str, outputs: str) -> tuple[MachineProcess, Process]:
    """A daemon that has joined, with these outputs."""
    machine = cluster.machine(name)
    token = cluster.add_bot(name, roles="free")
    daemon = machine.daemon(f"--join-token={token}", f"--outputs={outputs}")
    wait_for(lambda: machine.status().get("ready"), f"identity; {daemon.text()}")
    return machine, daemon


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> MachineProcess:
    """One with an agent only."""
    return serving(cluster, "agent-only", "agent")[0]


def agent_of(machine: MachineProcess) -> Path:
    return machine.destination / "agent.sock"


def with_agent(machine: MachineProcess) -> dict[str, str]:
    return {**machine.env, "SSH_AUTH_SOCK": str(agent_of(machine))}


def ssh_add(machine: MachineProcess, *words: str | Path) -> Finished:
    return run(["ssh-add", *words], with_agent(machine))


def ssh_words(machine: MachineProcess) -> list[str]:
    """ssh without any configuration or key file, strict about the host."""
    return [
        "ssh", "-F", "none", "-p", str(machine.cluster.node_port), "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={machine.destination}/known_hosts", "-o", "StrictHostKeyChecking=yes",
    ]


def private_keys(machine: MachineProcess) -> list[Path]:
    """Files with a private key anywhere below the machine's home, the sealed state excepted."""
    files = [path for path in machine.home.rglob("*") if path.is_file() and ".mezite" not in path.parts]
    return [path for path in files if b"PRIVATE KEY" in path.read_bytes()]


def test_ssh_logs_in_with_nothing_but_the_agent(machine: MachineProcess) -> None:
    done = run([*ssh_words(machine), "deploy@127.0.0.1", "echo in"], with_agent(machine))
    assert (done.code, done.out) == (0, "in\n"), done
    assert private_keys(machine) == []


def test_ssh_binds_it_to_its_session(machine: MachineProcess) -> None:
    done = run([*ssh_words(machine), "-v", "deploy@127.0.0.1", "true"], with_agent(machine))
    assert done.code == 0, done
    assert "bound agent to hostkey" in done.err or re.search(r"OpenSSH_([0-7]|8\.[0-8])", done.err), done


def test_forwarded_to_a_host_it_is_good_for_nothing_there(
    machine: MachineProcess, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Somebody logs in to an sshd by a key of his own, with `ssh -A` and this agent."""
    key = tmp_path / "own"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    there = [*ssh_words(machine), "deploy@127.0.0.1", "true"]
    with sshd_or_skip(tmp_path_factory, AuthorizedKeysFile=key.with_suffix(".pub")) as sshd:
        on_the_way = [
            "ssh", "-F", "none", "-A", "-p", str(sshd.port), "-i", key, "-o", "IdentitiesOnly=yes",
            "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            f"{ME}@127.0.0.1",
        ]
        if run([*on_the_way, "true"], with_agent(machine)).code:
            pytest.skip("this sshd lets nobody in")
        words = f"ssh-add -l; echo $?; {shlex.join(there)}; echo $?"
        done = run([*on_the_way, words], with_agent(machine))
    assert done.out.splitlines() == ["The agent has no identities.", "1", "255"], done
    assert "Permission denied" in done.err
    assert "forwards it to another host" in (machine.home / "mezd.log").read_text()
    assert run(there, with_agent(machine)).code == 0


def test_its_configuration_and_msh_find_the_agent(machine: MachineProcess) -> None:
    done = run(["ssh", "-F", machine.destination / "ssh_config", f"deploy@{NAME}", "echo in"], machine.env)
    assert (done.code, done.out) == (0, "in\n"), done
    done = run([BIN / "msh", "ssh", "--login=deploy", NAME, "--", "echo", "in"], machine.env)
    assert (done.code, done.out) == (0, "in\n"), done


def test_env_scp_and_status_of_msh(machine: MachineProcess, tmp_path: Path) -> None:
    """What they print and do is good for a shell, for the node, and for a person."""
    printed = run([BIN / "msh", "env"], machine.env)
    script = f'{printed.out}\n$GIT_SSH_COMMAND deploy@{NAME} echo in; ssh-add -l'
    done = run(["sh", "-c", script], machine.env)
    assert (done.code, done.out.splitlines()[0]) == (0, "in"), done
    (tmp_path / "file").write_text("content")
    done = run([BIN / "msh", "scp", tmp_path / "file", f"deploy@{NAME}:{tmp_path}/copy"], machine.env)
    assert (done.code, (tmp_path / "copy").read_text()) == (0, "content"), done
    for words in (["msh", "status"], ["mezd", "identity", "status"], ["mezctl", "identity", "status"]):
        done = run([BIN / words[0], *words[1:]], machine.env)
        assert (done.code, done.out.splitlines()[0].split()) == (0, ["State:", "ready"]), done
        assert max(map(len, done.out.splitlines())) < 160


def test_an_included_configuration(machine: MachineProcess) -> None:
    """As the machine's own ~/.ssh/config has it."""
    config = machine.home / "config"
    config.write_text(f"Include {machine.destination}/ssh_config\nHost *\n  BatchMode yes\n")
    done = run(["ssh", "-F", config, f"deploy@{NAME}", "echo in"], machine.env)
    assert (done.code, done.out) == (0, "in\n"), done


@needs_agent_tools
def test_ssh_add_lists_one_certificate(machine: MachineProcess) -> None:
    done = ssh_add(machine, "-l")
    assert (done.code, len(done.out.splitlines())) == (0, 1), done
    assert "(ECDSA-CERT)" in done.out
    assert ssh_add(machine, "-L").out.split()[1] == (
        (machine.destination / "ssh_key-cert.pub").read_text().split()[1]
    )


@needs_agent_tools
def test_nothing_can_be_added_removed_or_locked(machine: MachineProcess, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    before = ssh_add(machine, "-L").out
    for words in ([key], ["-d", machine.destination / "ssh_key-cert.pub"], ["-D"]):
        assert ssh_add(machine, *words).code != 0, words
    assert ssh_add(machine, "-L").out == before


@needs_agent_tools
def test_it_signs_no_files_and_no_test_data(machine: MachineProcess, tmp_path: Path) -> None:
    """`ssh-keygen -Y sign` and `ssh-add -T` want signatures over something else than a login."""
    text = tmp_path / "text"
    text.write_text("pay him everything")
    certificate = machine.destination / "ssh_key-cert.pub"
    done = run(["ssh-keygen", "-Y", "sign", "-n", "file", "-f", certificate, text], with_agent(machine))
    assert done.code != 0
    assert not text.with_suffix(".sig").exists()
    assert ssh_add(machine, "-T", certificate).code != 0
    assert "agent: refused" in (machine.home / "mezd.log").read_text()


@needs_git
def test_git_clones_and_pushes(machine: MachineProcess, tmp_path: Path) -> None:
    env = {
        **with_agent(machine), "GIT_SSH_COMMAND": " ".join(ssh_words(machine)),
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "m", "GIT_AUTHOR_EMAIL": "m@example.com",
        "GIT_COMMITTER_NAME": "m", "GIT_COMMITTER_EMAIL": "m@example.com",
    }
    bare, copy = tmp_path / "bare.git", tmp_path / "copy"
    url = f"ssh://deploy@127.0.0.1{bare}"
    for words in (
        ["init", "-q", "--bare", bare], ["clone", "-q", url, copy],
        ["-C", copy, "commit", "-q", "--allow-empty", "-m", "first"],
        ["-C", copy, "push", "-q", "origin", "HEAD:refs/heads/main"],
    ):
        done = run(["git", *words], env, timeout=60)
        assert done.code == 0, done
    assert "first" in run(["git", "-C", bare, "log", "--format=%s", "main"], env).out


@needs_ansible
def test_ansible_runs_commands(machine: MachineProcess, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"{NAME} ansible_user=deploy\n")
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - raw: echo from $((40 + 2))\n      register: said\n"
        "    - assert: {that: \"'from 42' in said.stdout\"}\n"
    )
    env = {
        **with_agent(machine), "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_SSH_ARGS": f"-F {machine.destination / 'ssh_config'} -o ControlMaster=no",
    }
    done = run([BIN / "ansible-playbook", "-i", tmp_path / "hosts", tmp_path / "play.yml"], env, timeout=120)
    assert done.code == 0, done


def test_logins_go_on_through_renewals(machine: MachineProcess) -> None:
    """Renewed before each of twenty logins, and while they run."""
    control = machine.destination / ".mezite" / "control.sock"
    renew = [BIN / "mezctl", "--socket", control, "identity", "renew"]
    for _ in range(20):
        with subprocess.Popen(
            [str(word) for word in renew], env=machine.env, stdout=subprocess.DEVNULL
        ) as renewing:
            done = run([*ssh_words(machine), "deploy@127.0.0.1", "true"], with_agent(machine))
            assert done.code == 0, done
            assert renewing.wait(30) == 0
    assert machine.status()["generation"] >= 20


def test_both_outputs_at_once(cluster: Cluster) -> None:
    """Files and agent hold the same certificate, and the configuration works by either."""
    machine, daemon = serving(cluster, "both", "files,agent")
    config = ["ssh", "-F", machine.destination / "ssh_config", f"deploy@{NAME}", "true"]
    assert machine.status()["outputs"] == ["files", "agent"]
    assert run(config, machine.env).code == 0
    assert machine.ssh("true").code == 0
    assert ssh_add(machine, "-L").out.split()[1] in (machine.destination / "ssh_key-cert.pub").read_text()
    assert agent_of(machine).stat().st_mode & 0o777 == 0o600
    assert daemon.stop() == 0
    assert run(config, machine.env).code == 0, "the files alone"


@needs_agent_tools
def test_no_agent_no_certificate_yet_and_an_agent_that_ended(cluster: Cluster) -> None:
    """ssh-add's exit codes: 2 without an agent, 1 while it is empty; no socket outlives its daemon."""
    machine = cluster.machine("waiting")
    token = cluster.add_bot("waiting", roles="free")
    assert ssh_add(machine, "-l").code == 2
    argv = machine.argv(f"--join-token={token}", "--outputs=agent")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        argv[argv.index(f"--auth-server=127.0.0.1:{cluster.port}")] = (
            f"--auth-server=127.0.0.1:{silent.getsockname()[1]}"
        )
        daemon = cluster.spawn(argv, machine.env, machine.home / "mezd.log")
        wait_for(lambda: ssh_add(machine, "-l").code == 1, "empty agent")
    assert daemon.stop() == 0
    assert not agent_of(machine).exists()
    assert ssh_add(machine, "-l").code == 2


@needs_agent_tools
def test_killed_and_started_again_without_its_server(tmp_path: Path) -> None:
    """The stale socket is replaced, and the key is in the sealed state: nobody waits for the server."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        cluster.add_role("free", deny={"logins": ["nobody"]})
        machine, daemon = serving(cluster, "killed", "agent")
        listed = ssh_add(machine, "-L").out
        daemon.kill()
        assert agent_of(machine).exists()
        assert ssh_add(machine, "-l").code == 2
        assert cluster.server is not None
        cluster.server.stop()
        again = machine.daemon("--outputs=agent")
        wait_for(lambda: ssh_add(machine, "-l").code == 0, f"agent; {again.text()}")
        assert ssh_add(machine, "-L").out == listed
        agent_of(machine).unlink()
        wait_for(lambda: ssh_add(machine, "-l").code == 0, "a socket in the place of the one removed")
        assert private_keys(machine) == []
        assert again.stop() == 0
        assert not agent_of(machine).exists()
    finally:
        cluster.close()


def test_from_files_to_an_agent(cluster: Cluster) -> None:
    """The published key is gone at once by its name, and soon from the disk."""
    machine, daemon = serving(cluster, "changed", "files")
    daemon.stop()
    daemon = machine.daemon("--outputs=agent")
    wait_for(lambda: machine.status().get("ready"), f"agent; {daemon.text()}")
    assert not os.path.lexists(machine.destination / "ssh_key")
    assert not (machine.destination / "current" / "ssh_key").exists()
    assert run([*ssh_words(machine), "deploy@127.0.0.1", "true"], with_agent(machine)).code == 0
    daemon.stop(signal.SIGTERM)


def test_a_place_that_cannot_have_the_socket(cluster: Cluster) -> None:
    """Told before the token is used; nothing is left listening."""
    machine = cluster.machine("foreign")
    token = cluster.add_bot("foreign", roles="free")
    machine.destination.mkdir(mode=0o700)
    agent_of(machine).write_text("something of somebody")
    daemon = machine.daemon(f"--join-token={token}", "--outputs=files,agent")
    assert daemon.wait() == 1, daemon.text()
    assert "agent.sock" in daemon.text()
    assert agent_of(machine).read_text() == "something of somebody"
    assert not (machine.destination / ".mezite" / "control.sock").exists()
    assert machine.once(f"--join-token={token}").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_account_cannot_use_it(machine: MachineProcess, tmp_path: Path) -> None:
    """Neither by the file's mode nor, where that was opened, by the uid that the kernel tells."""
    nobody = pwd.getpwnam("nobody")
    agent, mode = agent_of(machine), agent_of(machine).stat().st_mode & 0o7777
    # Another name of the socket, in a place that is everybody's: the directories above it are
    # other tests', too.
    with tempfile.TemporaryDirectory(prefix="mz-way-") as name:
        way = Path(name, "agent.sock")
        way.parent.chmod(0o755)
        way.hardlink_to(agent)
        agent.chmod(0o777)
        try:
            done = subprocess.run(
                ["ssh-add", "-l"], env={**environment(tmp_path), "SSH_AUTH_SOCK": str(way)},
                user=nobody.pw_uid, group=nobody.pw_gid, capture_output=True, text=True, timeout=TIMEOUT,
                check=False,
            )
        finally:
            agent.chmod(mode)
    assert done.returncode != 0, done
    log = machine.home / "mezd.log"
    wait_for(lambda: "may not use this agent" in log.read_text(), "refusal in the log")
