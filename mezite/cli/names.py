"""What the shell completes besides commands, options and files: the server's names.

The server is asked quickly and in silence: nobody waits at a half-typed line,
and no error belongs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from mezite.cli.asking import Asking
from mezite.errors import MeziteError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

TIMEOUT_SECONDS = 1.0
_MOST = 200
"""Names that are shown; whoever has more types another letter."""

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _bot(record: Mapping[str, Any]) -> str:
    return ", ".join(record["roles"])


def _role(record: Mapping[str, Any]) -> str:
    return str(record["metadata"].get("description") or "")


def _instance(record: Mapping[str, Any]) -> str:
    return f"{record['bot']} on {record['host'] or record['address']}, {record['state']}"


def _token(record: Mapping[str, Any]) -> str:
    return f"{record['bot']}, {record['state']}"


def _lock(record: Mapping[str, Any]) -> str:
    return f"{record['kind']} {record['target']}"


def _node(record: Mapping[str, Any]) -> str:
    return str(record["address"])


_HELP: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bots": _bot, "roles": _role, "instances": _instance, "tokens": _token, "locks": _lock, "nodes": _node,
}


def names(noun: str) -> Completer:
    """Completes a name or id of that list."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _items(found(ctx, noun, incomplete))

    return complete


def several_names(noun: str) -> Completer:
    """Completes the last of several names with commas between them."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return _items([
            (before + comma + name, told) for name, told in found(ctx, noun, last) if name not in given
        ])

    return complete


def _items(pairs: list[tuple[str, str]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=told or None) for name, told in pairs]


def found(ctx: click.Context, noun: str, begins: str) -> list[tuple[str, str]]:
    """Names that begin so, each with a word on it; empty where there is no answer."""
    root = ctx.find_root()
    asking = root.obj if isinstance(root.obj, Asking) else Asking(root.params.get("socket"), "text")
    asking.timeout = TIMEOUT_SECONDS
    try:
        answer = asking.call(f"{noun}.ls", after=_just_before(begins), limit=_MOST)
        pairs = [(_name(record), _HELP[noun](record)) for record in answer[noun]]
    except (MeziteError, LookupError, TypeError, AttributeError):
        # Nobody there, or a server of another version.
        return []
    # What a machine says of itself is shown by the shell.
    return [(name, told if told.isprintable() else "") for name, told in pairs
            if name.startswith(begins) and name.isprintable()]


def _name(record: Mapping[str, Any]) -> str:
    return str(record["metadata"]["name"] if "metadata" in record else record.get("name") or record["id"])


def _just_before(begins: str) -> str | None:
    """Lists go on after a name: one that comes before all that begin so, and after all others before them."""
    if not begins or not begins.isascii() or not begins.isprintable():
        return None
    return begins[:-1] + chr(ord(begins[-1]) - 1) + "~"


def event_types(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from mezite.core.audit import EventType

    known = sorted(event.event_name for event in EventType)
    return _items([(name, "") for name in known if name.startswith(incomplete)])
