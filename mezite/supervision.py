"""What a program tells the service manager that started it (sd_notify(3), sd_watchdog_enabled(3)).

A few lines of our own: the protocol is one datagram of ``KEY=value`` lines, and
the libraries for it either want C headers or have been left by their authors.
Without a service manager nothing is told.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"
_PATIENCE_S = 1.0


class ServiceManager:
    """Where the service manager listens, and how often it wants a sign of life."""

    def __init__(self, address: str = "", watchdog: timedelta | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog
        """The sign must come more often than this; ``None``: none is wanted."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> ServiceManager:
        """What ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say to the
        process *pid*.  Kinds of sockets that we do not know count as none."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        wanted, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        is_ours = not whose or whose == str(pid)
        has_watchdog = is_ours and wanted.isascii() and wanted.isdigit() and 0 < int(wanted) < 2**62
        return cls(address, timedelta(microseconds=int(wanted)) if has_watchdog else None)

    def tell(self, *lines: str) -> None:
        """The service manager has *lines*, if it is there; never fails, and waits a
        second at most for one that is too busy to take them."""
        if not self._address:
            return
        datagram = "\n".join(line.replace("\n", " ") for line in lines).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_PATIENCE_S)
                sender.sendto(datagram, self._address)
        except (OSError, ValueError):
            pass


def status(text: str) -> str:
    """The line that `systemctl status` shows."""
    return f"STATUS={text}"
