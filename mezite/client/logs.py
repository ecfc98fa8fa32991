"""What an identity logs, for programs that know only the standard library's logging."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, STDLibLogObserver, globalLogPublisher
from zope.interface import provider

LOGGER = "mezite"
_observer = STDLibLogObserver(LOGGER)


@provider(ILogObserver)
def _tell(event: LogEvent) -> None:
    # What has come from there is not told there once more.
    if str(event.get("log_namespace", "")).startswith("mezite.") and "log_from_logging" not in event:
        _observer(event)


def tell_logging() -> None:
    """From now on our lines go to the logger ``mezite``, too."""
    # Adding an observer again changes nothing.
    globalLogPublisher.addObserver(_tell)
