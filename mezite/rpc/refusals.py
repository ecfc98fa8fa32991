"""Which refusals leave a row in the audit log: counted always, written seldom.

A stranger can be refused as often as he likes, and a locked daemon asks again
for days.  Neither may fill the disk.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from datetime import datetime, timedelta

from mezite.errors import Reason

STRANGERS_PER_MINUTE = 10
REPEAT_AFTER = timedelta(minutes=10)
_REMEMBERED = 10_000

_STRANGE = frozenset({Reason.TOKEN_UNKNOWN, Reason.BAD_PROOF, Reason.INVALID_REQUEST})
_SILENT = frozenset({Reason.PROVE, Reason.UNAVAILABLE, Reason.SERVER_CLOCK, Reason.GENERATION_MISMATCH})
"""Asked for and answered within one exchange, of our own making, or written by
the use case itself when it happened."""


class RefusalLog:
    """Counts refusals by reason, and says which are worth a row."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._minute = 0
        self._strangers = 0
        self._written: OrderedDict[tuple[str, Reason], datetime] = OrderedDict()

    def is_worth_a_row(
        self, reason: Reason, subject: str, now: datetime, *, is_join: bool = False
    ) -> bool:
        """Counts the refusal of *subject*, and whether to write it: of strangers
        the first few a minute, of anybody known one for each reason in ten minutes."""
        self.counts[reason.code] += 1
        if reason in _SILENT:
            return False
        # While the database is an older copy no join's token is looked at: anybody may have sent it.
        if reason in _STRANGE or (is_join and reason is Reason.DATABASE_RESTORED):
            minute = int(now.timestamp()) // 60
            if minute != self._minute:
                self._minute, self._strangers = minute, 0
            self._strangers += 1
            return self._strangers <= STRANGERS_PER_MINUTE
        key = (subject, reason)
        last = self._written.get(key)
        if last is not None and timedelta(0) <= now - last < REPEAT_AFTER:
            return False
        self._written[key] = now
        self._written.move_to_end(key)
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return True
