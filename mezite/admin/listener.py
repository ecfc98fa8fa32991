"""A reactor accepts what comes to a listening socket."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@implementer(IReadDescriptor)
class Listener:
    """Makes a protocol of *connections* for each client.  Twisted's own UNIX port would open the file's mode
    to 0666 for a moment, and unlink whatever stands at the path when it ends; and its TCP port spins, a line
    in the log each time, where the process has no file left and another thread takes the one it keeps."""

    _log = Logger()

    def __init__(self, reactor: Any, listener: socket.socket, connections: Factory) -> None:
        self._connections = connections
        self._reactor = reactor
        self._socket = listener
        self._pause: Any = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "listener"

    def doRead(self) -> None:
        for _ in range(16):
            try:
                peer, _address = self._socket.accept()
                with peer:
                    peer.setblocking(False)
                    peer.getpeername()  # of who has gone again: an error
                    self._reactor.adoptStreamConnection(
                        peer.fileno(), self._socket.family, self._connections
                    )
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    # Readiness stays on: without a pause this would spin.
                    self._reactor.removeReader(self)
                    self._pause = self._reactor.callLater(1, self.start)
                    return
            except Exception:
                # What leaves doRead would make the reactor drop the listener.
                self._log.failure("a connection could not be taken", event="admin.accept_failed")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends with us still listening."""
        self.stop()

    def start(self) -> None:
        self._pause = None
        self._reactor.addReader(self)

    def stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._reactor.removeReader(self)
