"""The database is an older copy of itself, and no operator has said so yet.

Found out at the start and every half minute by the mark beside it, and by the
first machine that proves to be ahead of it.  Until `mezctl restore` is run no
machine joins, since tokens that were used are fresh again, and no instance is
told that it is unknown, since the copy may be the wrong one; machines renew.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import Enum

from msgspec import Struct

from mezite.auth.context import Context, Transaction
from mezite.core.audit import AuditEvent, EventType
from mezite.core.highwater import HighWater
from mezite.core.serials import serial_floor
from mezite.errors import Conflict, Reason, Refused

_KEY = "older_copy"
_MARKED = "marked"
_STRIDE = 1 << 20
"""Event numbers left out where other servers may have marks of their own, so that theirs hold, too."""


class Sign(Enum):
    """What showed it: stable codes; ``text`` is for a person."""

    MARK = "mark", "it has come less far than the mark beside it"
    NO_MARK = "no_mark", "the mark that was kept beside it is gone"
    MACHINE = "machine", "a machine is ahead of it"

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text


class OlderCopy(Struct, frozen=True):
    found_at: datetime
    sign: Sign

    def __str__(self) -> str:
        return (
            f"the database was put back from a copy ({self.sign.text}, found at "
            f"{self.found_at:%Y-%m-%dT%H:%M:%SZ}): no machine joins until an operator runs mezctl restore"
        )


def older_copy(tx: Transaction) -> OlderCopy | None:
    """Whether the database is known to be one, with nobody having said so."""
    stored = tx.value(_KEY)
    if not stored:
        return None
    document = json.loads(stored)
    sign = next((one for one in Sign if one.code == document["sign"]), Sign.MARK)
    return OlderCopy(datetime.fromtimestamp(document["found_at_unix"], UTC), sign)


def refuse_joins(tx: Transaction) -> Refused | None:
    if older_copy(tx) is None:
        return None
    return Refused(
        Reason.DATABASE_RESTORED,
        "the server's database was put back from a copy; no machine joins until its operator has run "
        "mezctl restore",
    )


def require_current(tx: Transaction) -> None:
    """Raises :class:`Conflict` for what an operator must not do before `mezctl restore`."""
    found = older_copy(tx)
    if found is not None:
        raise Conflict(f"{found}; run it first, then make new tokens")


def compare(
    context: Context, tx: Transaction, mark: HighWater | None, *, expected: bool, clock_is_good: bool = True
) -> None:
    """A use case: the database is compared with its *mark*, read before this began.

    *expected*: database and mark lie in one directory, so that a mark which is gone,
    too, shows a copy; a server that is new to a database of several has none.
    """
    marked = bool(tx.value(_MARKED))
    if marked and not expected:
        # Moved here from a file: from now on other servers may have marks of their own.
        tx.set_value(_MARKED, b"")
    if mark is None:
        if expected and marked:
            note(context, tx, Sign.NO_MARK, clock_is_good=clock_is_good)
    elif mark.events > tx.newest_event():
        note(context, tx, Sign.MARK, mark, clock_is_good=clock_is_good)
    if expected and not marked:
        tx.set_value(_MARKED, b"1")


def note(
    context: Context, tx: Transaction, sign: Sign, mark: HighWater | None = None, *,
    clock_is_good: bool = True, instance_id: str = "",
) -> None:
    """The database is an older copy, says *sign*: joins are refused from now on.

    The event that tells of it is numbered above *mark*, so that the mark holds
    of this database again, and the same copy put back once more shows again.
    """
    now = context.clock()
    newest = tx.newest_event()
    if clock_is_good:
        tx.raise_serials(serial_floor(now))
    if mark is not None:
        tx.raise_serials(mark.serials)
    if older_copy(tx) is None:
        document = {"found_at_unix": int(now.timestamp()), "sign": sign.code}
        tx.set_value(_KEY, json.dumps(document).encode())
    fields: dict[str, str | int] = {"newest_event": newest}
    if mark is not None:
        fields["mark"] = mark.events
    if instance_id:
        fields["instance"] = instance_id
    tx.add_event(
        AuditEvent(
            EventType.DATABASE_OLDER, now, actor="system", resource_type="cluster",
            resource_name=context.cluster.name, success=False, reason=Reason.DATABASE_RESTORED.code,
            message=f"{sign.text}; joins are refused until mezctl restore", fields=fields,
        ),
        above=0 if mark is None else mark.events + (0 if tx.value(_MARKED) else _STRIDE),
    )


def declared(tx: Transaction) -> None:
    """An operator has said so: machines join again."""
    if tx.value(_KEY):
        tx.set_value(_KEY, b"")
