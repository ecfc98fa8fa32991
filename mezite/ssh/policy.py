"""Who gets into this node: one decision, used at login and while a connection lives.

Nothing here knows Conch: a certificate, a policy and a time go in, an outcome
comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from mezite.certs.entries import apply_entry, find_entry
from mezite.certs.krl import Revocations
from mezite.certs.ssh import Certificate
from mezite.certs.verify import check_user_certificate
from mezite.core import locks, rbac
from mezite.core.audit import AuditEvent
from mezite.core.model import Identity, Lock
from mezite.core.roles import Role
from mezite.errors import CertificateRejected

RBAC = "rbac"
PRINCIPALS = "principals"


class Policy(Struct, frozen=True):
    """What the server knows at one moment, as far as logins depend on it."""

    user_cas: tuple[bytes, ...]
    """Key blobs of the cluster's trusted User CAs."""
    roles: Mapping[str, Role]
    locks: tuple[Lock, ...] = ()


class Access(Protocol):
    """What the node asks of the server it runs in."""

    def policy(self) -> Deferred[Policy]:
        """The policy as it stands now: asked for at every login."""

    def audit(self, event: AuditEvent) -> None:
        """Records *event*; returns at once and never raises."""


class NodeRules(Struct, frozen=True):
    """What this node itself contributes to the decision."""

    node_name: str
    labels: Mapping[str, str]
    authorization: str
    """:data:`RBAC` or :data:`PRINCIPALS`."""
    trusted_user_ca_keys: tuple[bytes, ...] = ()
    """Key blobs of CAs that are trusted besides the cluster's."""
    has_tables: bool = False
    """Whether a table of principals decides who may use a login, in place of its name."""

    def with_cas(self, blobs: tuple[bytes, ...]) -> NodeRules:
        """These rules, with further CAs that are trusted besides."""
        if not blobs:
            return self
        return replace(self, trusted_user_ca_keys=(*self.trusted_user_ca_keys, *blobs))


class Admitted(Struct, frozen=True):
    """This identity may log in as *login*, if it proves that it holds its key."""

    identity: Identity
    login: str
    port_forwarding: bool
    file_copy: bool
    destinations: tuple[tuple[str, int], ...] = ()
    """Where forwarded connections may go: host or ``*``, port or 0 for any; empty: anywhere."""

    @property
    def owner(self) -> str:
        """Whose share of the node's places it uses: the instance's, or where another CA
        has signed, that of whom this one names."""
        named = self.identity
        return named.instance or f"{named.ca_fingerprint} {named.key_id or named.serial}"


class Rejected(Struct, frozen=True):
    """Why not: a stable code for the audit log, and a sentence for its reader."""

    code: str
    message: str
    identity: Identity | None = None


def decide(
    cert: Certificate,
    policy: Policy,
    rules: NodeRules,
    *,
    login: str,
    address: str | None,
    now: datetime,
    revoked: Iterable[Revocations] = (),
    table: bytes = b"",
) -> Admitted | Rejected:
    """Whether *cert* opens *login* on this node.

    In this order: the certificate, locks, then roles (or, by the setting
    ``authorization: principals``, nothing further, as plain sshd does).

    A CA that only this node trusts vouches for principals, never for bots and
    roles: what its certificates claim of these is not believed.

    *table* is the login's table of principals, where the node has such
    (``rules.has_tables``); an empty one lets nobody in.

    Not checked: whether the peer holds the key.
    """
    try:
        identity = check_user_certificate(
            cert,
            trusted={*policy.user_cas, *rules.trusted_user_ca_keys},
            now_unix=int(now.timestamp()),
            login=None if rules.has_tables else login,
            address=address,
            revoked=revoked,
        )
    except CertificateRejected as error:
        return Rejected(error.code, str(error))
    if cert.ca_blob not in policy.user_cas:
        identity = replace(identity, bot="", instance="", generation=0, lineage_key="", roles=())
    locked = find_lock(identity, login, policy, rules, now)
    if locked is not None:
        return locked
    if rules.has_tables:
        return _by_table(table, cert, identity, login, address, now)
    if rules.authorization == PRINCIPALS:
        # OpenSSH's own rule: the certificate's permission is all that counts, and none
        # stands for file copies.
        forwarding = "permit-port-forwarding" in identity.permissions
        return Admitted(identity, login, port_forwarding=forwarding, file_copy=True)
    roles = rbac.find_roles(identity.roles, policy.roles)
    if isinstance(roles, rbac.Denied):
        return Rejected(roles.reason.code, str(roles), identity)
    outcome = rbac.admit(roles, labels=rules.labels, login=login)
    if isinstance(outcome, rbac.Denied):
        return Rejected(outcome.reason.code, str(outcome), identity)
    return Admitted(
        identity,
        login,
        port_forwarding=outcome.port_forwarding and "permit-port-forwarding" in identity.permissions,
        file_copy=outcome.file_copy,
    )


def _by_table(
    table: bytes, cert: Certificate, identity: Identity, login: str, address: str | None, now: datetime
) -> Admitted | Rejected:
    entry = find_entry(table, cert.principals)
    if entry is None:
        why = f"no entry of the table of {login!r} names a principal of the certificate"
        return Rejected("wrong_principal", why, identity)
    try:
        identity = apply_entry(
            identity, entry, login=login, address=address, now_unix=int(now.timestamp())
        )
    except CertificateRejected as error:
        return Rejected(error.code, str(error), identity)
    forwarding = "permit-port-forwarding" in identity.permissions
    return Admitted(identity, login, forwarding, file_copy=True, destinations=entry.destinations)


def find_lock(
    identity: Identity, login: str, policy: Policy, rules: NodeRules, now: datetime
) -> Rejected | None:
    """The lock that stops *identity* as *login* here at *now*, or ``None``.

    Asked at login, and again for live connections whenever the policy changes.
    """
    targets = locks.subject_targets(
        bot=identity.bot,
        instance=identity.instance,
        roles=identity.roles,
        login=login,
        node=rules.node_name,
    )
    holding = locks.holding(policy.locks, targets, now)
    if not holding:
        return None
    return Rejected("locked", f"{holding[0].target} is locked: {holding[0].reason}", identity)
