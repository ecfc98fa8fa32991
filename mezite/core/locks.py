"""Which locks hold for whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from mezite.core.model import Lock, LockKind, LockTarget


def is_active(lock: Lock, now: datetime) -> bool:
    return lock.expires_at is None or now < lock.expires_at


def subject_targets(
    *, bot: str, instance: str, roles: Iterable[str] = (), login: str = "", node: str = ""
) -> tuple[LockTarget, ...]:
    """Every target whose lock stops this subject; empty names stand for nothing."""
    pairs = [(LockKind.BOT, bot), (LockKind.INSTANCE, instance)]
    pairs += [(LockKind.ROLE, role) for role in roles]
    pairs += [(LockKind.LOGIN, login), (LockKind.NODE, node)]
    return tuple(LockTarget(kind, value) for kind, value in pairs if value)


def holding(locks: Iterable[Lock], targets: Iterable[LockTarget], now: datetime) -> tuple[Lock, ...]:
    """The locks that stop a subject with *targets* at *now*, final ones first."""
    wanted = set(targets)
    found = [lock for lock in locks if lock.target in wanted and is_active(lock, now)]
    return tuple(sorted(found, key=lambda lock: (not lock.is_final, lock.created_at, lock.id)))


def locked_logins(locks: Iterable[Lock], now: datetime) -> tuple[str, ...]:
    """Logins that no certificate may name at *now*."""
    return tuple(
        lock.target.value
        for lock in locks
        if lock.target.kind is LockKind.LOGIN and is_active(lock, now)
    )
