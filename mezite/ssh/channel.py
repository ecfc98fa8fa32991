"""What every channel shares: bounded memory in both directions (RFC 4254 §5.2).

Output that cannot leave is kept in a queue, and its maker is told to stop; the
peer gets new window only for input that somebody has taken.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.conch.ssh.channel import SSHChannel

WINDOW = 256 * 1024


class FlowChannel(SSHChannel):
    """A channel with a bounded queue.  ``received`` and ``sent`` count bytes of data."""

    avatar: Any
    conn: Any
    id: Any
    sender = 0
    """The peer's number of it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(localWindow=WINDOW, **arguments)
        self.received = self.sent = 0
        self._untaken = 0
        self._out: deque[tuple[int, bytes]] = deque()
        self._paused = False

    # --- for subclasses ----------------------------------------------------------------------

    def wants_input(self) -> bool:
        """Whether the peer may be granted new window now."""
        raise NotImplementedError

    def pause_output(self, paused: bool) -> None:
        """Stop making output, or go on."""
        raise NotImplementedError

    def drained(self) -> bool:
        """No output waits.  Whether this was the end of the channel."""
        raise NotImplementedError

    def handle_request(self, kind: bytes, reader: Any) -> bool:
        """Whether the channel request *kind* is granted."""
        return False

    def answered(self) -> None:
        """The answer to a granted request is on its way."""

    # --- input -------------------------------------------------------------------------------

    def taken(self, count: int) -> None:
        """*count* bytes of input have been taken; the peer may send as many
        again, once more is wanted."""
        self._untaken += count
        if self._untaken >= WINDOW // 4 and not self.localClosed and self.wants_input():
            count, self._untaken = self._untaken, 0
            self.conn.adjustWindow(self, count)

    # --- output ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._send(0, data)

    def writeExtended(self, dataType: int, data: bytes) -> None:
        self._send(dataType, data)

    def _send(self, kind: int, data: bytes) -> None:
        if data and not self.localClosed:
            self.sent += len(data)
            self._out.append((kind, data))
            self.flow_changed()

    @property
    def blocked(self) -> bool:
        """Whether output waits for the peer."""
        return bool(self._out) or self.conn.transport.output_blocked

    def addWindowBytes(self, data: int) -> None:
        self.remoteWindowLeft += data
        self.flow_changed()

    def flow_changed(self) -> None:
        """Sends what may be sent; then pauses or resumes what makes it."""
        while self._out and self.remoteWindowLeft and not self.conn.transport.output_blocked:
            kind, data = self._out.popleft()
            size = min(len(data), self.remoteWindowLeft, self.remoteMaxPacket)
            if size < len(data):
                self._out.appendleft((kind, data[size:]))
            self.remoteWindowLeft -= size
            if kind:
                self.conn.sendExtendedData(self, kind, data[:size])
            else:
                self.conn.sendData(self, data[:size])
        if not self._out and self.drained():
            return
        if self.blocked != self._paused:
            self._paused = not self._paused
            self.pause_output(self._paused)
        self.taken(0)
