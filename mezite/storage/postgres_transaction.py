"""What a transaction does in a way of its own on PostgreSQL: locks, numbers, serials."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from mezite.core.audit import AuditEvent
from mezite.core.model import Instance
from mezite.errors import StorageFailure
from mezite.storage import rows, sql
from mezite.storage.postgres_link import Broken, Clash, Link, Unknown
from mezite.storage.transaction import COUNTED, Serials, SqlTransaction, Statements

_RAISE_EVENTS = """select setval(number, least) from (
select pg_get_serial_sequence('events', 'id') as number,
greatest(?, (select coalesce(max(id), 1) from events)) as least) as asked
where coalesce(pg_sequence_last_value(number::regclass), 0) < least"""
"""Never lowered: what others have drawn, and have yet to commit, is theirs."""
_ADD_EVENT = f"{sql.ADD_EVENT} returning id"
_RESERVE = f"{sql.RESERVE_SERIALS} returning next"
_TRIES = 8
MOST_COUNTED = 200_000
"""Rows of a table beyond which `mezctl status` tells about how many there are: to count
them, PostgreSQL reads them, which took seconds with a million instances."""
_ROWS = "(select cast(reltuples as bigint) from pg_class where oid = to_regclass('{}'))"
_LIVE = "select count(*) from instances where removed_at_us is null"
_COUNTS = sql.COUNTS.replace(_LIVE, f"""select case when {_ROWS.format("instances")} > {MOST_COUNTED}
then {_ROWS.format("instances")} - (select count(*) from instances where removed_at_us is not null)
else ({_LIVE}) end""").replace("select count(*) from tokens", f"""select
case when {_ROWS.format("tokens")} > {MOST_COUNTED} then {_ROWS.format("tokens")}
else (select count(*) from tokens) end""")


class PostgresTransaction(SqlTransaction):
    """The statements that PostgreSQL says in a way of its own."""

    __slots__ = ()

    def end(self) -> None:
        super().end()
        # Serials come from elsewhere than the statements that have ended.
        self._serials = None

    def instance(self, instance_id: str) -> Instance | None:
        if self._serials is None:
            return super().instance(instance_id)
        row = self._one(f"{sql.INSTANCE} for no key update", instance_id)
        return None if row is None else rows.instance(row)

    def counts(self) -> Mapping[str, int]:
        return dict(zip(COUNTED, self._one(_COUNTS), strict=True))

    def add_event(self, event: AuditEvent, above: int = 0) -> None:
        if above:
            self._all(_RAISE_EVENTS, above)
        if self._serials is None:
            super().add_event(event)  # refuses
            return
        ((number,),) = self._all(_ADD_EVENT, *rows.event_row(event))
        if isinstance(self._statements, Link):
            self._statements.newest_event = max(self._statements.newest_event, number)


class SharedSerials(Serials):
    """The serials of one server, for all of its connections.

    A block is reserved and committed at once, on a connection of its own: within a
    batch it would hold up every other server until the batch's end.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._lock = threading.Lock()

    def take(self, statements: Statements) -> int:
        with self._lock:
            if self.next >= self.limit:
                self.limit = self._committed(_RESERVE, self.BLOCK, self.next, self.next)
                self.next = self.limit - self.BLOCK
            serial = self.next
            self.next += 1
            return serial

    def raise_to(self, statements: Statements, least: int) -> None:
        with self._lock:
            self._committed(f"{sql.RAISE_SERIALS} returning next", least, least)
            if self.next < least:
                self.next = self.limit = least

    def _committed(self, statement: str, *values: int) -> int:
        """The number that *statement* gives, after its commit; tried again where that does no harm."""
        for attempt in range(_TRIES):
            try:
                self._link.begin()
                found = self._link.select(statement, values)
                self._link.commit()
                return int(found[0][0]) if found else 0
            except (Clash, Broken, Unknown):
                # Done twice it is a gap.
                self._link.give_up()
                if attempt + 1 == _TRIES:
                    raise
            except StorageFailure:
                self._link.give_up()
                raise
        raise AssertionError("not reached")

    def close(self) -> None:
        self._link.close()
