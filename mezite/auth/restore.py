"""After the database was put back from a backup: what it brings back is voided,
what it lacks is told.

What is safe is done at every start: serials begin above all that was ever issued.
An older copy is found out (older.py), and then no machine joins.  Machines that are
ahead of the database are adopted when they renew.  The rest is an operator's word:
:func:`restore`.

An instance that joined after the backup is not adopted, though its certificate
would prove that it was one of ours.  The same certificate is held by an instance
that joined and was then removed or locked for a fork after the backup, and
nothing that is left tells the two apart.  It joins again, with a new token.
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from mezite.auth import older
from mezite.auth.admin import note
from mezite.auth.adoption import last_event
from mezite.auth.context import Context, Operator
from mezite.core.audit import AuditEvent, EventType
from mezite.core.highwater import HighWater
from mezite.core.model import JoinToken
from mezite.core.serials import serial_floor
from mezite.errors import Conflict, InvalidInput, Reason
from mezite.storage.interface import MAX_PAGE, StoredEvent, Transaction

_SHOWN = 100
_UNKNOWN = frozenset({Reason.INSTANCE_UNKNOWN.code, Reason.DATABASE_RESTORED.code})
"""Before this word, and after it."""
LAST_COMMIT = "last_commit_unix"


def begin(
    context: Context, tx: Transaction, last_commit: datetime | None, *, clock_is_good: bool,
    mark: HighWater | None = None, has_mark: bool = False,
) -> older.OlderCopy | None:
    """A server starts on this database, which was written last at *last_commit*
    and had come as far as *mark*, which was read before; *has_mark*: one is kept
    in the same directory.  Returns whether it is known to be an older copy.

    By a clock at fault serials are left alone: ahead by years, it would use them up.
    """
    now = context.clock()
    if clock_is_good:
        tx.raise_serials(serial_floor(now))
    if mark is not None:
        tx.raise_serials(mark.serials)
    older.compare(context, tx, mark, expected=has_mark, clock_is_good=clock_is_good)
    fields = {} if last_commit is None else {LAST_COMMIT: int(last_commit.timestamp())}
    tx.add_event(
        AuditEvent(
            EventType.SERVER_STARTED, now, actor="system", resource_type="cluster",
            resource_name=context.cluster.name, fields=fields,
        )
    )
    return older.older_copy(tx)


class Stranger(Struct, frozen=True):
    """An instance that was refused because this database does not know it."""

    instance_id: str
    address: str
    at: datetime
    """Its last refusal that left a row."""


class Restored(Struct, frozen=True):
    """What was done, and what may be missing."""

    since: datetime | None
    """The backup was made then; ``None``: not known."""
    until: datetime
    """The server started on it."""
    first_serial: int
    """No certificate issued from now on has a lower one."""
    voided: int
    """Join tokens that would have admitted somebody again."""
    bots: tuple[str, ...]
    """Whose tokens those were."""
    adopted: int
    """Machines that were ahead of the database and have renewed since."""
    strangers: tuple[Stranger, ...]


def restore(
    context: Context, tx: Transaction, operator: Operator, since: datetime | None = None
) -> Restored:
    """The operator says that the database was put back from a backup, made at
    *since* (default: when it was written last before the server started).

    No token that was in it admits anybody any more; tokens made since the server
    started do, so that doing this again does no harm.
    """
    now = context.clock()
    started = last_event(tx, EventType.SERVER_STARTED)
    if started is None:
        raise Conflict("no start of a server is on record in this database; start the server on it first")
    until = started.event.at
    if since is None:
        seen = started.event.fields.get(LAST_COMMIT)
        since = datetime.fromtimestamp(int(seen), UTC) if seen is not None else None
    elif since > until:
        raise InvalidInput(f"the server started before that, at {until:%Y-%m-%dT%H:%M:%SZ}", "since")
    first_serial = serial_floor(now)
    tx.raise_serials(first_serial)
    revived = _revived_tokens(tx, until, now)
    for token in revived:
        tx.void_token(token.id, now)
    bots = {bot.name for bot_id in {token.bot_id for token in revived} if (bot := tx.bot_by_id(bot_id))}
    older.declared(tx)
    found = Restored(
        since=since,
        until=until,
        first_serial=first_serial,
        voided=len(revived),
        bots=tuple(sorted(bots)),
        adopted=len({one.event.resource_name for one in _since(tx, EventType.GENERATION_ADOPTED, until)}),
        strangers=_strangers(tx, until),
    )
    note(
        context, tx, operator, EventType.DATABASE_RESTORED, "cluster", context.cluster.name,
        fields={
            "since": "" if since is None else f"{since:%Y-%m-%dT%H:%M:%SZ}",
            "until": f"{until:%Y-%m-%dT%H:%M:%SZ}",
            "voided_tokens": found.voided,
            "first_serial": first_serial,
        },
    )
    return found


def _revived_tokens(tx: Transaction, until: datetime, now: datetime) -> list[JoinToken]:
    """Those that came with the backup and would still admit somebody."""
    found: list[JoinToken] = []
    after: str | None = ""
    while after is not None:
        page = tx.list_tokens(None, after, MAX_PAGE)
        found += [one for one in page.items if one.created_at <= until and one.state(now) == "active"]
        after = page.next
    return found


def _strangers(tx: Transaction, until: datetime) -> tuple[Stranger, ...]:
    """The newest refusal of each, at most :data:`_SHOWN`."""
    found: dict[str, Stranger] = {}
    for one in _since(tx, EventType.RENEW_REFUSED, until):
        event = one.event
        known = tx.instance(event.resource_name) is not None
        if event.reason in _UNKNOWN and not known and len(found) < _SHOWN:
            found.setdefault(event.resource_name, Stranger(event.resource_name, event.client_ip, event.at))
    return tuple(found.values())


def _since(tx: Transaction, kind: EventType, moment: datetime) -> list[StoredEvent]:
    """Newest first; of the last thousand."""
    events = tx.list_events(type_name=kind.event_name, limit=MAX_PAGE)
    return [one for one in events if one.event.at >= moment]
