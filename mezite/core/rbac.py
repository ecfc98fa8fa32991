"""Who may get what: roles and a request in, a grant or the reasons against it out.

The same rules serve the issuing of certificates and the nodes.  Deny overrides
allow, over all roles together; empty never means all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from msgspec import Struct

from mezite.core.model import MAX_CERTIFICATE_TTL, MAX_PRINCIPALS
from mezite.core.roles import Role
from mezite.errors import Reason


class Granted(Struct, frozen=True):
    """What a certificate may say."""

    roles: tuple[str, ...]
    logins: tuple[str, ...]
    ttl: timedelta
    port_forwarding: bool


class Admitted(Struct, frozen=True):
    """A login that a node lets in, and what it may do there."""

    role: str
    """The first role that allows it."""
    port_forwarding: bool
    file_copy: bool


class Denied(Struct, frozen=True):
    """Why not: a stable reason, and one sentence for each ground."""

    reason: Reason
    grounds: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.grounds)


def find_roles(names: Sequence[str], existing: Mapping[str, Role]) -> tuple[Role, ...] | Denied:
    """The roles with these *names*.  One that is missing denies everything: it
    may have been the one with the ``deny`` rules."""
    missing = [name for name in names if name not in existing]
    if missing or not names:
        grounds = tuple(f"role {name} does not exist" for name in missing) or ("no role at all",)
        return Denied(Reason.ROLE_GONE, grounds)
    return tuple(existing[name] for name in names)


def choose(roles: Sequence[Role], names: Sequence[str]) -> tuple[tuple[Role, ...], tuple[Role, ...]] | Denied:
    """Of a bot's *roles* those with these *names*, and the rest.

    The rest's denials of logins go on holding, by :func:`grant`.  A denial of
    nodes holds only where a certificate names its role: such a role cannot be
    left out.
    """
    held = {role.name: role for role in roles}
    missing = [name for name in names if name not in held]
    if missing or not names:
        grounds = tuple(f"the bot has no role {name}" for name in missing) or ("no role at all",)
        return Denied(Reason.ROLE_GONE, grounds)
    rest = tuple(role for role in roles if role.name not in names)
    needed = tuple(
        f"role {role.name} denies nodes, and cannot be left out" for role in rest if role.deny.node_labels
    )
    if needed:
        return Denied(Reason.ROLE_UNFIT, needed)
    return tuple(role for role in roles if role.name in names), rest


def unfit_for_bots(role: Role) -> str | None:
    """Why no bot can hold *role*, or ``None``."""
    if role.require_session_mfa:
        return f"role {role.name} sets require_session_mfa, which no machine can satisfy"
    return None


def grant(
    roles: Sequence[Role],
    *,
    asked_ttl: timedelta,
    locked_logins: Iterable[str] = (),
    left_out: Sequence[Role] = (),
) -> Granted | Denied:
    """What *roles* allow together: allowed logins less denied ones, over all
    roles, those *left_out* as well, and the shortest of *asked_ttl*, each
    ``max_session_ttl`` and 24 h."""
    unfit = tuple(why for why in map(unfit_for_bots, roles) if why)
    if unfit:
        return Denied(Reason.ROLE_UNFIT, unfit)
    allowed = dict.fromkeys(login for role in roles for login in role.allow.logins)
    denied = {login for role in (*roles, *left_out) for login in role.deny.logins}
    locked = set(locked_logins)
    logins = tuple(login for login in allowed if login not in denied and login not in locked)
    if not logins:
        if any(login not in denied for login in allowed):
            return Denied(Reason.LOCKED, ("every login that the roles allow is locked",))
        names = ", ".join(role.name for role in roles)
        return Denied(Reason.NO_LOGINS, (f"no login is left by the roles {names}",))
    if len(logins) > MAX_PRINCIPALS:
        return Denied(
            Reason.ROLE_UNFIT,
            (f"the roles allow {len(logins)} logins together, a certificate holds {MAX_PRINCIPALS}",),
        )
    limits = [role.max_session_ttl for role in roles if role.max_session_ttl is not None]
    return Granted(
        roles=tuple(role.name for role in roles),
        logins=logins,
        ttl=min([asked_ttl, MAX_CERTIFICATE_TTL, *limits]),
        port_forwarding=any(role.port_forwarding for role in roles),
    )


def admit(roles: Sequence[Role], *, labels: Mapping[str, str], login: str) -> Admitted | Denied:
    """Whether a node with *labels* lets *login* in by *roles*.

    Some role must allow both the labels and the login, and no role may deny
    either.  The permissions are those of the roles that allow it here.
    """
    for role in roles:
        if role.deny.covers_node(labels):
            return Denied(Reason.NO_LOGINS, (f"role {role.name} denies this node",))
        if login in role.deny.logins:
            return Denied(Reason.NO_LOGINS, (f"role {role.name} denies the login {login}",))
    allowing = [role for role in roles if role.allow.covers_node(labels) and login in role.allow.logins]
    if not allowing:
        return Denied(Reason.NO_LOGINS, (f"no role allows the login {login} on this node",))
    return Admitted(
        role=allowing[0].name,
        port_forwarding=any(role.port_forwarding for role in allowing),
        file_copy=any(role.file_copy for role in allowing),
    )
