"""SIGTERM and Ctrl-C, from the first moment on: a server that is told to stop while it starts
ends in order, too."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Any

from twisted.logger import Logger

_log = Logger()


class ToldToStop(Exception):
    """Nobody wants this server any more: its start is given up."""


class StopSignal:
    """Stops the reactor on SIGTERM; *grace* is what calls in flight get, for the log.

    Being told to stop is no failure, but by itself the signal would end the process,
    and while the server starts do so in the middle of what it makes.  So it is
    noted from :meth:`watch` on, a start asks between its steps whether to go on
    (:meth:`check`), and once the reactor runs it is stopped.
    """

    def __init__(self, grace: timedelta) -> None:
        self._grace = grace
        self._reactor: Any = None
        self._number = signal.SIGTERM
        self.came = False
        """Before the reactor ran."""

    def watch(self) -> None:
        signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # Not where it is ignored, as in the background of a script.
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.came, self._number = True, signal.Signals(number)

    def check(self) -> None:
        """Raises :class:`ToldToStop` when it has come."""
        if self.came:
            raise ToldToStop

    def hand_over(self, reactor: Any) -> None:
        """*reactor* is about to run, and is what stops from then on."""
        self._reactor = reactor
        reactor.callWhenRunning(self._take)

    def _take(self) -> None:
        """Twisted's own handler is replaced: after it, twistd exits by the signal, as is right for
        Ctrl-C alone."""
        reactor = self._reactor
        signal.signal(signal.SIGTERM, self._terminated)
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, reactor.sigInt)
        if reactor._exitSignal == signal.SIGTERM:
            # It came since the reactor began to run, which Twisted stops by now.
            reactor._exitSignal = None
            self._tell_early()
        elif self.came:
            self._tell_early()
            if self._number == signal.SIGINT:
                reactor._exitSignal = self._number
            reactor.stop()

    def _tell_early(self) -> None:
        _log.info("told to stop ({name}) while starting", event="server.stopping", name=self._number.name)

    def _terminated(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self.stop)

    def stop(self) -> None:
        """For whoever else wants it stopped, too; once is enough."""
        if self._reactor.running and not self._reactor._stopped:
            _log.info("told to stop (SIGTERM): calls in flight get {seconds:g} s", event="server.stopping",
                      seconds=self._grace.total_seconds())
            self._reactor.stop()
