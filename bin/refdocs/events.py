"""The audit log's events."""

from __future__ import annotations

from mezite.core.audit import EventType
from refdocs.markdown import NOTE, cell, code, table
from refdocs.words import EVENTS

HEAD = """\
# Audit events

`mezctl audit ls` shows them, newest last; `--format json` gives all fields, `--follow` goes on. Names and
codes are stable. A code ends with `I` where the thing was done and with `E` where it failed or was refused;
then `reason` has a [code](codes.md).

"""


def page() -> str:
    rows = [(code(event.event_name), code(event.event_code), cell(EVENTS.get(event.event_name, "–")))
            for event in EventType]
    return NOTE + HEAD + table(("event", "code", "when"), rows)
