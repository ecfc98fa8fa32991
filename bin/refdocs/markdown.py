"""Tables and texts of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

NOTE = "<!-- Made by bin/reference from the code: change that, not this page. -->\n\n"


_ROLE = re.compile(r":(?:class|attr|mod|data|func):`~?([^`]+)`")


def cell(text: str) -> str:
    """*text* inside a table, on one line."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """As code; a bar would end the cell, and readers do not agree on how it is escaped in backquotes."""
    if "|" in text:
        return f"<code>{escape(' '.join(text.split())).replace('|', '&#124;')}</code>"
    return f"`{cell(text)}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def plain(text: str) -> str:
    """reStructuredText's double backquotes and roles as Markdown has them."""
    text = _ROLE.sub(lambda found: f"`{found[1].split('.')[-1]}`", text)
    return text.replace("``", "`").replace(".  ", ". ")
