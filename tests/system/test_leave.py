"""`mezd identity leave`: the last step of a job, with real processes."""

from __future__ import annotations

import shutil

from tests.system.processes import BIN, Cluster, Finished, MachineProcess, run, wait_for


def leave(machine: MachineProcess, *words: str) -> Finished:
    return run(
        [BIN / "mezd", "identity", "leave", f"--destination={machine.destination}", *words], machine.env
    )


def test_a_job_joins_logs_in_and_leaves(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    kept = machine.home / "kept"
    kept.mkdir()
    for name in ("ssh_key", "ssh_key-cert.pub", "known_hosts"):
        (kept / name).write_bytes((machine.destination / name).read_bytes())
        (kept / name).chmod(0o600)
    assert machine.ssh("whoami").code == 0
    done = leave(machine)
    assert (done.code, done.out.split()[:3]) == (0, ["left:", "bot", "github-deploy,"]), done
    left = {path.name for path in machine.destination.rglob("*")}
    assert left <= {".lock", ".mezite", "lock"}
    assert "instance.left" in cluster.ctl("audit", "ls")
    assert "github-deploy" not in cluster.ctl("instances", "ls")
    machine.destination = kept
    assert machine.ssh("whoami").code == 255, "our node knows at once"


def test_not_under_a_running_daemon_and_not_without_an_identity(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert leave(machine).code == 2
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}")
    wait_for(lambda: machine.status().get("ready"), "identity")
    done = leave(machine)
    assert (done.code, "stop it first" in done.err) == (1, True), done
    assert daemon.stop() == 0
    assert leave(machine).code == 0
    assert leave(machine).code == 2


def test_without_its_server_nothing_is_removed(cluster: Cluster) -> None:
    """It can be done again when the server is back; and where it refuses, the line says what helps."""
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    assert cluster.server is not None
    cluster.server.stop()
    assert leave(machine).code == 1
    assert (machine.destination / "ssh_key").exists()
    cluster.start()
    cluster.ctl("bots", "lock", "github-deploy")
    done = leave(machine)
    assert (done.code, done.err.count("\n")) == (3, 1), done
    assert "bot/github-deploy is locked; nothing was removed here; an operator can end it" in done.err
    remedy = done.err.rpartition(": ")[2].removesuffix(" (locked)\n")
    assert (machine.destination / "ssh_key").exists()
    cluster.ctl(*remedy.removeprefix("mezctl ").split())
    assert leave(machine).code == 0, "what the line names helps"


def test_a_thief_who_leaves_is_found_out_all_the_same(cluster: Cluster) -> None:
    """By its owner's next renewal; and what `status` names then is there to be done."""
    cluster.add_role()
    machine, thief = cluster.machine(), cluster.machine("thief")
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    shutil.copytree(machine.destination, thief.destination, symlinks=True)
    assert thief.once().code == 0
    assert leave(thief).code == 0
    assert "locked for good" not in cluster.ctl("status")
    done = machine.once()
    assert (done.code, "generation_mismatch" in done.err) == (3, True), done
    (told,) = [line for line in cluster.ctl("status").splitlines() if "mezctl instances rm" in line]
    cluster.ctl("instances", "rm", told.split()[-1])
