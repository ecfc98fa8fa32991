"""The daemon's outputs, from its settings: directories, agents, hooks."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezite.config.daemon import DaemonConfig
from mezite.config.outputs import OutputConfig
from mezite.errors import Conflict, StateFailure, UsageError
from mezite.identity.destination import Directory
from mezite.identity.outputs import (
    AGENT,
    AGENT_SOCKET,
    CERTIFICATE,
    FILES,
    KNOWN_HOSTS,
    SSH_CONFIG,
    SSH_KEY,
    Form,
)
from mezite.identity.places import Outlets, Place
from mezite.identity.records import Held, Wanted
from mezite.lockfile import LockFile

if TYPE_CHECKING:
    from mezite.identity.hooks import Hooks

LOCK = ".lock"


class OutputParts:
    """All outputs of *config*: their directories are prepared, and with :meth:`hold` ours alone.

    Raises :class:`UsageError` for what no daemon could write.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self.configs = config.all_outputs()
        self.directories = {one.name: Directory(one.destination, form_of(one)) for one in self.configs}
        self._locks: list[LockFile] = []
        for directory in self.directories.values():
            directory.prepare()
        self.agents: list[Any] = []

    def hold(self) -> None:
        """No other daemon writes to any of them, be it its first destination or a further one.

        Raises :class:`StateFailure` where one does already.
        """
        for directory in self.directories.values():
            try:
                self._locks.append(LockFile(directory.path / LOCK, f"the destination {directory.path}"))
            except Conflict as error:
                raise StateFailure(str(error)) from None
            except OSError as error:
                raise StateFailure(f"cannot lock {directory.path / LOCK}: {error.strerror}") from None

    def wanted(self) -> tuple[Wanted, ...]:
        return tuple(Wanted(one.name, one.extras.roles, one.ttl) for one in self.configs)

    def outlets(self, reactor: Any, now: Callable[[], timedelta]) -> Outlets:
        """Agents first, then files: an ssh_config names an agent that listens."""
        places: dict[str, Sequence[Place]] = {}
        for one in self.configs:
            directory = self.directories[one.name]
            agents: list[Any] = []
            if AGENT in one.kinds:
                from mezite.agent.listening import AgentSocket
                from mezite.identity.agent import AgentPlace

                form = directory.form
                socket = AgentSocket(
                    reactor, one.destination / AGENT_SOCKET, now=now, owner_id=form.owner_id,
                    # An owner's own group may enter the directory, no more.
                    group_id=form.group_id if one.extras.group is not None else None,
                )
                agents = [AgentPlace(socket)]
            self.agents += agents
            places[one.name] = (*agents, directory)
        return Outlets(places)

    def hooks(self, loop: asyncio.AbstractEventLoop, state: Path, *, as_events: bool = False) -> Hooks | None:
        if not any(one.extras.on_renew for one in self.configs):
            return None
        from mezite.identity.hooks import Hook, Hooks

        base = _inherited(os.environ)
        return Hooks(
            loop,
            [
                Hook(one.name, one.extras.on_renew, one.extras.on_renew_timeout, {**base, **told(one)})
                for one in self.configs
                if one.extras.on_renew
            ],
            state,
            as_events=as_events,
        )

    def described(self) -> list[dict[str, Any]]:
        return [
            {"name": one.name, "destination": str(one.destination), "outputs": list(one.kinds)}
            for one in self.configs
        ]

    def release(self) -> None:
        for lock in self._locks:
            lock.release()


def form_of(output: OutputConfig) -> Form:
    """Raises :class:`UsageError` for an account or group that this machine does not know."""
    extras = output.extras
    owner_id = group_id = None
    if extras.owner is not None:
        try:
            owner = extras.owner
            account = pwd.getpwuid(int(owner)) if _is_number(owner) else pwd.getpwnam(owner)
        except (KeyError, OverflowError):
            raise UsageError(f"owner: there is no account {extras.owner} on this machine") from None
        owner_id, group_id = account.pw_uid, account.pw_gid
    if extras.group is not None:
        try:
            name = extras.group
            group = grp.getgrgid(int(name)) if _is_number(name) else grp.getgrnam(name)
        except (KeyError, OverflowError):
            raise UsageError(f"group: there is no group {extras.group} on this machine") from None
        group_id = group.gr_gid
    return Form(
        with_key=FILES in output.kinds,
        agent_socket=str(output.destination / AGENT_SOCKET) if AGENT in output.kinds else None,
        owner_id=owner_id,
        group_id=group_id,
        key_mode=extras.mode or (0o640 if extras.group is not None else 0o600),
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What hooks keep of the daemon's own environment: no token, and nothing of its supervisor's."""
    ours = ("MEZITE_", "NOTIFY_SOCKET", "WATCHDOG_", "CREDENTIALS_DIRECTORY", "GRPC_")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


def told(output: OutputConfig) -> dict[str, str]:
    """What a hook is told of its output, by paths that outlive a renewal."""
    home = output.destination
    values = {
        "MEZITE_OUTPUT": output.name,
        "MEZITE_IDENTITY": str(home),
        "MEZITE_CERTIFICATE": str(home / CERTIFICATE),
        "MEZITE_KNOWN_HOSTS": str(home / KNOWN_HOSTS),
        "MEZITE_SSH_CONFIG": str(home / SSH_CONFIG),
    }
    if FILES in output.kinds:
        values["MEZITE_SSH_KEY"] = str(home / SSH_KEY)
    if AGENT in output.kinds:
        values["SSH_AUTH_SOCK"] = str(home / AGENT_SOCKET)
    return values


def told_of(held: Held) -> dict[str, str]:
    """What a hook is told of the renewal."""
    return {
        "MEZITE_BOT": held.bot,
        "MEZITE_INSTANCE": held.instance_id,
        "MEZITE_GENERATION": str(held.generation),
    }
