"""An SSH server by asyncssh that takes certificates of one CA: what our node is compared with.

``python -m benchmarks.asyncssh_node PORT DIRECTORY``.  Host key and host
certificate are loaded once; a session is answered with exit code 0.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh


def succeed(process: asyncssh.SSHServerProcess[str]) -> None:
    process.exit(0)


async def serve(port: int, directory: Path) -> None:
    key = asyncssh.read_private_key(str(directory / "host_key"))
    certificate = asyncssh.read_certificate(str(directory / "host_key-cert.pub"))
    trusted = asyncssh.import_authorized_keys(f"cert-authority {(directory / 'user_ca.pub').read_text()}")
    await asyncssh.listen(
        "127.0.0.1", port, server_host_keys=[(key, certificate)], authorized_client_keys=trusted,
        process_factory=succeed, login_timeout=60,
    )
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
