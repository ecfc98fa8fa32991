"""Backups of a running server, and the way back from one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.system.processes import Cluster, wait_for
from tests.system.test_coming_back import events, generation
from tests.system.test_restore import joined, serials

PASSPHRASE = "correct horse battery staple"


def put_in_place(cluster: Cluster, backup: Path) -> None:
    """As docs/backup.md says."""
    for suffix in ("", "-wal", "-shm"):
        (cluster.data / f"mezite.db{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, cluster.data / "mezite.db")


@pytest.mark.config(ca_key_passphrase=PASSPHRASE)
def test_a_backup_of_a_running_server_brings_everybody_back(cluster: Cluster, tmp_path: Path) -> None:
    """Made between renewals, private, with the CAs as they are encrypted; after it has been put in place
    the machine goes on, and nobody joins before `mezctl restore`."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    joined(machine)
    backup = tmp_path / "mezite.backup"
    told = json.loads(cluster.ctl("--format", "json", "backup", backup))
    assert told["path"] == str(backup)
    assert told["bytes"] == backup.stat().st_size
    assert (told["ca_keys_encrypted"], told["counts"]["instances"], told["counts"]["bots"]) == (True, 1, 1)
    assert told["cluster_name"] == "example"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in backup.read_bytes()
    assert b"BEGIN PRIVATE KEY" not in backup.read_bytes()
    (row,) = events(cluster, "database.backed_up")
    assert (row["fields"]["path"], row["user_name"]) == (str(backup), f"uid:{os.getuid()}(root)")
    again = cluster.mezctl("backup", backup)
    assert (again.code, "exists already" in again.err) == (3, True), again
    nowhere = cluster.mezctl("backup", tmp_path / "no" / "where")
    assert (nowhere.code, len(nowhere.lines)) == (1, 1), nowhere
    assert "CA keys:    encrypted\n" in cluster.ctl("backup", tmp_path / "second")

    goal = generation(machine) + 2
    wait_for(lambda: generation(machine) >= goal, "renewals after the backup")
    before = serials(cluster)
    assert cluster.server is not None
    cluster.server.stop()
    put_in_place(cluster, backup)
    cluster.start()
    assert "put back from a copy" in cluster.ctl("status")
    cluster.ctl("restore")
    wait_for(lambda: generation(machine) > goal, "renewal after the restore", 60)
    assert daemon.code is None
    new = [one for one in serials(cluster) if one not in before]
    assert min(new) > max(before)
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []


def test_a_backup_without_a_passphrase_says_what_it_is(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.mezctl("backup", cluster.data / "backups" / "one")
    assert done.code == 0, done
    assert "NOT encrypted" in done.out
    assert "Whoever reads this file is the CA" in done.err
    assert (cluster.data / "backups").stat().st_mode & 0o777 == 0o700
