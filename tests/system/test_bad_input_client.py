"""What a machine's operator does wrong: one clear line, an exit code, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.system.processes import (
    BIN,
    Cluster,
    Finished,
    environment,
    free_port,
    run,
    token_in,
    wait_for,
)

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SLOT = struct.Struct(">8sIQI")
TOKEN = f"tok-bot-{'a' * 12}-{'b' * 32}-{'c' * 32}"


def ends(done: Finished, code: int, *parts: str) -> None:
    """With *code*, and one line of mezd's that holds *parts*; what it told before is its log."""
    told = [line for line in done.lines if not line.startswith("20")]
    assert code == done.code, done
    assert len(told) == 1, done
    assert told[0].startswith("mezd: "), done
    for part in parts:
        assert part in told[0], done
    assert "Traceback" not in done.err


def instances(cluster: Cluster) -> list[dict[str, object]]:
    found: list[dict[str, object]]
    found = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"]
    return found


def needs_root_and_nobody() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv (Debian: util-linux), to become nobody")
    tried = subprocess.run([*NOBODY, BIN / "mezctl", "--version"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"nobody cannot run the programs in {BIN}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the given size, for what happens when it is full."""
    with ExitStack() as mounted:

        def mount(size: str) -> Path:
            place = tmp_path / "small"
            place.mkdir()
            if os.geteuid() != 0:
                pytest.skip("needs root, to mount a small file system")
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],
                capture_output=True, check=False,
            )
            if done.returncode != 0:
                pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
            mounted.callback(subprocess.run, ["umount", "-l", place], check=True)
            return place

        yield mount


def fill(place: Path) -> Path:
    """A file that leaves no room."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(4096):
            file.write(bytes(4096))
    assert os.statvfs(place).f_bavail == 0
    return ballast


# --- the server cannot be reached, or is not the one --------------------------------------------


def start(home: Path, port: int, *words: str | Path) -> list[str | Path]:
    return [
        BIN / "mezd", "identity", "start", f"--auth-server=127.0.0.1:{port}",
        f"--destination={home / 'certs'}", *words,
    ]


def test_a_server_that_says_nothing_or_nonsense_is_told_apart(cluster: Cluster) -> None:
    machine = cluster.machine()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run(start(machine.home, port, "--one-shot", f"--join-token={TOKEN}"), machine.env, timeout=60)
    ends(done, 1, f"127.0.0.1:{port}: no answer within 10 s", "(unreachable)")
    done = run(start(machine.home, cluster.node_port, "--one-shot", f"--join-token={TOKEN}"), machine.env)
    ends(done, 1, "broke off the TLS 1.3 handshake; is that the auth server's port?")


def test_a_daemon_holds_on_until_the_server_is_there(cluster: Cluster) -> None:
    cluster.add_role()
    token = cluster.add_bot()
    assert cluster.server is not None
    cluster.server.stop()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
    wait_for(lambda: daemon.text().count("connection refused") >= 2, "second try")
    assert daemon.code is None
    assert machine.status()["last_error"]["code"] == "unreachable"
    cluster.start()
    wait_for(lambda: (machine.status().get("generation") or 0) > 1, "renewal")


def test_a_server_that_nothing_proves_or_something_disproves_gets_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Each with exit 2 (asked wrongly) or 3 (refused); the token stays as good as new."""
    cluster.add_role()
    token = cluster.add_bot()
    unpinned = token.rpartition("-")[0]
    junk, other, right = tmp_path / "junk.pem", tmp_path / "other.pem", tmp_path / "right.pem"
    junk.write_text("no certificate")
    right.write_text(cluster.ctl("ca", "export", "--type=server"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key.pem", "-out", other, "-subj", "/CN=other"],
        check=True, capture_output=True,
    )
    machine = cluster.machine()
    for words, code, part in (
        ((f"--join-token={unpinned}",), 2, "mistyped or cut short"),
        ((f"--join-token={unpinned}-{'0' * 32}",), 3, "the server's CA is not the pinned one"),
        ((f"--join-token={token}", f"--ca-pin={'0' * 32}"), 3, "(untrusted_server)"),
        ((f"--join-token={token}", "--ca-pin=abc"), 2, "--ca-pin: expected 32 lower-case hex digits"),
        ((f"--join-token={token}", f"--ca-file={tmp_path / 'none'}"), 2, "No such file or directory"),
        ((f"--join-token={token}", f"--ca-file={tmp_path}"), 2, "Is a directory"),
        ((f"--join-token={token}", f"--ca-file={junk}"), 2, "holds no PEM certificate"),
        ((f"--join-token={token}", f"--ca-file={other}"), 3, "(untrusted_server)"),
        ((f"--join-token={token}", "--ca-file=system"), 3, "(untrusted_server)"),
    ):
        done = machine.once(*words)
        ends(done, code, part)
        assert token.split("-")[3] not in done.err
    assert instances(cluster) == []
    assert machine.once(f"--join-token={token}", f"--ca-file={right}").code == 0


# --- tokens and intervals -----------------------------------------------------------------------


def test_every_bad_token_is_told_by_its_reason(cluster: Cluster) -> None:
    cluster.add_role()
    good = cluster.add_bot()
    kind, bot, public, secret, pin = good.split("-")
    flipped = ("0" if secret[0] != "0" else "1") + secret[1:]
    expired = token_in(cluster.ctl("tokens", "create", "--bot=github-deploy", "--ttl=1s"))
    machine = cluster.machine()
    for token, code, part in (
        (f"{kind}-{bot}-{public}-{flipped}-{pin}", 3, "(token_unknown)"),
        (f"{kind}-{bot}-{'0' * 12}-{secret}-{pin}", 3, "(token_unknown)"),
        (good[:-1], 2, "mistyped or cut short"),
        (good.upper(), 2, "mistyped or cut short"),
        ("", 2, "the join token is empty"),
    ):
        done = machine.once(f"--join-token={token}")
        ends(done, code, part)
        assert secret not in done.err
    wait_for(lambda: "token_expired" in machine.once(f"--join-token={expired}").err, "end of the token")
    ends(machine.once(f"--join-token={expired}"), 3, "mezctl bots rotate-token github-deploy")
    assert machine.once(f"--join-token={good}").code == 0
    other = cluster.machine("other")
    (made,) = instances(cluster)
    ends(other.once(f"--join-token={good}"), 3, "(token_used)", f"mezctl instances lock {made['id']}")
    second = token_in(cluster.ctl("bots", "rotate-token", "github-deploy"))
    third = token_in(cluster.ctl("bots", "rotate-token", "github-deploy"))
    ends(other.once(f"--join-token={second}"), 3, "(token_rotated)")
    assert other.once(f"--join-token={third}").code == 0


def test_an_interval_that_is_too_long_costs_no_token(cluster: Cluster) -> None:
    """Known here by the flags, or by the server's roles: exit 2, and the same token then works."""
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot()
    flags = machine.once(f"--join-token={token}", "--renewal-interval=30m", "--certificate-ttl=30m")
    ends(flags, 2, "--renewal-interval: the renewal interval 30m is not shorter")
    assert not machine.destination.exists()
    for interval in ("1h", "2h"):
        roles = machine.once(f"--join-token={token}", f"--renewal-interval={interval}")
        ends(roles, 2, f"the renewal interval {interval} is not shorter", "(interval_too_long)")
    daemon = machine.daemon(f"--join-token={token}", "--renewal-interval=2h")
    assert daemon.wait() == 2
    assert "(interval_too_long)" in daemon.text()
    assert machine.once(f"--join-token={token}", "--renewal-interval=59m").code == 0


# --- the destination ----------------------------------------------------------------------------


def test_a_destination_that_is_none_is_left_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    file = tmp_path / "file"
    file.write_text("mine")
    places = [(file, 2, "is not a directory"), (file / "below", 2, "lies below a file")]
    for name, code in (("ssh_key", 2), ("ssh_key-cert.pub", 2), ("known_hosts", 2), ("ssh_config", 2),
                       ("current", 2), ("sets", 2), (".mezite", 1)):
        place = tmp_path / f"foreign-{name}"
        place.mkdir()
        (place / name).write_text("mine")
        places.append((place, code, f"{place}/{name}"))
    for place, code, part in places:
        machine.destination = place
        ends(machine.once(f"--join-token={token}"), code, part)
        if place.is_dir():
            (left,) = [path for path in place.iterdir() if path.name != ".mezite" or path.is_file()]
            assert left.read_text() == "mine"
    assert file.read_text() == "mine"
    assert instances(cluster) == []
    machine.destination = tmp_path / "good"
    assert machine.once(f"--join-token={token}").code == 0


def test_a_destination_that_this_account_may_not_write(cluster: Cluster, tmp_path: Path) -> None:
    needs_root_and_nobody()
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o755)
    for parent in locked.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    for place in (locked, locked / "new"):
        machine.destination = place
        ends(run([*NOBODY, *machine.argv("--one-shot", f"--join-token={token}")], machine.env), 2, str(place))
    assert list(locked.iterdir()) == []
    assert instances(cluster) == []


def test_a_second_daemon_on_one_destination_is_refused(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    wait_for(lambda: (machine.destination / "ssh_key").exists(), "certificate")
    ends(machine.once(), 1, "already in use by another process", str(daemon.pid))
    second = run(machine.argv(), machine.env)
    ends(second, 1, "already in use by another process")
    before = machine.status()["generation"]
    wait_for(lambda: (machine.status().get("generation") or 0) > before, "further renewal")


# --- a full disk --------------------------------------------------------------------------------


def test_no_room_for_the_state_costs_nothing(cluster: Cluster, small: Callable[[str], Path]) -> None:
    cluster.add_role()
    token = cluster.add_bot()
    place = small("300k")
    machine = cluster.machine()
    machine.destination = place / "certs"
    ends(machine.once(f"--join-token={token}"), 1, "cannot make", "No space left on device; make room")
    assert list(place.rglob("*.new")) == []
    subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
    assert machine.once(f"--join-token={token}").code == 0


def test_a_file_system_that_is_read_only_is_worth_another_try(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    """As after an error of the disk, until somebody has repaired it: the unit does not restart after 2."""
    place = small("4m")
    for made in (False, True):
        if made:
            (place / "certs").mkdir(mode=0o700)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        done = run(start(place, 1, f"--join-token={TOKEN}"), environment(tmp_path))
        ends(done, 1, f"{place}/certs: Read-only file system", "(state)")
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)


def test_a_full_disk_stops_publishing_and_nothing_else(
    cluster: Cluster, small: Callable[[str], Path]
) -> None:
    """No token is used that could not be published; a daemon goes on renewing in its
    preallocated state, keeps what is published, and publishes once there is room."""
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    place = small("2m")
    machine.destination = place / "certs"
    unheard = run(start(place, free_port(), "--one-shot", f"--join-token={token}"), machine.env)
    assert unheard.code == 1, unheard
    ballast = fill(place)
    ends(machine.once(f"--join-token={token}"), 1, "No space left on device; make room there")
    assert instances(cluster) == []
    ballast.unlink()
    daemon = machine.daemon(f"--join-token={token}", "--renewal-interval=1s")
    wait_for(lambda: (machine.destination / "ssh_key").exists(), "certificate")
    ballast = fill(place)
    published = wait_for(
        lambda: machine.status().get("published") is False and (machine.destination / "ssh_key").read_bytes(),
        "failure to publish",
    )
    before = machine.status()["generation"]
    wait_for(lambda: (machine.status().get("generation") or 0) > before + 1, "renewals on the full disk")
    assert (machine.destination / "ssh_key").read_bytes() == published
    assert machine.ssh("whoami").code == 0
    daemon.kill()
    daemon = machine.daemon("--renewal-interval=1s")
    wait_for(lambda: "No space left" in daemon.text().rpartition("going on with")[2], "trouble")
    ballast.unlink()
    wait_for(lambda: machine.status().get("published"), "publishing")
    assert (machine.destination / "ssh_key").read_bytes() != published
    assert machine.ssh("whoami").code == 0
    daemon.stop()
    ballast = fill(place)
    ends(machine.once(), 1, "No space left on device; make room there")
    ballast.unlink()
    assert machine.once().code == 0
    assert machine.ssh("whoami").code == 0
    assert len(instances(cluster)) == 1
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []


# --- the state on disk --------------------------------------------------------------------------


def sequence(slot: Path) -> int:
    found: int = SLOT.unpack_from(slot.read_bytes())[2]
    return found


def tear(slot: Path) -> None:
    data = slot.read_bytes()
    slot.write_bytes(data[:200] + bytes(64) + data[264:])


def test_a_state_that_is_no_state_is_refused_and_kept(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    slots = [machine.destination / ".mezite" / name for name in ("state.0", "state.1")]
    good = [slot.read_bytes() for slot in slots]
    newer = SLOT.pack(b"MEZSTATE", 99, 7, 3)
    for bad, part in (
        (good[0][:100], "restore"), (b"", "restore"), (os.urandom(4096), "restore"),
        (b"#!/bin/sh\n", "restore"),
        (newer + good[0][len(newer):], "was written by a newer mezd (format 99)"),
    ):
        for slot in slots:
            slot.write_bytes(bad)
        ends(machine.once(), 1, str(slots[0]), part)
        assert [slot.read_bytes() for slot in slots] == [bad, bad]
    slots[1].write_bytes(good[1])
    slots[0].write_bytes(newer + good[0][len(newer):])
    ends(machine.once(), 1, "newer mezd")
    for slot, data in zip(slots, good, strict=True):
        slot.write_bytes(data)
    assert machine.once().code == 0
    assert instances(cluster)[0]["generation"] == 2


def test_one_torn_slot_loses_nothing(cluster: Cluster) -> None:
    """Whichever it is: a crash tears the one being written, and a bad disk any."""
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot()
    assert machine.once(f"--join-token={token}").code == 0
    slots = [machine.destination / ".mezite" / name for name in ("state.0", "state.1")]
    # The newest one is of the join, the older one from before it: only the token helps.
    tear(max(slots, key=sequence))
    ends(machine.once(), 1, "is damaged", "--join-token")
    again = machine.once(f"--join-token={token}")
    assert again.code == 0, again
    assert machine.once().code == 0
    for choose in (min, max):
        torn = choose(slots, key=sequence)
        tear(torn)
        done = machine.once()
        assert done.code == 0, done
        assert f"passed over a damaged copy of the state ({torn}" in done.err
    slots[0].unlink()
    assert machine.once().code == 0
    (only,) = instances(cluster)
    assert only["state"] == "active"


# --- the server's clock -------------------------------------------------------------------------


def test_a_server_whose_clock_is_off_judges_nobody(cluster: Cluster) -> None:
    cluster.add_role()
    machine, new = cluster.machine(), cluster.machine("new")
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    token = token_in(cluster.ctl("tokens", "create", "--bot=github-deploy"))
    assert cluster.server is not None
    cluster.server.stop()
    with sqlite3.connect(cluster.data / "mezite.db") as database:
        (seen,) = database.execute("select value from cluster_values where key = 'clock_seen_us'").fetchone()
        ahead = b"%d" % (int(seen) + 40 * 86400 * 10**6)
        database.execute("update cluster_values set value = ? where key = 'clock_seen_us'", (ahead,))
    database.close()
    cluster.start()
    told = ("clock is 39d", "mezctl status --accept-clock", "(server_clock)")
    ends(machine.once(), 1, *told)
    ends(new.once(f"--join-token={token}"), 1, *told)
    daemon = machine.daemon("--renewal-interval=1s")
    wait_for(lambda: "server_clock" in daemon.text(), "refusal")
    assert "mezctl status --accept-clock" in cluster.ctl("status")
    cluster.ctl("status", "--accept-clock")
    wait_for(lambda: (machine.status().get("generation") or 0) > 1, "renewal")
    assert new.once(f"--join-token={token}").code == 0
    assert len(instances(cluster)) == 2


# --- what is typed wrongly ----------------------------------------------------------------------


def test_flags_and_configuration_files_with_unknown_keys(tmp_path: Path) -> None:
    file = tmp_path / "mezd.yaml"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in pairwise("abcdefghijkl")
    )
    for content, part in (
        (b"auth-servr: x\n", "auth-servr: unknown key; did you mean auth-server?"),
        (b"renewal-interval: soon\n", "'soon' is not a duration"),
        (b"one-shot: maybe\n", "one-shot: expected true or false"),
        (b"a: \xff\n", "not UTF-8 at byte 3"),
        (b"[" * 5000, "nested deeper than 20 levels"),
        (b"#" * 2_000_000, "larger than 1 MiB"),
        (bomb.encode(), "more than 100000 values, aliases written out"),
        ((bomb + "? *l\n: 1\n").encode(), "a list or mapping is no key"),
    ):
        file.write_bytes(content)
        done = run([BIN / "mezd", "identity", "start", "--config", file], env)
        ends(done, 2, f"mezd: {file}: ", part)
    for words in (("--nope",), ("extra",), ("--join-token",)):
        ends(run([BIN / "mezd", "identity", "start", *words], env), 2)
    ends(run([BIN / "mezd", "idntity"], env), 2, "no such command")
    assert list(tmp_path.iterdir()) == [file]


def test_a_daemon_that_waits_for_its_server_stops_when_told(cluster: Cluster) -> None:
    machine = cluster.machine()
    daemon = cluster.spawn(
        start(machine.home, free_port(), f"--join-token={TOKEN}"), machine.env, machine.home / "mezd.log"
    )
    wait_for(lambda: "connection refused" in daemon.text(), "first try")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.text()
