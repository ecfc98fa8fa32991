"""What the programs write to their log: text for people, or JSON, one event a line.

The names of the events are listed in docs/logs.md; a test holds the list and the code together.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

ROTATE_AT = 16 * 1024 * 1024
KEEP = 5
LIBRARY = "library"
"""The name of whatever is told by a library, and not by us."""

_NO_FIELDS = frozenset({"event", "line", "message", "fields"})
"""Parts of an event that its line shows in another way."""
_chosen = ("info", "text", "-")


def configure(level: str, format: str, path: str | None) -> None:
    """Sets what :func:`configured` makes: twistd takes an observer by its name only."""
    global _chosen
    _chosen = (level, format, path or "-")


def configured() -> ILogObserver:
    """The observer that :func:`configure` chose; made when the log is begun."""
    level, format, path = _chosen
    take_python_logging()
    return observer(level, format, log_file(path))


def is_json_on_output() -> bool:
    """Whether :func:`configure` chose JSON where a person, or a container, sees it at once."""
    return _chosen[1:] == ("json", "-")


def observer(level: str, format: str, file: TextIO) -> ILogObserver:
    """An observer that writes events of *level* and above as *format* (text, json)."""
    written = FileLogObserver(file, json_line if format == "json" else formatEventAsClassicLogText)
    chosen = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    # Twisted tells of its own comings and goings at every reload of a listener.
    for quiet in ("twisted.internet.protocol.Factory", "twisted.conch"):
        chosen.setLogLevelForNamespace(quiet, LogLevel.warn)
    return FilteringLogObserver(_OneAtATime(written), [chosen])


def log_file(path: str | None) -> TextIO:
    """Standard output for ``-`` and ``None``, else a file that is rotated."""
    if path in (None, "-"):
        return sys.stdout
    file: Any = LogFile.fromFullPath(str(Path(str(path)).absolute()), ROTATE_AT, maxRotatedFiles=KEEP)
    text: TextIO = file
    return text


@implementer(ILogObserver)
class _OneAtATime:
    """Threads of the storage tell things, too."""

    def __init__(self, observer: ILogObserver) -> None:
        self._observer = observer
        self._lock = threading.RLock()

    def __call__(self, event: LogEvent) -> None:
        with self._lock:
            self._observer(event)


def take_python_logging() -> None:
    """What is told by Python's own ``logging`` (the storage's warnings, asyncio's) is in Twisted's log.

    Its ``extra`` may hold the ``event``.
    """
    root = logging.getLogger()
    if not any(isinstance(one, _Taken) for one in root.handlers):
        root.addHandler(_Taken())


class _Taken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """logging's name for it."""
        levels = (
            (logging.CRITICAL, LogLevel.critical), (logging.ERROR, LogLevel.error),
            (logging.WARNING, LogLevel.warn), (logging.INFO, LogLevel.info),
        )
        level = next((ours for theirs, ours in levels if record.levelno >= theirs), LogLevel.debug)
        failure = {}
        if record.exc_info and record.exc_info[1] is not None:
            kind, error, trace = record.exc_info
            failure = {"log_failure": Failure(error, kind, trace)}
        Logger(namespace=record.name).emit(
            level, "{line}", line=record.getMessage(), event=getattr(record, "event", LIBRARY),
            log_from_logging=True, **failure,
        )


def json_line(event: LogEvent) -> str | None:
    """One object on one line: ``time``, ``level``, ``event``, ``source``, ``message``, and
    where there are any ``fields`` and ``traceback``; ``None`` of an event that says nothing."""
    text = formatEvent(event)
    failure = event.get("log_failure")
    trace = failure.getTraceback() if failure is not None else ""
    if not text and not trace:
        return None
    level = event.get("log_level")
    name = event.get("event")
    fields: dict[str, Any] = {}
    if name is not None:
        fields = {key: value for key, value in event.items() if key not in _NO_FIELDS and key[:4] != "log_"}
        fields |= event.get("fields", {})
    return one_line(
        level.name if level is not None else "info", name or LIBRARY, event.get("log_namespace", "-"),
        text or trace.splitlines()[-1], fields, trace, event["log_time"],
    )


def one_line(
    level: str, event: str, source: str, message: str, fields: Mapping[str, Any], traceback: str = "",
    at_unix: float | None = None,
) -> str:
    at = datetime.fromtimestamp(time.time() if at_unix is None else at_unix, UTC)
    line: dict[str, Any] = {
        "time": at.isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
        "source": source,
        "message": message,
    }
    if fields:
        line["fields"] = dict(fields)
    if traceback:
        line["traceback"] = traceback
    return json.dumps(line, ensure_ascii=False, default=str) + "\n"
