"""What the commands of `mezctl` share: the connection, the format, the error line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from mezite import __version__
from mezite.admin import client
from mezite.cli import helping, output
from mezite.cli.program import FORMATS
from mezite.errors import MeziteError

PROGRAM = "mezctl"
_SERVER_REMEDY = (
    "start the server with: twistd mezite-auth, or name its socket with --socket PATH or MEZITE_ADMIN_SOCKET"
)
_OF_ANOTHER_SHAPE = (LookupError, TypeError, AttributeError, ValueError)
_DAEMON_REMEDY = "start the daemon with: mezd identity start, or name its socket with --socket PATH"


class Asking:
    """One run of `mezctl`: where it asks, and how it shows the answer."""

    def __init__(self, socket: str | None, format: str, *, daemon_remedy: str = _DAEMON_REMEDY) -> None:
        self.daemon_remedy = daemon_remedy
        self.socket = socket or os.environ.get("MEZITE_ADMIN_SOCKET") or None
        self.format = format
        self.timeout: float = client.TIMEOUT_SECONDS
        self._explicit = socket
        self._server: client.Client | None = None
        self._answering: client.Client | None = None

    @property
    def is_text(self) -> bool:
        """For a person, not for a program."""
        return self.format == "text"

    def server(self) -> client.Client:
        """The auth server's socket: the one named, or the first default one where it listens."""
        if self._server is None:
            sockets = self.socket.split(",") if self.socket else _default_sockets()
            self._server = client.connect(sockets, remedy=_SERVER_REMEDY, timeout=self.timeout)
        self._answering = self._server
        return self._server

    def daemon(self) -> client.Client:
        """A daemon's socket: the one named by --socket, or that of this account's own daemon."""
        if self._explicit:
            self._answering = client.connect([self._explicit], remedy=self.daemon_remedy)
            return self._answering
        from mezite.config import paths

        homes = [str(paths.identity_dir(os.environ, os.geteuid()))]
        try:
            last = paths.last_identity(os.environ).read_text().strip()
        except (OSError, ValueError):
            last = ""
        sockets = [f"{home}/.mezite/control.sock" for home in dict.fromkeys([last, *homes]) if home]
        self._answering = client.connect(sockets, remedy=self.daemon_remedy)
        return self._answering

    def not_understood(self, error: Exception) -> MeziteError | None:
        """What to say where *error* came of an answer; ``None`` where nobody was asked."""
        if self._answering is None:
            return None
        self._answering.close()
        return client.ServerError(
            "protocol",
            f"{self._answering.path}: an answer that {PROGRAM} {__version__} does not understand "
            f"({type(error).__name__}: {error}); use the {PROGRAM} of the server's version",
        )

    def call(self, method: str, **params: Any) -> Any:
        return self.server().call(method, params)

    def show(self, answer: Any, text: Callable[[Any], None]) -> None:
        """*answer* as it is, or what *text* makes of it."""
        if self.is_text:
            text(answer)
        else:
            output.write(answer, self.format)

    def show_list(
        self,
        method: str,
        noun: str,
        columns: Mapping[str, output.Cell],
        *,
        none: str,
        limit: int | None = None,
        after: str | None = None,
        **params: Any,
    ) -> None:
        """A whole list, or with *limit* or *after* one page of it; *none* is said of an empty one."""
        if limit is None and after is None:
            answer: Any = {noun: list(self.server().pages(method, noun, params)), "next": None}
        else:
            answer = self.call(method, **params, limit=limit, after=after)
        if not self.is_text:
            output.write(answer, self.format)
            return
        if answer[noun]:
            output.table(columns, answer[noun])
        elif after is not None:
            output.hint(f"no more {noun} after {after}")
        else:
            output.hint(none)
        if answer["next"] is not None:
            output.hint(f"more: --after {answer['next']}")


def _default_sockets() -> list[str]:
    from mezite.config import paths  # brings pathlib with it

    return [str(path) for path in paths.admin_sockets(os.environ, os.geteuid())]


pass_asking = click.pass_obj


def listed(values: tuple[str, ...]) -> list[str]:
    """What an option names that is given several times or with commas, or both."""
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def paged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --limit and --after."""
    command = click.option(
        "--after", metavar="TOKEN", help="Go on where the page ended whose `next` was TOKEN."
    )(command)
    return click.option(
        "--limit", type=click.IntRange(1, 1000), metavar="N", help="One page of at most N; default: all."
    )(command)


def _set_format(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    asking = ctx.find_root().obj
    if value is not None and asking is not None:  # None: a shell completes the line
        asking.format = value


def _set_socket(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        root = ctx.find_root()
        root.obj = Asking(value, root.obj.format if root.obj is not None else "text")
        ctx.obj = root.obj


class Command(helping.Command):
    """A command that takes the program's own options after its name, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--format"], type=click.Choice(FORMATS), expose_value=False, callback=_set_format,
                is_eager=True, help="As the program's --format.",
            ),
            click.Option(
                ["--socket"], metavar="PATH", expose_value=False, callback=_set_socket,
                is_eager=True, hidden=True,
            ),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """A server of another version may answer otherwise than we were told it does."""
        try:
            return super().invoke(ctx)
        except _OF_ANOTHER_SHAPE as error:
            asking = ctx.find_root().obj
            told = asking.not_understood(error) if isinstance(asking, Asking) else None
            if told is None:
                raise
            raise told from error


class Group(helping.Group):
    command_class = Command
