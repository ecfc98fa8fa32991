"""`--help` of every command, as it stands on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from mezite.cli import mezd, msh
from mezite.cli.helping import Group, LazyGroup
from mezite.cli.mezctl import mezctl

PROGRAMS: dict[str, click.Command] = {"mezctl": mezctl, "mezd": mezd.main, "msh": msh.main}


def _walk(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    context = command.context_class(
        command, parent, info_name=name, terminal_width=78, **command.context_settings
    )
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _walk(found, below, context)


CONTEXTS = {context.command_path: context
            for name, program in PROGRAMS.items() for context in _walk(program, name)}


@pytest.mark.parametrize("path", CONTEXTS)
def test_it_fits_and_nothing_in_it_is_cut_off_or_broken(path: str) -> None:
    told = CONTEXTS[path].get_help()
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    # Three dots are of repeated arguments, and an ellipsis is somebody's own.
    assert [line for line in lines if line.endswith("...") and "Usage: " not in line] == []
    assert [line for line in lines if line.endswith("-")] == [], "broken at a hyphen"
    assert [line for line in lines if line.count("`") % 2] == [], "broken within backquotes"
    assert all(char.isprintable() for line in lines for char in line)
    assert told.isascii() or set(told) - set(map(chr, range(128))) <= {"…"}


def test_all_of_them_are_looked_at() -> None:
    assert {"mezctl bots rotate-token", "mezd identity doctor", "msh ssh", "mezd completion"} <= set(CONTEXTS)


@pytest.mark.parametrize("path", ["mezd", "mezd identity"])
def test_what_is_told_of_a_command_not_loaded_yet_is_its_own_first_sentence(path: str) -> None:
    # mezctl's list has shorter words of its own.
    context = CONTEXTS[path]
    group = context.command
    assert isinstance(group, LazyGroup)
    assert group.told(context) == Group.told(group, context)
