"""Every setting of the server, read off the code that reads them, and of the daemon."""

from __future__ import annotations

import copy
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click

from mezite.cli.mezd import main as mezd
from mezite.config import daemon, outputs
from mezite.config.reading import Section
from mezite.config.server import _ENVIRONMENT, ServerConfig
from mezite.core.duration import format_duration
from refdocs.markdown import NOTE, cell, code, plain, table
from refdocs.words import DAEMON, FURTHER, SERVER

HOST = "the-name-of-the-host"
EVERYTHING: dict[str, Any] = {
    "ssh": {"enabled": True, "authorization": "principals"},
    "database": {"driver": "postgres", "sslmode": "verify-full"},
}
"""A configuration that makes the code look at every key."""


@dataclass
class Seen:
    kind: str
    default: str
    allowed: str = ""


class Recording(Section):
    """A section that notes what is asked of it."""

    log: dict[str, Seen] = {}

    def _note(self, key: str, kind: str, default: object, allowed: str = "") -> None:
        shown = _shown(default)
        name = self._name(key)
        before = self.log.get(name)
        # `choice` and `address` look at the text themselves: the first to ask says what it is.
        if before is None or (not before.default and shown):
            self.log[name] = Seen(before.kind if before else kind, shown, allowed)

    def section(self, key: str) -> Section:
        below = Section.from_value(self.values.get(key), self.source, self._name(key))
        self.log.setdefault(self._name(key), Seen("mapping", ""))
        return Recording(below.values, below.source, below.path, self.log)

    def known(self, keys: Sequence[str], also: Sequence[str] = ()) -> None:
        for key in keys:
            # In the order that the code knows them, asked for or not.
            self.log.setdefault(self._name(key), Seen("", ""))
        super().known(keys, also)

    def _first(self, key: str, kind: str, default: object, allowed: str = "") -> None:
        seen = self.log.get(self._name(key))
        if seen is not None and not seen.kind:
            seen.kind, seen.default, seen.allowed = kind, _shown(default), allowed
        else:
            self._note(key, kind, default, allowed)

    def text(self, key: str, default: str | None = None) -> str | None:
        self._first(key, "text", default)
        return super().text(key, default)

    def boolean(self, key: str, default: bool) -> bool:
        self._first(key, "true or false", default)
        return super().boolean(key, default)

    def number(self, key: str, least: int, most: int, default: int) -> int:
        self._first(key, "number", default, f"{least} to {most}")
        return super().number(key, least, most, default)

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        self._first(key, "list of texts", default)
        return super().texts(key, default)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        self._first(key, "one of", default, ", ".join(choices))
        return super().choice(key, choices, default)

    def duration(self, key: str, default: timedelta | None = None) -> timedelta | None:
        self._first(key, "duration", default)
        return super().duration(key, default)

    def address(self, key: str, default: str | None = None) -> str | None:
        self._first(key, "host:port", default)
        return super().address(key, default)


def _shown(default: object) -> str:
    if default is None or default == () or default == "":
        return ""
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, timedelta):
        return format_duration(default)
    if isinstance(default, list | tuple):
        return ", ".join(map(str, default))
    return str(default)


def server_settings() -> dict[str, Seen]:
    """Every key, in the order of the code: what it takes and what it is without."""
    socket.gethostname = lambda: HOST  # the default of several settings, on each machine another
    top = Recording(copy.deepcopy(EVERYTHING), "configuration")
    ServerConfig.from_section(top, {}, 0)
    outer = {name.rpartition(".")[0] for name in top.log}
    return {name: seen for name, seen in top.log.items() if name not in outer}


def _server() -> str:
    variables = {".".join(keys): name for name, keys in _ENVIRONMENT.items()}
    rows = []
    for name, seen in server_settings().items():
        words, default = SERVER.get(name, ("–", ""))
        shown = default or (code(seen.default) if seen.default and HOST not in seen.default else "")
        shown = shown or ("the host's name" if HOST in seen.default else "")
        takes = seen.allowed if seen.kind == "one of" else " ".join((seen.kind, seen.allowed)).strip()
        variable = f" Environment: {code(variables[name])}." if name in variables else ""
        rows.append((code(name), cell(takes), shown, cell(words) + variable))
    return table(("setting", "takes", "default", "what"), rows)


def _daemon() -> str:
    start: Any = mezd
    for name in ("identity", "start"):
        start = start.get_command(click.Context(start), name)
    helps = {opt.removeprefix("--"): param.help or "" for param in start.params for opt in param.opts}
    rows = []
    for key in (*daemon.KEYS, *daemon.FILE_KEYS):
        in_file_only = key in daemon.FILE_KEYS
        words = DAEMON.get(key) or helps.get(key, "–")
        variable = "MEZITE_" + key.upper().replace("-", "_")
        where = "in the file only" if in_file_only else f"{code(f'--{key}')}, {code(variable)}"
        rows.append((code(key), where, cell(plain(words))))
    further = {**helps, **DAEMON, **FURTHER}
    inner = [(code(key), cell(plain(further.get(key, "–")))) for key in outputs.OUTPUT_KEYS]
    return (
        table(("key in the file", "flag, environment", "what"), rows)
        + "### Of each one of destinations\n\n" + table(("key", "what"), inner)
    )


def page() -> str:
    return NOTE + (
        "# Configuration\n\n## The auth server\n\nIn `/etc/mezite/mezite.yaml`, or the file that "
        "`twistd mezite-auth --config` names. The environment is above the file, the file above the "
        "defaults. An unknown key is an error that names the nearest known one. What it is good for, at "
        "more length: [the auth server](../server.md).\n\n"
        + _server()
        + "Durations are written as `30s`, `15m`, `1h`, `7d`.\n\n## The daemon\n\n`mezd identity start` "
        "takes flags, over the environment, over the file that `--config` names. What it is good for, at "
        "more length: [machines](../machines.md).\n\n"
        + _daemon()
        + "## Other variables\n\n"
        + table(("variable", "what"), [(code(name), cell(words)) for name, words in _OTHERS])
    )


_OTHERS = (
    ("MEZITE_ADMIN_SOCKET", "where `mezctl` asks; several by commas; without `--socket`"),
    ("MEZITE_IDENTITY", "the identity's directory or certificate for `msh`; without `--cert`"),
)
