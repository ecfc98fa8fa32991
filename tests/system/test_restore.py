"""The server's database is put back from a backup: what goes on by itself, and what the operator is told."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.processes import Cluster, MachineProcess, free_port, wait_for
from tests.system.test_coming_back import events, generation, is_let_in
from tests.system.test_readiness import ask

DIAG = f"127.0.0.1:{free_port()}"


def back_up(cluster: Cluster, to: Path) -> None:
    """As docs/storage.md says, while the server runs."""
    with closing(sqlite3.connect(cluster.data / "mezite.db")) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def put_back(cluster: Cluster, backup: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (cluster.data / f"mezite.db{suffix}").unlink(missing_ok=True)
    (cluster.data / "mezite.db").write_bytes(backup.read_bytes())


def serials(cluster: Cluster) -> list[int]:
    issued = events(cluster, "user.cert.issued") + events(cluster, "user.cert.reissued")
    return [int(event["fields"]["serial"]) for event in issued]


def joined(machine: MachineProcess) -> None:
    wait_for(lambda: generation(machine) >= 1, "join")


@pytest.mark.config(diag={"listen_addr": DIAG})
def test_a_restored_database_locks_nobody_issues_no_serial_twice_and_revives_no_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Found out at the start, though nobody said so: machines renew, nobody joins, and those that it
    does not know hold on, until the operator runs `mezctl restore`."""
    cluster.add_role()
    early, late, stranger = (cluster.machine(name) for name in ("early", "late", "stranger"))
    early_daemon = early.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    joined(early)
    reused = cluster.add_bot("late-bot")
    backup = tmp_path / "backup.db"
    back_up(cluster, backup)
    late_daemon = late.daemon(f"--join-token={reused}", "--renewal-interval=1s")
    joined(late)
    late_id = late.status()["instance"]
    reached = generation(early) + 2
    wait_for(lambda: generation(early) >= reached, "renewals after the backup")
    before = serials(cluster)
    assert cluster.server is not None
    cluster.server.kill()
    put_back(cluster, backup)
    cluster.start()

    assert "it has come less far than the mark beside it" in cluster.server.text()
    wait_for(lambda: events(cluster, "generation_adopted"), "adoption", 60)
    status = cluster.ctl("status")
    assert "the database was put back from a copy" in status
    assert "no machine joins until an operator runs mezctl restore" in status
    code, told = ask(DIAG)
    assert (code, "put back from a copy" in told) == (503, True)
    refused = stranger.once(f"--join-token={reused}")
    assert (refused.code, "database_restored" in refused.err) == (1, True), refused
    unmade = cluster.mezctl("bots", "rotate-token", "late-bot")
    assert (unmade.code, "mezctl restore" in unmade.err) == (3, True), unmade
    wait_for(lambda: "database_restored" in late_daemon.text(), "refusal of the machine that is not known")
    assert late_daemon.code is None

    told_restore = json.loads(cluster.ctl("--format", "json", "restore"))
    assert (told_restore["voided_tokens"], told_restore["bots"]) == (1, ["late-bot"])
    assert [one["instance"] for one in told_restore["unknown_instances"]] == [late_id]
    assert told_restore["adopted_instances"] == 1
    assert told_restore["since"] <= told_restore["until"]
    wait_for(lambda: late_daemon.code is not None, "end of the machine that is not known", 60)
    assert late_daemon.code == 3
    assert "instance_unknown" in late_daemon.text()
    text = cluster.ctl("restore")
    assert "Join tokens voided: 0\n" in text
    assert late_id in text
    assert len(events(cluster, "database.restored")) == 2
    refused = stranger.once(f"--join-token={reused}")
    assert (refused.code, "token_rotated" in refused.err) == (3, True)
    assert "no machine joins" not in cluster.ctl("status")
    assert ask(DIAG)[0] == 200

    goes_on = generation(early) + 2
    wait_for(lambda: generation(early) >= goes_on, "renewals after the restore", 60)
    assert is_let_in(early)
    assert early_daemon.code is None
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []
    new = [one for one in serials(cluster) if one not in before]
    assert min(new) > max(before)
    assert len(new) == len(set(new))
    late.daemon(f"--join-token={cluster.ctl('bots', 'rotate-token', 'late-bot').split()[2]}")
    wait_for(lambda: is_let_in(late), "login after the new join", 60)

    # The same backup once more, over a history that has been declared.
    cluster.server.stop()
    put_back(cluster, backup)
    cluster.start()
    assert "no machine joins" in cluster.ctl("status")
    cluster.ctl("restore")
    # A restart of a database that nobody touched says nothing.
    cluster.server.kill()
    cluster.start()
    assert "no machine joins" not in cluster.ctl("status")


def test_a_whole_directory_put_back_is_found_by_its_first_machine(cluster: Cluster, tmp_path: Path) -> None:
    """Mark and database together agree; the first machine that is ahead of both tells."""
    cluster.add_role()
    machine = cluster.machine()
    machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    joined(machine)
    unused = cluster.add_bot("late-bot")
    assert cluster.server is not None
    cluster.server.stop()
    copy = tmp_path / "copy"
    shutil.copytree(cluster.data, copy, ignore=shutil.ignore_patterns("*.sock"))
    cluster.start()
    goal = generation(machine) + 2
    wait_for(lambda: generation(machine) >= goal, "renewals after the copy", 60)
    before = serials(cluster)
    cluster.server.kill()
    shutil.rmtree(cluster.data)
    shutil.copytree(copy, cluster.data)
    cluster.start()
    wait_for(lambda: "a machine is ahead of it" in cluster.ctl("status"), "adoption", 60)
    refused = cluster.machine("stranger").once(f"--join-token={unused}")
    assert (refused.code, "database_restored" in refused.err) == (1, True), refused
    cluster.ctl("restore")
    assert "no machine joins" not in cluster.ctl("status")
    new = [one for one in serials(cluster) if one not in before]
    assert new
    assert min(new) > max(before)


def test_a_database_on_a_new_host_without_its_mark_is_taken_for_a_copy(cluster: Cluster) -> None:
    assert cluster.server is not None
    cluster.server.stop()
    (cluster.data / "mezite.mark").unlink()
    cluster.start()
    assert "the mark that was kept beside it is gone" in cluster.ctl("status")
    cluster.ctl("restore")
    assert "no machine joins" not in cluster.ctl("status")
    cluster.server.stop()
    cluster.start()
    assert "no machine joins" not in cluster.ctl("status")


@pytest.mark.config(auth={"workers": 2})
def test_what_worker_processes_committed_counts_too(cluster: Cluster, tmp_path: Path) -> None:
    """The head has committed nothing since the backup; the worker that renewed has."""
    cluster.add_role()
    machine = cluster.machine()
    machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    joined(machine)
    backup = tmp_path / "backup.db"
    back_up(cluster, backup)
    goal = generation(machine) + 1
    wait_for(lambda: generation(machine) >= goal, "renewal after the backup")
    assert cluster.server is not None
    # Killed, its workers would outlive it for a moment, and write on into the file that is put back.
    assert cluster.server.stop() == 0
    put_back(cluster, backup)
    cluster.start()
    assert "it has come less far than the mark beside it" in cluster.server.text()
    cluster.ctl("restore")
    wait_for(lambda: generation(machine) > goal, "renewal after the restore", 60)
