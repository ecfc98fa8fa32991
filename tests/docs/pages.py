"""The pages, and what they say of our programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from refdocs.commands import PROGRAMS

from tests.system.shellblocks import blocks

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ENDS = re.compile(r"\s(?:\||\|\||&&|;|>|2>|<)\s|\s#|;")


def typed(text: str, page: str) -> Iterator[str]:
    """Every command of our programs on a page, in blocks and in running text."""
    lines = []
    for block in blocks(text, page):
        if not block.is_for_a_shell:
            continue
        whole = block.text.replace("\\\n", " ")
        lines += [line.removeprefix("$ ").strip() for line in whole.splitlines()]
    lines += [found[1] for found in _CODE.finditer(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    for line in lines:
        for part in _ENDS.split(line):
            found = re.match(r"(?:[A-Z_]+=\S+ +)*(mezctl|mezd|msh) +(.+)", part.strip())
            if found:
                yield f"{found[1]} {found[2]}"


def faults(command: str) -> list[str]:
    """What is wrong with *command*: a name that is no command, an option that it does not take."""
    try:
        words = shlex.split(command.replace("…", " ").replace("<", "").replace(">", ""))
    except ValueError:
        words = command.split()
    at: click.Command = PROGRAMS[words[0]]
    options = _options(at)
    found: list[str] = []
    after_value = False
    for word in words[1:]:
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            if name not in options:
                found.append(f"{name} is no option of {words[0]} … {at.name}")
            else:
                after_value = not equals and options[name]
        elif word.startswith("-") or after_value:
            after_value = False
        elif isinstance(at, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
            below = at.get_command(click.Context(at), word)
            if below is None:
                found.append(f"{word} is no command of {at.name}")
                break
            at = below
            options |= _options(at)
        else:
            at = click.Command(at.name) if isinstance(at, click.Group) else at
    return found


def _options(command: click.Command) -> dict[str, bool]:
    """By name: whether a value follows it."""
    found = {"--help": False}
    for param in command.params:
        if isinstance(param, click.Option):
            found |= dict.fromkeys((*param.opts, *param.secondary_opts), not param.is_flag)
    return found
