"""Every command and option of mezctl, mezd and msh, as click has them; and twistd's mezite-auth."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from mezite.cli.mezctl import mezctl
from mezite.cli.mezd import main as mezd
from mezite.cli.msh import main as msh
from refdocs.markdown import NOTE, cell, code, plain, table

HEAD = """\
# Commands

Every command and option, from the programs themselves: the same words as `--help`. What is marked \\* must
be given. Options that every command of `mezctl` takes (`--format`, `--socket`) stand at the program only.

"""


PROGRAMS: dict[str, click.Command] = {"mezctl": mezctl, "mezd": mezd, "msh": msh}


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """*command* and all below it, with what is typed to reach each."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from walk(below, f"{path} {name}")


def shared(command: click.Command) -> set[str]:
    """Options that the program has, which its commands take, too."""
    return {name for param in command.params for name in param.opts if isinstance(param, click.Option)}


def page() -> str:
    made = NOTE + HEAD
    for name, program in PROGRAMS.items():
        top = shared(program)
        for path, command in walk(program, name):
            made += _command(path, command, top if path != name else set())
    return made + _server()


def _command(path: str, command: click.Command, known: set[str]) -> str:
    level = "##" if " " not in path else "###"
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    made = f"{level} {path}\n\n`{path} {usage}`\n\n{_help(command)}"
    if isinstance(command, click.Group):
        rows = []
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                anchor = f"{path} {name}".replace(" ", "-")
                rows.append((f"[`{name}`](#{anchor})", cell(below.get_short_help_str(200))))
        made += table(("command", "what"), rows)
    options = [_option(param, context) for param in command.params if isinstance(param, click.Option)
               and not param.hidden and not (set(param.opts) <= known)]
    if options:
        made += table(("option", "what"), options)
    if command.epilog:
        made += _paragraphs(command.epilog)
    return made


def _help(command: click.Command) -> str:
    return _paragraphs(command.help or command.short_help or "")


def _paragraphs(text: str) -> str:
    """Each as it is; one that click does not wrap (``\\b``) as code."""
    made = ""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n").splitlines()
            if any(line.startswith("  ") for line in lines):
                made += "```text\n" + "\n".join(lines) + "\n```\n\n"
            else:
                made += " ".join(lines) + "\n\n"
        elif paragraph.split(" ")[0] in ("mezctl", "mezd", "msh"):
            made += f"`{' '.join(paragraph.split())}`\n\n"
        else:
            made += plain(paragraph) + "\n\n"
    return made.replace("<", "&lt;") if "```" not in made else made


def _option(param: click.Option, context: click.Context) -> tuple[str, str]:
    names = ", ".join(code(name) for name in (*param.opts, *param.secondary_opts))
    takes = "" if param.is_flag or param.count else " " + code(param.make_metavar(context))
    must = " \\*" if param.required else ""
    env = f" Environment: {code(str(param.envvar))}." if param.envvar else ""
    return names + takes + must, cell(plain(param.help or "")) + env


def _server() -> str:
    from mezite.tap_options import Options

    rows = [
        (f"{code(f'--{name}')}, {code(f'-{short}')}" if short else code(f"--{name}"), cell(f"{about}"))
        for name, short, _, about, *_ in Options.optParameters
    ]
    return (
        "## twistd mezite-auth\n\n`twistd [twistd's options] mezite-auth [OPTIONS]`\n\n"
        f"{Options.longdesc}\n\n" + table(("option", "what"), rows)
    )
