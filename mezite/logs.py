"""What the programs write to their log: text for people, or JSON, one event a line."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile

ROTATE_AT = 16 * 1024 * 1024
KEEP = 5


_chosen = ("info", "text", "-")


def configure(level: str, format: str, path: str | None) -> None:
    """Sets what :func:`configured` makes: twistd takes an observer by its name only."""
    global _chosen
    _chosen = (level, format, path or "-")


def configured() -> ILogObserver:
    """The observer that :func:`configure` chose; made when the log is begun."""
    level, format, path = _chosen
    return observer(level, format, log_file(path))


def observer(level: str, format: str, file: TextIO) -> ILogObserver:
    """An observer that writes events of *level* and above as *format* (text, json)."""
    written = FileLogObserver(file, _json_line if format == "json" else formatEventAsClassicLogText)
    chosen = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    # Twisted tells of its own comings and goings at every reload of a listener.
    for quiet in ("twisted.internet.protocol.Factory", "twisted.conch"):
        chosen.setLogLevelForNamespace(quiet, LogLevel.warn)
    return FilteringLogObserver(written, [chosen])


def log_file(path: str | None) -> TextIO:
    """Standard output for ``-`` and ``None``, else a file that is rotated."""
    if path in (None, "-"):
        return sys.stdout
    file: Any = LogFile.fromFullPath(str(Path(str(path)).absolute()), ROTATE_AT, maxRotatedFiles=KEEP)
    text: TextIO = file
    return text


def _json_line(event: LogEvent) -> str | None:
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}\n{failure.getTraceback()}" if text else failure.getTraceback()
    if not text:
        return None
    level = event.get("log_level")
    line = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None else "info",
        "source": event.get("log_namespace", "-"),
        "message": text,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
