"""Where the programs begin: Ctrl-C while their modules are loaded ends them without a traceback."""

from __future__ import annotations

import importlib
import signal
from types import ModuleType


def load(module: str) -> ModuleType:
    """The module of that name.  Until it is there the signal alone ends the process: nothing
    has been done yet."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    loaded = importlib.import_module(module)
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return loaded


def mezctl() -> None:
    load("mezite.cli.mezctl").main()


def mezd() -> None:
    load("mezite.cli.mezd").main()


def msh() -> None:
    load("mezite.cli.msh").main()
