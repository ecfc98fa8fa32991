"""The server killed around its commits, and its database put back to an older one."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.system.faults.rig import Site, swept
from tests.system.faults.shim import Kind, Mode
from tests.system.processes import wait_for

SOCKETS = shutil.ignore_patterns("*.sock")
LOG = "mezite.db-wal"


def arm(site: Site, number: int, mode: Mode, kinds: Kind) -> None:
    """The server dies at a write or a sync of its database's log, *number* of them from now."""
    site.faults.watch(site.data / LOG, kinds)
    site.faults.arm(number, mode)


def restart(site: Site) -> str:
    """The call that the server died at; it is running again."""
    assert site.server is not None
    assert site.server.wait() == -signal.SIGKILL, site.server.text()
    assert site.faults.fired
    site.faults.disarm()
    site.hang_up()
    site.start()
    return site.faults.last.split()[0]


POINTS = [
    (1, Mode.KILL_BEFORE, Kind.SYNC),  # written, not on the disk, not answered
    (1, Mode.KILL_AFTER, Kind.SYNC),  # committed, not answered
    (1, Mode.KILL_HALF, Kind.WRITE),  # a torn log
    (4, Mode.KILL_HALF, Kind.WRITE),
    (2, Mode.KILL_BEFORE, Kind.WRITE),
    (8, Mode.KILL_AFTER, Kind.WRITE),
]


def test_a_server_that_dies_in_a_renewal_loses_no_machine(own_site: Site) -> None:
    """Before and after the commit of a renewal, and with half of it in the log: the
    restarted server answers the same request, and nobody is locked."""
    machine = own_site.machine("renewing")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 1, f"join; {machine.log()}")
    for point in swept(POINTS, every=2) + POINTS[1:2]:
        arm(own_site, *point)
        restart(own_site)
        goal = machine.generation + 1
        wait_for(lambda goal=goal: machine.published_generation() >= goal, f"renewal; {machine.log()}")
        machine.check_alone()
    machine.check_outputs()
    assert machine.stop() == 0
    serials = [event["fields"]["serial"] for event in events(own_site, "user.cert.issued")]
    assert len(serials) == len(set(serials))


def test_a_server_that_dies_in_a_join_uses_no_token_twice(own_site: Site) -> None:
    """The one-shot run that was under way succeeds by itself when the server is back in time."""
    for number, point in enumerate(swept(POINTS, every=2) + POINTS[1:2]):
        machine = own_site.machine(f"joining{number}")
        machine.token = own_site.token(machine.name)
        arm(own_site, *point)
        run = machine.start("--one-shot")
        restart(own_site)
        assert run.wait() == 0, machine.log()
        machine.check_outputs()
        machine.check_alone()


def events(site: Site, kind: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    after = None
    for _ in range(100):
        params = {} if after is None else {"after": after}
        page = site.call("audit.ls", type=kind, limit=500, **params)
        found += page["events"]
        after = page["next"]
        if after is None:
            break
    return found


def stop(site: Site) -> None:
    assert site.server is not None
    assert site.server.stop() == 0, site.server.text()
    site.hang_up()


def copy_database(site: Site, to: Path) -> None:
    """A backup of the stopped server's database, or its restoration."""
    to.mkdir()
    for path in site.data.glob("mezite.db*"):
        shutil.copy2(path, to / path.name)


def restore_database(site: Site, backup: Path) -> None:
    for path in site.data.glob("mezite.db*"):
        path.unlink()
    for path in backup.iterdir():
        shutil.copy2(path, site.data / path.name)


def test_a_restored_database_locks_nobody(own_site: Site) -> None:
    """The files copied back by hand, three generations old: the machine is adopted and goes on, and
    one that joined after the backup is told to join anew."""
    machine = own_site.machine("known")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
    stop(own_site)
    backup = own_site.root / "backup"
    copy_database(own_site, backup)
    own_site.start()
    goal = machine.generation + 3
    wait_for(lambda: machine.generation >= goal, f"renewals; {machine.log()}")
    late = own_site.machine("late")
    assert late.once("--renewal-interval=30m") == 0
    stop(own_site)
    restore_database(own_site, backup)
    own_site.start()
    goal = machine.generation + 2
    wait_for(lambda: machine.published_generation() >= goal, f"renewals; {machine.log()}")
    machine.check_alone()
    assert machine.stop() == 0
    (adopted,) = events(own_site, "generation_adopted")
    assert adopted["resource_name"] == machine.instance
    # One that the backup does not know: it is to wait for the operator's word; then nothing is
    # locked, and the answer says what to do.
    assert late.start("--one-shot", "--renewal-interval=30m").wait() == 1
    assert "(database_restored)" in late.log()
    own_site.call("restore")
    assert late.start("--one-shot", "--renewal-interval=30m").wait() == 3
    assert "instance_unknown" in late.log()
    assert "join again with a new token" in late.log()
    late.token = own_site.token(late.name)
    assert late.once("--renewal-interval=30m") == 0, late.log()
    assert late.generation == 1
    assert own_site.locks() == []


def test_a_destination_restored_from_an_older_copy_is_locked_and_joins_anew(own_site: Site) -> None:
    """It cannot be told from a thief's copy: refused and locked, in one line that says what to
    do; the one that follows, with a new token, puts it right in the same place."""
    machine = own_site.machine("restored")
    machine.start("--renewal-interval=1s")
    wait_for(lambda: machine.generation >= 2, f"renewal; {machine.log()}")
    machine.stop()
    copy = own_site.root / "copy"
    shutil.copytree(machine.destination, copy, symlinks=True, ignore=SOCKETS)
    machine.start("--renewal-interval=1s")
    goal = machine.generation + 2
    wait_for(lambda: machine.published_generation() >= goal, f"renewals; {machine.log()}")
    machine.stop()
    old = machine.instance
    shutil.rmtree(machine.destination)
    shutil.copytree(copy, machine.destination, symlinks=True, ignore=SOCKETS)
    assert machine.start("--renewal-interval=1s").wait() == 3, machine.log()
    assert "generation_mismatch" in machine.log()
    assert "join again with a new token" in machine.log()
    (lock,) = own_site.locks()
    assert (lock["target"], lock["reason"]) == (old, "generation_mismatch")
    machine.token = own_site.token(machine.name)
    assert machine.once() == 0, machine.log()
    assert machine.instance != old
    machine.check_outputs()
    assert machine.has_valid_certificate()
    assert [one["target"] for one in own_site.locks()] == [old]


def test_a_copy_of_before_an_answered_renewal_goes_on(own_site: Site) -> None:
    """The copy has the keys that the last renewal asked for: its request is the one whose
    reply was lost, and the same generation goes on."""
    machine = own_site.machine("fresh")
    assert machine.once("--renewal-interval=1s") == 0, machine.log()
    # Killed when the answer is about to be kept: the state on the disk is that of before it.
    machine.faults.watch(machine.destination / ".mezite" / "state")
    machine.faults.arm(3, Mode.KILL_BEFORE)  # 1, 2: the pending keys; 3: the answer
    assert machine.start("--renewal-interval=1s").wait() == -signal.SIGKILL
    asked = machine.generation
    assert machine.durable().pending is not None
    copy = own_site.root / "copy"
    shutil.copytree(machine.destination, copy, symlinks=True, ignore=SOCKETS)
    assert machine.once("--renewal-interval=1s") == 0, machine.log()
    assert machine.generation == asked + 1
    shutil.rmtree(machine.destination)
    shutil.copytree(copy, machine.destination, symlinks=True, ignore=SOCKETS)
    assert machine.once("--renewal-interval=1s") == 0, machine.log()
    assert machine.generation == asked + 1
    machine.check_alone()
