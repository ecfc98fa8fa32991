"""What ``twistd mezite-auth`` takes, and what twistd itself has to be for it: before anything is made."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from twisted.python import usage

import mezite
from mezite import logs
from mezite.config.server import STOP_GRACE, ServerConfig
from mezite.core.audit import plain
from mezite.errors import MeziteError, UsageError
from mezite.reloading import ReloadSignal
from mezite.stopping import StopSignal

MAX_LINE = 2000
"""Characters of an error on standard error."""


class Options(usage.Options):
    """What ``twistd mezite-auth`` takes; the rest is in the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "Mezite's auth server: joins machines, renews their SSH certificates, and locks stolen ones. "
        "Without --config it reads /etc/mezite/mezite.yaml if there is one, and serves on port 3025."
    )
    optParameters = [["config", "c", None, "Configuration file (YAML); see docs/server.md."]]

    def __init__(self) -> None:
        install_asyncio_reactor()
        super().__init__()
        self.stop, self.reload = StopSignal(STOP_GRACE), ReloadSignal()

    def opt_version(self) -> None:
        """Print Mezite's version and exit."""
        sys.stdout.write(f"mezite {mezite.__version__}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        if self.parent is not None:
            self.stop.watch()  # twistd runs us
            self.reload.watch()
            fault = _misplaced(self.parent)
            if fault is not None:
                sys.stderr.write(line(UsageError(fault)))
                raise SystemExit(2)
        path = self["config"]
        try:
            config = ServerConfig.load(Path(path) if path else None, os.environ, os.geteuid())
        except MeziteError as error:
            # twistd would print its whole usage above a UsageError.
            sys.stderr.write(line(error))
            raise SystemExit(2) from None
        self["loaded"] = config
        parent = self.parent
        if parent is not None and not parent.get("logger") and not parent.get("syslog"):
            path = parent["logfile"] or ("-" if parent["nodaemon"] else "twistd.log")
            logs.configure(config.log_level, config.log_format, path)
            parent["logger"] = "mezite.logs.configured"


def _misplaced(twistd: usage.Options) -> str | None:
    """What is wrong with options of twistd's that take effect when our files have been made."""
    uid, gid = twistd.get("uid"), twistd.get("gid")
    if (uid is not None and uid != os.geteuid()) or (gid is not None and gid != os.getegid()):
        return (
            "twistd's --uid and --gid come too late: the database and its socket would be root's; start "
            "twistd as that account (runuser -u ACCOUNT -- twistd …, or User= of systemd)"
        )
    if twistd.get("chroot") not in (None, "", "/"):
        return "twistd's --chroot hides the program from itself; start it in a container, or by systemd"
    return None


def install_asyncio_reactor() -> None:
    """gRPC's asyncio server and Twisted share one loop, so this reactor or none."""
    from twisted.internet import asyncioreactor

    if "twisted.internet.reactor" not in sys.modules:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
    from twisted.internet import reactor

    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise usage.UsageError("mezite-auth needs the asyncio reactor: start twistd without --reactor")
    asyncio.set_event_loop(reactor._asyncioEventloop)
    # Twisted's timers follow the wall clock: set back by an hour, it would stop them for an hour.
    reactor.seconds = time.monotonic


def line(error: MeziteError) -> str:
    """One, and safe for a terminal: a configuration's keys stand in it."""
    return f"mezite-auth: {plain(' '.join(str(error).split()), MAX_LINE)}\n"
