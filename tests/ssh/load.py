"""What a node stands: ``python -m tests.ssh.load [ATTEMPTS]`` prints a table; test_load.py is the short form.

Everything stays on loopback, and every number is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mezite.certs import keys
from tests.ssh.client import FAILURE, REQUEST
from tests.ssh.matrix.packing import FOREIGN, SUBJECT, Case, certificate, texts
from tests.ssh.matrix.servers import Connection
from tests.ssh.test_openssh import Node, resident


class Load:
    """Clients, good and bad, of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def memory_mb(self) -> float:
        return resident(self.node) / 1024

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / 100

    # --- good clients ------------------------------------------------------------------------

    async def log_in(self) -> float:
        """Seconds that a login with a command takes; the host is checked, the answer too."""
        import asyncssh

        path = self.node.identity("load")
        key = asyncssh.read_private_key(str(path))
        certified = asyncssh.read_certificate(f"{path}-cert.pub")
        start = time.monotonic()
        async with asyncssh.connect(
            "127.0.0.1", self.node.port, username="deploy", client_keys=[(key, certified)], agent_path=None,
            known_hosts=str(self.node.directory / "known_hosts"), config=None, kex_algs=["curve25519-sha256"],
            login_timeout=60,
        ) as connection:
            done = await connection.run("whoami", check=True)
        assert done.stdout == "deploy\n"
        return time.monotonic() - start

    async def _logins(self, count: int) -> list[float]:
        return list(await asyncio.gather(*(self.log_in() for _ in range(count))))

    def logins(self, count: int = 1) -> list[float]:
        """*count* logins at the same time; how long each took."""
        return asyncio.run(self._logins(count))

    # --- bad ones ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def half_open(self, count: int) -> Iterator[list[Any]]:
        """Connections that say who they are, and no more."""
        import socket

        held = []
        try:
            for number in range(count):
                one = socket.create_connection(("127.0.0.1", self.node.port), 60)
                held.append(one)
                if number % 2:
                    with contextlib.suppress(OSError):
                        one.sendall(b"SSH-2.0-idle\r\n")
            yield held
        finally:
            for one in held:
                one.close()

    async def _trickle(self, seconds: float, pause: float) -> bool:
        """A client that sends a valid beginning byte by byte; whether the node ended it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.node.port)
        end = time.monotonic() + seconds
        try:
            for byte in b"SSH-2.0-slow\r\n" + b"\0\0\1\4\6\x14" + bytes(200):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(pause)
                if time.monotonic() > end or reader.at_eof():
                    break
        except ConnectionError:
            pass
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(reader.read(), 60)
        ended = reader.at_eof() or writer.is_closing()
        writer.close()
        return ended

    async def _trickles(self, count: int, seconds: float, pause: float) -> tuple[list[float], float, int]:
        slow = [asyncio.ensure_future(self._trickle(seconds, pause)) for _ in range(count)]
        await asyncio.sleep(seconds / 4)
        times = [await self.log_in() for _ in range(5)]
        memory = self.memory_mb()
        return times, memory, sum(await asyncio.gather(*slow))

    def slow_clients(self, count: int, seconds: float, pause: float = 0.2) -> tuple[list[float], float, int]:
        """Times of good logins, and memory, while *count* clients send byte by byte; how many
        of these the node ended, soon or later."""
        return asyncio.run(self._trickles(count, seconds, pause))

    def refused(self, attempts: int, threads: int = 4) -> int:
        """Refused logins, five on each connection: a foreign CA, expired, a wrong signature, a plain key."""
        foreign = certificate(ca=FOREIGN)
        ours = certificate(ca=self.node.ca)
        bad = [
            Case("foreign", False, foreign), Case("expired", False, certificate(ca=self.node.ca, before=1)),
            Case("plain", False, keys.public_blob(SUBJECT)),
            Case("signature", False, ours, sign=lambda data: keys.sign(SUBJECT, data + b"x")),
            Case("principal", False, certificate(ca=self.node.ca, principals=texts(b"nobody"))),
        ]

        def some(count: int) -> int:
            done = 0
            while done < count:
                connection = Connection(self.node.port)
                for case in bad:
                    assert connection.ask(REQUEST, case.request(connection.session)) == FAILURE
                    done += 1
                connection.close()
            return done

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(some, [attempts // threads] * threads))


def main() -> None:
    attempts = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory), login_timeout_seconds=20)
        try:
            _measure(Load(node), attempts)
        finally:
            node.close()


def _measure(load: Load, attempts: int) -> None:
    def say(what: str, figures: str) -> None:
        sys.stdout.write(f"| {what} | {figures} | {load.memory_mb():.0f} MB |\n")
        sys.stdout.flush()

    load.logins(20)
    alone = sorted(load.logins()[0] for _ in range(20))
    say("idle, one login at a time", f"median {alone[10] * 1e3:.0f} ms")
    for _ in range(2):
        cpu, start = load.cpu_seconds(), time.monotonic()
        times = load.logins(200)
        used = (load.cpu_seconds() - cpu) / 200 * 1e3
        say("200 logins at once", f"{len(times)} in {time.monotonic() - start:.1f} s, {used:.1f} ms CPU each")
    with load.half_open(1000):
        times = sorted(load.logins()[0] for _ in range(20))
        figures = f"good logins: median {times[10] * 1e3:.0f} ms, most {times[-1] * 1e3:.0f} ms"
        say("1,000 half-open connections", figures)
    times, memory, ended = load.slow_clients(400, 18)
    figures = f"good logins: most {max(times) * 1e3:.0f} ms; {memory:.0f} MB meanwhile; {ended} ended"
    say("400 clients that send byte by byte", figures)
    for part in range(4):
        cpu, start = load.cpu_seconds(), time.monotonic()
        done = load.refused(attempts // 4)
        seconds, used = time.monotonic() - start, load.cpu_seconds() - cpu
        figures = f"{done / seconds:.0f}/s, {used / done * 1e3:.2f} ms CPU each"
        say(f"{done} refused logins, part {part + 1}", figures)
    times = sorted(load.logins()[0] for _ in range(20))
    say("afterwards, one login at a time", f"median {times[10] * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
