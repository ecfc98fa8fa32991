"""SIGHUP, from the first moment on: a server told to reload while it starts does so once it serves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

_log = Logger()


class ReloadSignal:
    """Calls back in the reactor on SIGHUP.

    By itself the signal would end the process, which a service manager takes for
    a clean end.  So it is noted from :meth:`watch` on, and what came before the
    reactor ran is made good, once, as soon as it does.
    """

    def __init__(self) -> None:
        self._came = False

    def watch(self) -> None:
        signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._came = True

    def hand_over(self, reactor: Any, reload: Callable[[], object]) -> None:
        """*reactor* is about to run, and calls *reload* from then on."""

        def told() -> None:
            _log.info("told to reload (SIGHUP)", event="server.reloading")
            reload()

        def take() -> None:
            signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(told))
            if self._came:
                told()

        reactor.callWhenRunning(take)
