"""`--help` in which nothing that a reader may copy is broken, and no command's line is cut off."""

from __future__ import annotations

import re
from collections.abc import Iterable

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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, with the first sentence of each whole: it goes on in a line below."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_LONGEST)) for name, one in found if one and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


Group.group_class = Group
