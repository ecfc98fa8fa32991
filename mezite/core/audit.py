"""What the audit log records: who did what to whom, from where, with what outcome."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from msgspec import Struct, field

MAX_TEXT = 512


class EventType(Enum):
    """Event names and their stable codes; ``E`` at a code's end marks a failure."""

    CLUSTER_CREATED = "cluster.created", "M1000"
    CA_CREATED = "ca.created", "M1001"
    CLOCK_ACCEPTED = "clock.accepted", "M1002"
    RECORDS_PRUNED = "records.pruned", "M1003"
    SERVER_STARTED = "server.started", "M1004"
    DATABASE_RESTORED = "database.restored", "M1005"
    DATABASE_OLDER = "database.older", "M1006"
    DATABASE_BACKED_UP = "database.backed_up", "M1007"
    CA_ROTATED = "ca.rotated", "M1008"
    ROLE_CREATED = "role.created", "M1100"
    ROLE_UPDATED = "role.updated", "M1101"
    ROLE_DELETED = "role.deleted", "M1102"
    BOT_CREATED = "bot.created", "M1200"
    BOT_DELETED = "bot.deleted", "M1201"
    TOKEN_CREATED = "token.created", "M1300"
    TOKEN_ROTATED = "token.rotated", "M1301"
    TOKEN_DELETED = "token.deleted", "M1302"
    TOKEN_REUSED = "token_reused", "M1303"
    INSTANCE_JOINED = "instance.joined", "M1400"
    INSTANCE_REMOVED = "instance.deleted", "M1401"
    INSTANCE_RECOVERED = "instance.recovered", "M1402"
    INSTANCE_KEPT = "instance.key_kept", "M1403"
    GENERATION_ADOPTED = "generation_adopted", "M1404"
    GENERATION_MISMATCH = "generation_mismatch", "M1405"
    INSTANCE_LEFT = "instance.left", "M1406"
    CERT_ISSUED = "user.cert.issued", "M1500"
    CERT_REISSUED = "user.cert.reissued", "M1501"
    JOIN_REFUSED = "join.refused", "M1502"
    RENEW_REFUSED = "renew.refused", "M1503"
    PROVE_ASKED = "renew.prove_asked", "M1504"
    LEAVE_REFUSED = "leave.refused", "M1505"
    HOST_CERT_ISSUED = "host.cert.issued", "M1506"
    LOCK_CREATED = "lock.created", "M1600"
    LOCK_DELETED = "lock.deleted", "M1601"
    LOCK_SHORTENED = "lock.shortened", "M1602"
    AUTHZ_DENIED = "authz.denied", "M1700"
    NODE_JOINED = "node.joined", "M1701"
    SESSION_START = "session.start", "M1702"
    SESSION_END = "session.end", "M1703"
    USER_LOGIN = "user.login", "M1704"
    USER_LOGOUT = "user.logout", "M1705"
    PORT_FORWARD = "port.forward", "M1706"
    PORT_FORWARD_END = "port.forward.end", "M1707"

    def __init__(self, event_name: str, event_code: str) -> None:
        self.event_name = event_name
        self.event_code = event_code


class AuditEvent(Struct, frozen=True):
    """One row of the audit log; texts from outside are escaped and capped."""

    type: EventType
    at: datetime
    actor: str
    """``uid:0(root)`` for an operator, ``bot/NAME`` for a machine, ``system``."""
    resource_type: str = ""
    resource_name: str = ""
    client_ip: str = ""
    success: bool = True
    reason: str = ""
    """Stable reason code of a failure."""
    message: str = ""
    fields: Mapping[str, str | int] = field(default_factory=dict)
    """Further facts under stable names: serial, key_id, generation …"""

    @property
    def event_code(self) -> str:
        return self.type.event_code + ("I" if self.success else "E")


def plain(text: str | bytes, limit: int = MAX_TEXT) -> str:
    """*text* fit for a log line: printable, one line, at most *limit* characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[: limit + 1]
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
