"""`mezctl audit`: what has happened, and what happens now."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Group, pass_asking
from mezite.cli.names import event_types
from mezite.cli.output import hint
from mezite.errors import Unreachable

_SHOWN = 100
_FOLLOWED = 10
_EVERY = 1.0
"""Seconds between two looks."""
_PAGES = 50
"""Of 100 events each, at most, that are caught up with at one look."""
_REMEMBERED = 10_000


@click.group(cls=Group)
def audit() -> None:
    """The audit log: who did what to whom, and what became of it."""


@audit.command("ls")
@click.option("--type", "type_name", metavar="TYPE", help="Only events of this type, such as bot.created.",
              shell_complete=event_types)
@click.option("--resource", metavar="NAME", help="Only events on this bot, instance, token, role or lock.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), metavar="N", help=f"How many at most; default {_SHOWN}."
)
@click.option("--after", metavar="TOKEN", help="Older ones: those after the page whose `next` was TOKEN.")
@click.option("--all", "everything", is_flag=True, help="From the first event on.")
@click.option(
    "--follow", "-f", is_flag=True,
    help="Go on with what happens from now on, until Ctrl-C; in JSON, one object a line, in YAML a document "
    "each.",
)
@pass_asking
def audit_ls(
    asking: Asking, type_name: str | None, resource: str | None, limit: int | None, after: str | None,
    everything: bool, follow: bool,
) -> None:
    """List the latest events, the newest one last (in JSON and YAML, first)."""
    wanted = {"type": type_name, "resource": resource}
    if follow:
        if everything or after is not None:
            raise click.UsageError("--follow begins with the latest events; give --limit for how many")
        for event in following(lambda **more: asking.call("audit.ls", **wanted, **more), limit or _FOLLOWED):
            _write_line(event, asking.format)
        return
    if everything and (after is not None or limit is not None):
        raise click.UsageError("--all shows every event; give it without --after and --limit")
    if everything:
        events = list(asking.server().pages("audit.ls", "events", wanted))
        answer = {"events": events, "next": None}
    else:
        answer = asking.call("audit.ls", **wanted, limit=limit or _SHOWN, after=after)
    is_all = type_name is None and resource is None and after is None
    asking.show(answer, lambda found: _write_events(found, is_all))


def _write_events(answer: Any, is_all: bool) -> None:
    columns = {
        "TIME": lambda event: event["timestamp"],
        "CODE": lambda event: event["event_code"],
        "TYPE": lambda event: event["event_type"],
        "WHO": lambda event: event["user_name"],
        "WHAT": lambda event: f"{event['resource_type']}/{event['resource_name']}",
        "FROM": lambda event: event["client_ip"],
        "DETAILS": _details,
    }
    if not answer["events"]:
        hint("no events" if is_all else "no events that match; all of them: mezctl audit ls")
        return
    output.table(columns, reversed(answer["events"]), narrow=write_event)
    if answer["next"] is not None:
        hint(f"older ones: --after {answer['next']}, or --all")


def _details(event: Any) -> str:
    facts = " ".join(_fact(key, value) for key, value in event["fields"].items() if value != "")
    told = ": ".join(part for part in (event["reason"], event["message"]) if part)
    return f"{told} ({facts})" if told and facts else told or facts


def _fact(key: str, value: Any) -> str:
    name = key.removesuffix("_unix")
    at = output.utc(value) if name != key and isinstance(value, int) else None
    return f"{key}={value}" if at is None else f"{name}={at}"


def following(
    call: Callable[..., Any], first: int, wait: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """The *first* latest events, the oldest one first, and then for ever those that come.

    A server that does not answer is waited for.  Several servers write to one
    log, and an event may be seen after one with a greater id: each that was not
    shown yet counts as new.
    """
    shown: dict[int, None] = {}
    begun: int | None = None
    is_told = False
    while True:
        try:
            events = _unseen(call, shown, begun, first)
        except Unreachable as error:
            if begun is None:
                raise
            if not is_told:
                hint(f"{error}; waiting for it")
            is_told = True
            wait(2 * _EVERY)
            continue
        is_told = False
        for event in reversed(events):
            shown[event["id"]] = None
            yield event
        if begun is None:
            begun = min(shown, default=0)
        for old in list(shown)[: max(0, len(shown) - _REMEMBERED)]:
            del shown[old]
        wait(_EVERY)


def _unseen(call: Callable[..., Any], shown: dict[int, None], begun: int | None, first: int) -> list[Any]:
    """Newest first."""
    if begun is None:
        found: list[Any] = call(limit=first)["events"]
        return found
    events: list[Any] = []
    after = None
    for _ in range(_PAGES):
        page = call(limit=100, after=after)
        new = [event for event in page["events"] if event["id"] not in shown and event["id"] > begun]
        events += new
        after = page["next"]
        if len(new) < len(page["events"]) or after is None:
            break
    return events


def _write_line(event: Any, format: str) -> None:
    if format == "json":
        print(json.dumps(event), flush=True)
        return
    if format == "yaml":
        output.write_yaml(event, is_one_of_many=True)
        sys.stdout.flush()
        return
    write_event(event)
    sys.stdout.flush()


def write_event(event: Any) -> None:
    """One line; on a terminal broken between words."""
    what = f"{event['resource_type']}/{event['resource_name']}"
    parts = [event["timestamp"], event["event_code"], f"{event['event_type']:18}", event["user_name"], what,
             event["client_ip"], _details(event)]
    output.write_prose("  ".join(part for part in parts if part), hanging="    ")
