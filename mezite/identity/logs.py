"""What the daemon tells on standard error: one line an event, for a person or a journal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)


def begin_logging(file: TextIO, format: Callable[[LogEvent], str | None] | None = None) -> None:
    """Twisted's log goes to *file*, ours from ``info`` on, that of libraries from ``warn`` on;
    *format* makes its lines, :func:`line` where none is given."""
    chosen = LogLevelFilterPredicate(LogLevel.warn)
    chosen.setLogLevelForNamespace("mezite.identity", LogLevel.info)
    observer = FilteringLogObserver(FileLogObserver(file, format or line), [chosen])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def line(event: LogEvent) -> str | None:
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}\n{failure.getTraceback()}" if text else failure.getTraceback()
    if not text:
        return None
    level = event.get("log_level", LogLevel.info)
    name = "warning" if level is LogLevel.warn else level.name
    mark = "" if level is LogLevel.info else f"{name}: "
    return f"{datetime.fromtimestamp(event['log_time'], UTC):%Y-%m-%dT%H:%M:%SZ} {mark}{text.rstrip()}\n"
