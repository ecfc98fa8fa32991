"""What operators do with roles and with the cluster as a whole; the other nouns
have modules of their own (admin_bots, admin_tokens, admin_instances, admin_locks).

Use cases of operators are functions of the context, the transaction and the
operator.  They write their audit event in the same transaction and raise
:class:`NotFound`, :class:`Conflict` or :class:`InvalidInput` before they have
changed anything.  Who may call them is the socket's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from cryptography import x509
from msgspec import Struct

from mezite import __version__
from mezite.auth.adoption import Suspicion, suspicion
from mezite.auth.context import Actor, Context, Operator
from mezite.auth.forks import unanswered
from mezite.auth.older import OlderCopy, older_copy
from mezite.auth.timekeeping import ClockGuard, Seen
from mezite.certs import keys
from mezite.certs.x509 import certificate_pem, spki_pin
from mezite.core import locks, rbac
from mezite.core.audit import AuditEvent, EventType
from mezite.core.model import Lock, Node
from mezite.core.roles import Role
from mezite.core.serials import serial_floor
from mezite.errors import Conflict, InvalidInput, NotFound, did_you_mean
from mezite.storage.interface import MAX_PAGE as MAX_PAGE
from mezite.storage.interface import Page, StoredAuthority, Transaction
from mezite.storage.interface import StoredEvent as StoredEvent


def note(
    context: Context,
    tx: Transaction,
    operator: Actor,
    event: EventType,
    resource_type: str,
    resource_name: str,
    *,
    message: str = "",
    fields: Mapping[str, str | int] | None = None,
) -> None:
    """The audit event of something that *operator* has just done."""
    tx.add_event(
        AuditEvent(
            event,
            context.clock(),
            actor=str(operator),
            resource_type=resource_type,
            resource_name=resource_name,
            message=message,
            fields=fields or {},
        )
    )


# --- roles ---------------------------------------------------------------------------------


def put_role(context: Context, tx: Transaction, operator: Operator, role: Role) -> bool:
    """*role* holds from now on, at once for every bot that has it; whether it is new.

    A role that bots have may not become one that no bot can have.
    """
    unfit = rbac.unfit_for_bots(role)
    bots = tx.bots_with_role(role.name) if unfit else ()
    if bots:
        raise Conflict(f"{unfit}, but these bots use it: {', '.join(bots)}")
    is_new = tx.put_role(role)
    event = EventType.ROLE_CREATED if is_new else EventType.ROLE_UPDATED
    note(context, tx, operator, event, "role", role.name)
    return is_new


def get_role(tx: Transaction, name: str) -> Role:
    role = tx.role(name)
    if role is None:
        raise NotFound(f"there is no role {name!r}; mezctl roles ls shows them all")
    return role


def list_roles(tx: Transaction, after: str, limit: int) -> Page[Role]:
    return tx.list_roles(after, limit)


def delete_role(context: Context, tx: Transaction, operator: Operator, name: str) -> None:
    """Refused while a bot has the role: its certificates would stop."""
    get_role(tx, name)
    bots = tx.bots_with_role(name)
    if bots:
        raise Conflict(f"role {name} is used by {_counted(bots)}; remove them first: mezctl bots rm NAME")
    tx.delete_role(name)
    note(context, tx, operator, EventType.ROLE_DELETED, "role", name)


def _counted(bots: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(bots) - most} more" if len(bots) > most else ""
    return f"the bot{'s' if len(bots) > 1 else ''} {', '.join(bots[:most])}{more}"


# --- authorities ---------------------------------------------------------------------------


class CaType(Enum):
    USER = "user"
    HOST = "host"
    SERVER = "server"


class CaKey(Struct, frozen=True):
    """One trusted authority, in the words of the file that it goes into."""

    fingerprint: str
    """SHA256:… of an SSH key; the pin of a server CA."""
    text: str
    """Without the line end at its end; a server CA's has several lines."""


def export_ca(context: Context, kind: CaType) -> tuple[CaKey, ...]:
    """Everything of this kind that is trusted now, the one that signs first.

    User CAs are lines for sshd's ``TrustedUserCAKeys`` file, host CAs lines for
    ``known_hosts``, server CAs certificates in PEM.
    """
    current = context.authorities()
    name = context.cluster.name
    if kind is CaType.USER:
        return tuple(
            CaKey(keys.fingerprint(blob), keys.public_line(blob, f"Mezite User CA of {name}"))
            for blob in current.user_cas
        )
    if kind is CaType.HOST:
        return tuple(
            CaKey(
                keys.fingerprint(blob),
                "@cert-authority * " + keys.public_line(blob, f"Mezite Host CA of {name}"),
            )
            for blob in current.host_cas
        )
    certificates = [x509.load_der_x509_certificate(der) for der in current.server_cas]
    return tuple(CaKey(spki_pin(one), certificate_pem(one).decode().strip()) for one in certificates)


# --- audit, nodes, status ------------------------------------------------------------------


def list_events(
    tx: Transaction, *, before: int | None, limit: int, type_name: str | None, resource: str | None
) -> tuple[StoredEvent, ...]:
    """Newest first."""
    known = [event.event_name for event in EventType]
    if type_name is not None and type_name not in known:
        hint = did_you_mean(type_name, sorted(known), "known")
        raise InvalidInput(f"there is no event type {type_name!r}; {hint}", "type")
    return tx.list_events(before=before, limit=limit, type_name=type_name, resource_name=resource)


def list_nodes(context: Context) -> tuple[Node, ...]:
    return tuple(sorted(context.nodes(), key=lambda node: node.name))


class StatusCa(Struct, frozen=True):
    kind: str
    state: str
    fingerprint: str
    """SHA256:… of an SSH key; the pin of a server CA."""
    created_at: datetime


class Status(Struct, frozen=True):
    """The cluster at a glance, and what in it wants a person's eye."""

    cluster_name: str
    cluster_uuid: str
    version: str
    public_addr: str
    server_time: datetime
    counts: Mapping[str, int]
    authorities: tuple[StatusCa, ...]
    active_locks: tuple[Lock, ...]
    reused_tokens: tuple[StoredEvent, ...]
    """The latest times that somebody presented a token which another had used."""
    asked: tuple[StoredEvent, ...]
    """Instances of which a generation of before was presented, and not proven."""
    older: OlderCopy | None
    """The database is an older copy, and no operator has said so: joins are refused."""
    ahead: Suspicion | None
    """Machines show that the database is an old copy, and no operator has said so."""


_SHOWN_REUSED = 10
_KINDS = [kind.value for kind in CaType]


def _order(one: StoredAuthority) -> tuple[int, datetime, str]:
    """Those of a kind together, the oldest first.  All of the first start have one time, and random ids."""
    return _KINDS.index(one.kind), one.created_at, one.id


def status(context: Context, tx: Transaction) -> Status:
    now = context.clock()
    cluster = context.cluster
    return Status(
        cluster_name=cluster.name,
        cluster_uuid=cluster.uuid,
        version=__version__,
        public_addr=cluster.public_addr,
        server_time=now,
        counts=tx.counts(),
        authorities=tuple(
            StatusCa(
                kind=one.kind,
                state=one.state,
                fingerprint=(
                    spki_pin(x509.load_pem_x509_certificate(one.public))
                    if one.kind == CaType.SERVER.value
                    else keys.fingerprint(one.public)
                ),
                created_at=one.created_at,
            )
            for one in sorted(tx.authorities(), key=_order)
        ),
        active_locks=tuple(lock for lock in tx.all_locks() if locks.is_active(lock, now)),
        asked=unanswered(tx),
        older=older_copy(tx),
        ahead=suspicion(tx),
        reused_tokens=tx.list_events(type_name=EventType.TOKEN_REUSED.event_name, limit=_SHOWN_REUSED),
    )


def accept_clock(context: Context, tx: Transaction, operator: Operator, guard: ClockGuard) -> Seen:
    """The clock is right as it stands, says *operator*: joins and renewals go on once
    *guard* holds this."""
    fault = guard.fault()
    accepted = guard.accept(tx)
    tx.raise_serials(serial_floor(accepted.at))
    note(context, tx, operator, EventType.CLOCK_ACCEPTED, "cluster", context.cluster.name,
         message=fault or "the clock was not at fault")
    return accepted
