"""What ``exec: system`` runs: commands by the account's own shell, as sshd does.

``SHELL -c COMMAND`` for a command, a login shell for none; a subsystem is the
command that implements it.  File copies need the role's ``file_copy``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from mezite.ssh.accounts import Account, NoAccount, account_for
from mezite.ssh.checker import TOO_MANY
from mezite.ssh.command import Command, Invocation
from mezite.ssh.copying import INTERNAL, SFTP_SERVERS, copy_program
from mezite.ssh.session import Asked, NodeSession, Program, Refusal
from mezite.ssh.transport import unmapped

if TYPE_CHECKING:
    from mezite.core.shares import Shares
    from mezite.ssh.avatar import NodeUser

PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FILES_OF_COMMAND = 3
"""That the server has open for one that runs: its pipes, or its terminal."""
_LOGIN_OPTION = frozenset({"sh", "bash", "rbash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "csh", "tcsh"})
"""Shells that take ``-l`` for "login shell"."""


class SystemPrograms:
    """Programs for ``exec: system``; knows those that run, so that a stop can wait for them."""

    has_terminals = True

    def __init__(
        self,
        reactor: Any,
        run_as: str | None,
        hangup_grace_seconds: float,
        sftp_server: str | None = None,
        find: Callable[[str, str | None], Account] = account_for,
        files: Shares | None = None,
    ) -> None:
        """*sftp_server* is the program of the subsystem; ``None``: OpenSSH's, where it is
        installed.  Of *files* each command takes some; ``None``: there is no end of them."""
        self.reactor = reactor
        self.hangup_grace_seconds = hangup_grace_seconds
        self._run_as = run_as
        self._sftp_server = sftp_server
        self._find = find
        self._files = files
        self._running: set[Command] = set()
        self._waiting: list[Deferred[None]] = []

    def account_problem(self, login: str) -> str | None:
        """Why *login* cannot run anything here, or ``None``."""
        try:
            self._find(login, self._run_as)
        except NoAccount as error:
            return str(error)
        return None

    def make(self, session: NodeSession, user: NodeUser, asked: Asked) -> Program | Refusal:
        try:
            account = self._find(user.login, self._run_as)
        except NoAccount as error:
            return Refusal("account", str(error))
        if self._files is not None and not self._files.has_room(user.admitted.owner, FILES_OF_COMMAND):
            return Refusal("too_many", TOO_MANY)
        command, copy = asked.command, None
        if asked.is_subsystem and command != b"sftp":
            return Refusal("no_subsystem", "this node knows the subsystem sftp only")
        if asked.is_subsystem or (command or b"").split(b" ", 1)[0] == INTERNAL.encode():
            server = self._find_sftp_server()
            if server is None:
                return Refusal("no_sftp_server", "this node has no sftp server")
            options = b"" if asked.is_subsystem else (command or b"")[len(INTERNAL) :]
            command, copy = os.fsencode(shlex.quote(server)) + options, "sftp"
        elif command is not None:
            copy = copy_program(command)
        if copy is not None and not user.admitted.file_copy:
            return Refusal("file_copy", f"no role of this identity allows file copies here ({copy})")
        shell = account.shell
        name = os.path.basename(shell)  # noqa: PTH119  # a text, not a path of ours
        if command is not None:
            arguments = [os.fsencode(name), b"-c", command]
        elif asked.terminal is None:
            # A minus before its name makes it a login shell.
            arguments = [os.fsencode(f"-{name}")]
        else:
            # The name cannot be chosen on the way to a terminal (see process.py).
            arguments = [os.fsencode(name), *([b"-l"] if name in _LOGIN_OPTION else [])]
        environment = self._environment(session, user, account, asked)
        return Command(session, self, Invocation(account, shell, arguments, environment, asked.terminal))

    def _find_sftp_server(self) -> str | None:
        places = SFTP_SERVERS if self._sftp_server is None else (self._sftp_server,)
        return next((place for place in places if os.access(place, os.X_OK)), None)

    def _environment(
        self, session: NodeSession, user: NodeUser, account: Account, asked: Asked
    ) -> dict[bytes, bytes]:
        """A small environment, nothing of the server's own; the client's variables come
        first, so that none of them replaces one of ours."""
        peer, host = session.getPeer().address, session.getHost().address
        texts = {
            "PATH": ROOT_PATH if account.uid == 0 else PATH,
            "HOME": account.home,
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": account.shell,
            "SSH_CLIENT": f"{_part(peer, 'host')} {_part(peer, 'port')} {_part(host, 'port')}",
            "SSH_CONNECTION": " ".join(
                (_part(peer, "host"), _part(peer, "port"), _part(host, "host"), _part(host, "port"))
            ),
            "MEZITE_LOGIN": user.login,
            "MEZITE_BOT": user.admitted.identity.bot,
            "MEZITE_INSTANCE": user.admitted.identity.instance,
        }
        environment = dict(asked.variables)
        environment |= {name.encode(): os.fsencode(value) for name, value in texts.items() if value}
        if asked.original:
            environment[b"SSH_ORIGINAL_COMMAND"] = asked.original
        return environment

    def started(self, command: Command) -> None:
        self._running.add(command)
        if self._files is not None:
            self._files.take(command.owner, FILES_OF_COMMAND)

    def ended(self, command: Command) -> None:
        if self._files is not None and command in self._running:
            self._files.give_back(command.owner, FILES_OF_COMMAND)
        self._running.discard(command)
        if not self._running:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)

    def all_ended(self) -> Deferred[None]:
        """Fires when no command runs any more."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done


def _part(address: Any, name: str) -> str:
    return unmapped(str(getattr(address, name, "") or "0"))
