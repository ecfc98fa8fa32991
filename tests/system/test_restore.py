"""The server's database is put back from a backup: what goes on by itself, and what the operator is told."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.system.processes import Cluster, MachineProcess, wait_for
from tests.system.test_coming_back import events, generation, is_let_in


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


def test_a_restored_database_locks_nobody_issues_no_serial_twice_and_revives_no_token(
    cluster: Cluster, tmp_path: Path
) -> None:
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
    cluster.server.stop()
    put_back(cluster, backup)
    cluster.start()

    wait_for(lambda: events(cluster, "generation_adopted"), "adoption", 60)
    assert "it was put back from a copy" in cluster.ctl("status")
    wait_for(lambda: late_daemon.code is not None, "end of the machine that is not known")
    assert late_daemon.code == 3
    assert "instance_unknown" in late_daemon.text()

    told = json.loads(cluster.ctl("--format", "json", "restore"))
    assert (told["voided_tokens"], told["bots"]) == (1, ["late-bot"])
    assert [one["instance"] for one in told["unknown_instances"]] == [late_id]
    assert told["adopted_instances"] == 1
    assert told["since"] <= told["until"]
    text = cluster.ctl("restore")
    assert "Join tokens voided: 0\n" in text
    assert late_id in text
    assert len(events(cluster, "database.restored")) == 2
    refused = stranger.once(f"--join-token={reused}")
    assert (refused.code, "token_rotated" in refused.err) == (3, True)
    assert "put back from a copy" not in cluster.ctl("status")

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
