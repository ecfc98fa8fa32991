"""`--help` in which nothing that a reader may copy is broken, and no command's line is cut off."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from mezite.cli.terminal import HELD

_FIRM = "\u2011"
"""A hyphen at which no line is broken."""
_QUOTED = re.compile(r"`[^`]{1,40}`")
_LONGEST = 200


class Formatter(click.HelpFormatter):
    """Breaks lines neither at hyphens (`--join-` and `token-file` are no options) nor within backquotes."""

    def write_text(self, text: str) -> None:
        super().write_text(_firm(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(term, _firm(told)) for term, told in rows], col_max, col_spacing)

    def write(self, string: str) -> None:
        super().write(string.replace(_FIRM, "-").replace(HELD, " "))


def _firm(text: str) -> str:
    return _QUOTED.sub(lambda found: HELD.join(found[0].split()), text.replace("-", _FIRM))


class Context(click.Context):
    formatter_class = Formatter


class Command(click.Command):
    context_class = Context


class Group(click.Group):
    context_class = Context
    command_class: type[click.Command] | None = Command

    def told(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Its commands, and the first sentence of each."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [(name, one.get_short_help_str(_LONGEST)) for name, one in found if one and not one.hidden]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, with the first sentences whole: they go on in a line below."""
        with formatter.section("Commands"):
            formatter.write_dl(self.told(ctx))


Group.group_class = Group


class LazyGroup(Group):
    """Whose commands in *lazy* are imported when they are asked for: name to module, and first
    sentence."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self.lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(self.lazy[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def told(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Without importing them."""
        found = [(name, one.get_short_help_str(_LONGEST)) for name, one in sorted(self.commands.items())]
        return found + [(name, told) for name, (_, told) in self.lazy.items()]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The commands and the options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=told) for name, told in self.told(ctx) if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)
