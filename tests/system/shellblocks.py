"""The fenced blocks of a page of the docs, and what becomes of each in a test.

What a block is, its language says: ``bash`` is typed into a shell; ``console`` is typed after
each ``$`` and compared with what is shown below it; ``yaml`` and ``python`` whose first line is
``# /path/of/a/file`` (or a name) are that file.  Any other language is not for a shell.  A comment
above a block says what a page need not show its reader:

    <!-- test: goes on, until it says "certificate" -->   it runs on, as in a terminal of its own
    <!-- test: after Ctrl-C in the terminal of mezd -->    ends what such a block has started
    <!-- not run: needs systemd -->                        and why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SHELL = ("bash", "sh", "console")
NOT_FOR_A_SHELL = ("yaml", "python", "text", "ini", "json", "", "promql", "toml", "markdown")
"""What a page shows and nobody types; with a file's name above it, it is still made."""

_FENCE = re.compile(r"^( *)(```+)([^\n`]*)$")
_MARK = re.compile(r"^\s*<!-- (test|not run): (.*?) -->\s*$")
_GOES_ON = re.compile(r'goes on, until it says "(.+)"')
_STOPS = re.compile(r"after Ctrl-C in the terminal of (\S+)")
_FILE = re.compile(r"# (\S+\.(?:yaml|yml|conf|py|service))\b.*")


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    """What follows ``test:`` in the comment above."""
    not_run: str | None = None
    """Why not; ``None``: it is run."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block is."""
        found = _FILE.fullmatch(self.text.split("\n", 1)[0])
        return found[1] if found and self.language not in SHELL else None

    @property
    def is_for_a_shell(self) -> bool:
        return self.language in SHELL

    @property
    def goes_on_until(self) -> str | None:
        found = _GOES_ON.fullmatch(self.mark)
        return found[1] if found else None

    @property
    def stops(self) -> str | None:
        found = _STOPS.fullmatch(self.mark)
        return found[1] if found else None

    def is_understood(self) -> bool:
        """Whether a test knows what to do with it."""
        known_mark = not self.mark or self.goes_on_until is not None or self.stops is not None
        return known_mark and (self.is_for_a_shell or self.language in NOT_FOR_A_SHELL)

    def commands(self) -> list[tuple[str, str | None]]:
        """What is typed, and what is shown of the answer (``None``: nothing is)."""
        if self.language != "console":
            return [(self.text, None)]
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0].endswith("\\"):
                found[-1] = (found[-1][0] + "\n" + line, [])
            elif found:
                found[-1][1].append(line)
        return [(typed, "\n".join(shown).strip() or None) for typed, shown in found]


def blocks(text: str, page: str) -> Iterator[Block]:
    """Every fenced block of *text*, in order."""
    lines = text.splitlines()
    at = 0
    above: re.Match[str] | None = None
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        if opened is None:
            marked = _MARK.match(lines[at])
            above = marked or (above if not lines[at].strip() else None)
            at += 1
            continue
        indent, fence, language = opened.groups()
        start = at + 1
        at = start
        while at < len(lines) and lines[at].strip() != fence:
            at += 1
        body = "\n".join(line.removeprefix(indent) for line in lines[start:at])
        kind, said = above.groups() if above else ("", "")
        yield Block(
            page, start, language.strip().split(" ")[0], body,
            mark=said if kind == "test" else "", not_run=said if kind == "not run" else None,
        )
        above = None
        at += 1


_LOOSE = re.compile(r"tok-bot-[0-9a-f…]+(?:-[0-9a-f]+)*|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|…")
_FITS = {"t": r"tok-bot-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}", "…": ".*?"}


def pattern(shown: str) -> re.Pattern[str]:
    """What an answer must be, where a page shows *shown*: any token and time, ``…`` anything; columns
    may be wider."""
    made, end = "", 0
    for found in _LOOSE.finditer(shown):
        made += _loosely(shown[end : found.start()])
        made += _FITS.get(found[0][0], r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
        end = found.end()
    return re.compile(made + _loosely(shown[end:]), re.DOTALL)


def _loosely(text: str) -> str:
    return re.sub(r"(?:\\ )+", " +", re.escape(text))
