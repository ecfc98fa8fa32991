"""What a storage has acknowledged survives the death of its process.

The children run this very file: they write until they are killed, and print
what was acknowledged to them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mezite.storage.interface import Transaction
from mezite.storage.sqlite import SqliteStorage

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]


def child(path: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, str(path), mode],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def write_until_killed(path: Path, mode: str) -> None:
    """Eight threads write pairs of values and take serials; each acknowledged
    pair and each serial of it goes to standard output in one write."""
    storage = SqliteStorage(path)

    def run(thread: int) -> None:
        for number in range(1_000_000):
            name = f"{os.getpid()}-{thread}-{number}"

            def use_case(tx: Transaction, name: str = name, number: int = number) -> int:
                tx.set_value(f"a-{name}", name.encode())
                serial = tx.next_serial()
                if number % 5 == 4:
                    raise KeyError(name)
                tx.set_value(f"b-{name}", name.encode())
                return serial

            try:
                serial = storage.write(use_case).result()
            except KeyError:
                continue
            os.write(1, f"{name} {serial}\n".encode())
            if mode == "exit" and number == 100:
                os._exit(9)

    for thread in range(8):
        threading.Thread(target=run, args=(thread,)).start()


def acknowledged(output: bytes) -> list[tuple[str, int]]:
    whole = output[: output.rfind(b"\n") + 1].decode().splitlines()
    return [(name, int(serial)) for name, serial in (line.split() for line in whole)]


def check(path: Path, told: list[tuple[str, int]]) -> None:
    """Every acknowledged pair is there, and no half of any pair."""
    storage = SqliteStorage(path)

    def look(tx: Transaction) -> None:
        for name, _ in told:
            assert tx.value(f"a-{name}") == tx.value(f"b-{name}") == name.encode()
        rows = tx._statements.select("select key from cluster_values")  # type: ignore[attr-defined]
        halves = [{key[2:] for (key,) in rows if key.startswith(start)} for start in ("a-", "b-")]
        assert halves[0] == halves[1]
        assert len(halves[0]) >= len(told)

    storage.read(look).result()
    storage.close()


@pytest.mark.parametrize("mode", ["kill", "exit"])
def test_what_was_acknowledged_survives(tmp_path: Path, mode: str) -> None:
    """Killed in the middle of its commits, three times over: nothing acknowledged
    is lost, nothing is half done, and no serial number is given out twice."""
    path = tmp_path / "mezite.db"
    told: list[tuple[str, int]] = []
    for _ in range(3):
        process = child(path, mode)
        assert process.stdout is not None
        output = b""
        while output.count(b"\n") < 200:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            output += chunk
        if mode == "kill":
            process.send_signal(signal.SIGKILL)
        output += process.stdout.read()
        process.stdout.close()
        assert process.wait(30) in (-signal.SIGKILL, 9)
        fresh = acknowledged(output)
        assert len(fresh) >= 200
        assert not told or min(serial for _, serial in fresh) > max(serial for _, serial in told)
        told += fresh
        check(path, told)
    serials = [serial for _, serial in told]
    assert len(set(serials)) == len(serials)


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    """Both write at once, one is killed; the other goes on, and serials never meet."""
    path = tmp_path / "mezite.db"
    SqliteStorage(path).close()
    first, second = child(path, "kill"), child(path, "kill")
    outputs = []
    for process, lines in ((first, 300), (second, 600)):
        assert process.stdout is not None
        output = b""
        while output.count(b"\n") < lines:
            output += os.read(process.stdout.fileno(), 65536)
        process.kill()
        outputs.append(output + process.stdout.read())
        process.stdout.close()
        process.wait(30)
    told = [pair for output in outputs for pair in acknowledged(output)]
    assert len({serial for _, serial in told}) == len(told)
    check(path, told)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_stops_nothing_for_good(tmp_path: Path) -> None:
    """Writes fail in one line while the disk is full, reads go on, and writes
    too as soon as something is deleted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        storage = SqliteStorage(mount / "mezite.db")
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(300_000))
        written = 0
        error: BaseException | None = None
        while written < 200:
            error = storage.write(lambda tx, n=written: tx.set_value(str(n), bytes(9000))).exception()
            if error is not None:
                break
            written += 1
        assert "the disk is full" in str(error)
        found = storage.read(lambda tx: [tx.value(str(n)) for n in range(written + 1)]).result()
        assert found == [bytes(9000)] * written + [None]
        ballast.unlink()
        storage.write(lambda tx: tx.set_value("after", bytes(9000))).result()
        storage.close()
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), sys.argv[2])
