"""The documented story, with real processes and the real ssh."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.system.processes import BIN, Cluster, MachineProcess, Process, run, token_in, wait_for

DOCUMENTED_ROLE = """\
kind: role
metadata:
  name: ci-deployer
  description: "CI/CD deploy pipeline SSH access"
spec:
  options:
    max_session_ttl: 1h
  allow:
    node_labels:
      env:
        - staging
        - production
    logins:
      - deploy
  deny:
    logins:
      - root
"""


def joined(machine: MachineProcess) -> None:
    wait_for(lambda: (machine.destination / "ssh_key").exists(), "key, which comes last")


def generation(machine: MachineProcess) -> int:
    return int(machine.status().get("generation") or 0)


def test_the_documented_setup_prints_what_is_documented(cluster: Cluster) -> None:
    """Role, bot, list, show, rotate-token, rm: the words of the document."""
    role = cluster.root / "ci-deployer.yaml"
    role.write_text(DOCUMENTED_ROLE)
    cluster.ctl("roles", "create", f"--from-file={role}")
    out = cluster.ctl("bots", "add", "--name=github-deploy", "--roles=ci-deployer", "--token-ttl=1h")
    token = r"tok-bot-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}"
    expected = (
        r"Bot created: github-deploy \(roles: ci-deployer\)\n"
        rf"Join token: ({token}) \(expires: \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)\n"
        r"\n"
        r"Use this token with mezd identity:\n"
        rf"  mezd identity start --auth-server=127\.0\.0\.1:{cluster.port} --join-token=\1\n"
    )
    assert re.fullmatch(expected, out), out
    assert "github-deploy" in cluster.ctl("bots", "ls")
    shown = json.loads(cluster.ctl("--format", "json", "bots", "show", "github-deploy"))
    assert shown["name"] == "github-deploy"
    rotated = cluster.ctl("bots", "rotate-token", "github-deploy")
    assert re.search(rf"^Join token: {token} \(expires: .*Z\)$", rotated, re.M), rotated
    assert "ci-deployer" in cluster.mezctl("roles", "delete", "ci-deployer").err
    assert "github-deploy" in cluster.mezctl("roles", "delete", "ci-deployer").err
    cluster.ctl("bots", "rm", "github-deploy")
    assert json.loads(cluster.ctl("--format", "json", "bots", "ls")) == {"bots": [], "next": None}
    cluster.ctl("roles", "delete", "ci-deployer")


@pytest.mark.both_databases
def test_a_machine_joins_logs_in_and_renews_while_logins_go_on(cluster: Cluster) -> None:
    """The daemon at a 2 s interval; no login through ssh_config ever fails."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    joined(machine)
    files = {path.name for path in machine.destination.iterdir()}
    assert {"ssh_key", "ssh_key-cert.pub", "known_hosts", "ssh_config", ".mezite"} <= files
    assert stat.S_IMODE((machine.destination / "ssh_key").stat().st_mode) == 0o600
    assert stat.S_IMODE((machine.destination / ".mezite").stat().st_mode) == 0o700
    said = machine.ssh("whoami")
    assert (said.code, said.out) == (0, "deploy\n"), said
    start = wait_for(lambda: generation(machine), "status")
    logins = 0

    def three_renewals_later() -> bool:
        nonlocal logins
        config = machine.destination / "ssh_config"
        through = run(["ssh", "-F", config, "deploy@web-server-01", "whoami"], machine.env)
        assert through.code == 0, through
        logins += 1
        return generation(machine) >= start + 3

    wait_for(three_renewals_later, "three renewals")
    assert logins >= 3
    # The short form: ssh finds the certificate beside the key.
    short = run(
        [
            "ssh",
            "-F",
            "none",
            "-p",
            str(cluster.node_port),
            "-i",
            machine.destination / "ssh_key",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "deploy@127.0.0.1",
            "whoami",
        ],
        machine.env,
    )
    assert short.code == 0, short
    assert daemon.stop() == 0, daemon.text()
    left = list((machine.destination / ".mezite").glob("*.sock"))
    assert left == []


def test_a_ci_job_takes_one_certificate_and_uses_it_by_msh(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot()
    done = machine.once(f"--join-token={token}")
    assert done.code == 0, done
    assert token not in done.out + done.err
    last = run([BIN / "msh", "ssh", "--login=deploy", "web-server-01", "--", "whoami"], machine.env)
    assert (last.code, last.out) == (0, "deploy\n"), last
    named = run(
        [
            BIN / "msh",
            "ssh",
            f"--cert={machine.destination}/ssh_key-cert.pub",
            "--login=deploy",
            "web-server-01",
            "--",
            "certificate",
        ],
        machine.env,
    )
    assert named.code == 0, named
    validated = json.loads(named.out)
    assert (validated["bot"], validated["principals"]) == ("github-deploy", ["deploy"])
    assert machine.ssh("whoami", login="root").code == 255
    assert machine.ssh("false").code == 1
    assert machine.ssh("no-such-command").code == 127


@pytest.mark.both_databases
def test_a_token_admits_once_and_a_rotated_one_never(cluster: Cluster) -> None:
    cluster.add_role()
    token = cluster.add_bot()
    assert cluster.machine("first").once(f"--join-token={token}").code == 0
    second = cluster.machine("second").once(f"--token={token}")
    assert second.code == 3, second
    assert "token_used" in second.err
    assert "mezctl instances lock" in second.err
    fresh = token_in(cluster.ctl("bots", "rotate-token", "github-deploy"))
    newest = token_in(cluster.ctl("bots", "rotate-token", "github-deploy"))
    rotated = cluster.machine("third").once(f"--join-token={fresh}")
    assert rotated.code == 3, rotated
    assert "token_rotated" in rotated.err
    by_stdin = cluster.machine("fourth").once("--join-token=-", stdin=newest + "\n")
    assert by_stdin.code == 0, by_stdin
    assert "token_reused" in cluster.ctl("audit", "ls")
    shared = token_in(cluster.ctl("tokens", "create", "--bot=github-deploy", "--uses=2"))
    codes = [cluster.machine(f"job{n}").once(f"--join-token={shared}").code for n in range(3)]
    assert codes == [0, 0, 3]


def start_live_session(machine: MachineProcess) -> Process:
    """A login that echoes its input for as long as it is open; an open pipe feeds it."""
    files = machine.destination
    process = machine.cluster.spawn(
        ["sh", "-c", 'sleep 60 | ssh -F "$0" deploy@web-server-01 echo', files / "ssh_config"],
        machine.env,
        machine.home / "session.log",
    )

    def started() -> bool:
        events = machine.cluster.ctl("audit", "ls", "--format", "json")
        return "session.start" in events

    wait_for(started, "session")
    return process


@pytest.mark.both_databases
def test_a_lock_stops_renewal_login_and_the_live_session_until_it_is_lifted(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    joined(machine)
    session = start_live_session(machine)
    cluster.ctl("bots", "lock", "github-deploy", "--reason=looked odd")
    wait_for(lambda: "locked" in (machine.home / "session.log").read_text(), "end of the session")
    assert machine.ssh("whoami").code == 255
    wait_for(lambda: "locked" in str(machine.status().get("last_error")), "refused renewal")
    before = generation(machine)
    cluster.ctl("bots", "unlock", "github-deploy")
    wait_for(lambda: generation(machine) > before, "renewal after the unlock")
    assert machine.ssh("whoami").code == 0
    session.stop()


def test_a_removed_bot_ends_its_daemon_and_its_logins(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    joined(machine)
    cluster.ctl("bots", "rm", "github-deploy")
    assert daemon.wait() == 3, daemon.text()
    assert "bot_gone" in daemon.text()
    assert machine.ssh("whoami").code == 255


def copied(machine: MachineProcess, name: str = "thief") -> MachineProcess:
    """Another machine with a copy of the whole destination."""
    thief = machine.cluster.machine(name)
    subprocess.run(["cp", "-a", machine.destination, thief.destination], check=True)
    return thief


@pytest.mark.both_databases
@pytest.mark.parametrize("thief_first", [True, False])
def test_a_copied_destination_is_found_out_whoever_renews_first(cluster: Cluster, thief_first: bool) -> None:
    cluster.add_role()
    owner = cluster.machine("owner")
    assert owner.once(f"--join-token={cluster.add_bot()}").code == 0
    thief = copied(owner)
    first, second = (thief, owner) if thief_first else (owner, thief)
    assert first.once().code == 0
    refused = second.once()
    assert refused.code == 3, refused
    assert "generation_mismatch" in refused.err
    again = first.once()
    assert again.code == 3, again
    assert "generation_mismatch" in again.err
    assert first.ssh("whoami").code == 255
    assert second.ssh("whoami").code == 255
    (lock,) = json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"]
    assert lock["reason"] == "generation_mismatch"
    # What was seen: both are on this machine, in this boot.
    fork = lock["fork"]
    assert fork["looks_like"] == "same_boot"
    assert (fork["current"]["generation"], fork["other"]["generation"]) == (2, 1)
    assert fork["current"]["lineage_key"] != fork["other"]["lineage_key"]
    for side in (fork["current"], fork["other"]):
        assert side["address"] == "127.0.0.1"
        assert side["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert side["lineage_key"] in lock["message"]
    # A plain unlock is refused, a new token puts it right.
    instance = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"][0]["id"]
    assert cluster.mezctl("instances", "unlock", instance).code != 0
    token = token_in(cluster.ctl("bots", "rotate-token", "github-deploy"))
    rejoined = owner.once(f"--join-token={token}")
    assert rejoined.code == 0, rejoined
    assert owner.ssh("whoami").code == 0
    assert thief.once().code == 3
    assert cluster.ctl("locks", "ls").count(instance) >= 1


def test_a_copied_daemon_directory_ends_the_running_daemon_too(cluster: Cluster) -> None:
    cluster.add_role()
    owner = cluster.machine("owner")
    daemon = owner.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=2s")
    joined(owner)
    daemon.send(signal.SIGSTOP)
    thief = copied(owner)
    taken = thief.once()
    daemon.send(signal.SIGCONT)
    if taken.code == 0:
        assert daemon.wait() == 3, daemon.text()
        assert "generation_mismatch" in daemon.text()
    else:
        # The owner's own renewal was on its way when it was stopped.
        assert taken.code == 3, taken
    assert thief.once().code == 3


def test_a_copied_ssh_key_logs_in_but_renews_nothing(cluster: Cluster) -> None:
    cluster.add_role()
    owner = cluster.machine("owner")
    assert owner.once(f"--join-token={cluster.add_bot()}").code == 0
    thief = cluster.machine("thief")
    thief.destination.mkdir()
    for name in ("ssh_key", "ssh_key-cert.pub", "known_hosts"):
        (thief.destination / name).write_bytes((owner.destination / name).read_bytes())
    (thief.destination / "ssh_key").chmod(0o600)
    assert thief.ssh("whoami").code == 0
    refused = thief.once()
    assert refused.code == 2, refused
    assert owner.once().code == 0


@pytest.mark.both_databases
@pytest.mark.parametrize("victim", ["server", "daemon"])
def test_kill_minus_nine_at_any_time_and_it_goes_on(cluster: Cluster, victim: str) -> None:
    """Five kills at odd moments of a 1 s renewal; no lock, no lost identity, no token asked for."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    joined(machine)
    for _ in range(5):
        seen = wait_for(lambda: generation(machine), "generation")
        if victim == "server":
            assert cluster.server is not None
            cluster.server.kill()
            cluster.start()
        else:
            daemon.kill()
            daemon = machine.daemon("--renewal-interval=1s")
        wait_for(lambda seen=seen: generation(machine) > seen, "further renewal")
    assert machine.ssh("whoami").code == 0
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
    instances = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"]
    assert len(instances) == 1


def test_a_restart_with_the_old_token_goes_on_from_disk(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot()
    assert machine.once(f"--join-token={token}").code == 0
    assert machine.once(f"--join-token={token}").code == 0
    assert machine.once().code == 0
    (instance,) = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"]
    assert instance["generation"] == 3


def test_a_certificate_that_ended_or_is_foreign_does_not_log_in(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert (
        machine.once(
            f"--join-token={cluster.add_bot()}", "--certificate-ttl=2s", "--renewal-interval=1s"
        ).code
        == 0
    )
    wait_for(lambda: machine.ssh("whoami").code == 255, "end of the certificate")
    assert "expired" in cluster.ctl("audit", "ls")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ca"], check=True)
    key = machine.destination / "ssh_key"
    public = subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True).stdout
    (tmp_path / "k.pub").write_bytes(public)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", tmp_path / "ca", "-I", "x", "-n", "deploy", tmp_path / "k.pub"], check=True
    )
    foreign = run(
        [
            "ssh",
            "-F",
            "none",
            "-p",
            str(cluster.node_port),
            "-i",
            key,
            "-o",
            f"CertificateFile={tmp_path}/k-cert.pub",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
            "deploy@127.0.0.1",
            "whoami",
        ],
        machine.env,
    )
    assert foreign.code == 255
    assert "untrusted_ca" in cluster.ctl("audit", "ls")


def test_the_operator_and_the_daemon_speak_over_their_sockets(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=20m")
    joined(machine)
    before = wait_for(lambda: generation(machine), "status")
    control = machine.destination / ".mezite/control.sock"
    renewed = run([BIN / "mezctl", "--socket", control, "identity", "renew"], machine.env)
    assert renewed.code == 0, renewed
    assert generation(machine) == before + 1
    text = run([BIN / "mezctl", "--socket", control, "identity", "status"], machine.env)
    assert "github-deploy" in text.out
