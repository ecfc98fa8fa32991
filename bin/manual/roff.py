"""A command's help as a page of man(7)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence

import click

_EXIT_CODES = "Exit codes:"


def page(ctx: click.Context, *, date: str, version: str, about: str, see: Sequence[str]) -> str:
    """The page of *ctx*'s command with all commands below it, but those in *see*,
    which have pages of their own.  *date* is YYYY-MM-DD."""
    name = page_name(ctx)
    paragraphs = _paragraphs(ctx.command)
    lines = [
        f'.TH {_quoted(name.upper())} 1 {_quoted(date)} {_quoted("Mezite " + version)} "Mezite"',
        ".SH NAME", f"{_text(name)} \\- {_text(about.rstrip('.'))}",
        ".SH SYNOPSIS", *_synopsis(ctx),
        ".SH DESCRIPTION", *_prose(one for one in paragraphs if not _is_exit_codes(one)),
        *_options(ctx, ".SH OPTIONS"),
        *_commands(ctx, see),
    ]
    epilog = _split(ctx.command.epilog or "")
    lines += _exit_status([one for one in [*paragraphs, *epilog] if _is_exit_codes(one)])
    rest = [one for one in epilog if not _is_exit_codes(one)]
    if rest:
        lines += [".SH EXAMPLES", *_prose(rest)]
    others = [one for one in see if one != name]
    if others:
        lines.append(".SH SEE ALSO")
        lines += [f".BR {_text(one)} (1){',' if one != others[-1] else ''}" for one in others]
    return "\n".join(lines) + "\n"


def page_name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def subcommands(ctx: click.Context) -> Iterator[click.Context]:
    """A context for each command of the group, in the order of its help."""
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            if command is not None and not command.hidden:
                yield click.Context(command, info_name=name, parent=ctx)


def _commands(ctx: click.Context, apart: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for child in subcommands(ctx):
        if page_name(child) in apart:
            told = child.command.get_short_help_str(300)
            lines += [".TP", f".BR {_text(page_name(child))} (1)", _text(told)]
        else:
            lines += _section(child)
    return [".SH COMMANDS", *lines] if lines else []


def _section(ctx: click.Context) -> list[str]:
    """A command within its group's page, and those below it."""
    lines = [f".SS {_quoted(_text(ctx.command_path))}", *_synopsis(ctx), ".PP"]
    lines += _prose(_paragraphs(ctx.command))
    lines += _options(ctx)
    for child in subcommands(ctx):
        lines += _section(child)
    return lines


def _synopsis(ctx: click.Context) -> list[str]:
    pieces = " ".join(ctx.command.collect_usage_pieces(ctx))
    return [f"\\fB{_text(ctx.command_path)}\\fR {_text(pieces)}"]


def _options(ctx: click.Context, *heading: str) -> list[str]:
    records = [record for one in ctx.command.get_params(ctx) if (record := one.get_help_record(ctx))]
    lines = list(heading) if records else []
    for option, told in records:
        if told:
            lines += [".TP", f"\\fB{_text(option)}\\fR", _text(told)]
    return lines


def _exit_status(paragraphs: Sequence[str]) -> list[str]:
    told = [one.lstrip("\b\n").removeprefix(_EXIT_CODES) for one in paragraphs]
    return [".SH EXIT STATUS", *_prose(told)] if told else []


def _is_exit_codes(paragraph: str) -> bool:
    return paragraph.lstrip("\b\n").startswith(_EXIT_CODES)


def _paragraphs(command: click.Command) -> list[str]:
    return _split(inspect.cleandoc(command.help or "").partition("\f")[0])


def _split(text: str) -> list[str]:
    return [one.strip("\n") for one in re.split(r"\n\s*\n", text) if one.strip()]


def _prose(paragraphs: Iterator[str] | Sequence[str]) -> list[str]:
    """Paragraphs; those behind click's ``\\b`` keep their lines."""
    lines: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            kept = paragraph.removeprefix("\b").strip("\n").splitlines()
            lines += [".nf", *(_text(line) for line in kept), ".fi"]
        else:
            lines.append(_text(" ".join(paragraph.split())))
    return lines


def _text(text: str) -> str:
    """*text* with nothing in it that roff would act on."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "\\(dq") + '"'
