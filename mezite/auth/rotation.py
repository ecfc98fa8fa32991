"""New authorities in place of old ones, in steps that leave nobody out.

A new CA is made and published before anything is signed by it (`announce`);
then it signs, and the one before is trusted still (`switch`); then that one is
trusted no longer (`retire`).  Between steps machines and nodes learn of it:
a machine with its next renewal.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from enum import Enum

from cryptography import x509
from msgspec import Struct

from mezite.auth.admin import CaType, note
from mezite.auth.authorities import ACTIVE, RETIRED, TRUSTED, create_authority
from mezite.auth.context import Context, Operator, Transaction
from mezite.certs import keys
from mezite.certs.x509 import spki_pin
from mezite.core.audit import EventType
from mezite.core.duration import format_duration
from mezite.errors import Conflict
from mezite.storage.interface import StoredAuthority

DEFAULT_GRACE = timedelta(hours=72)
"""Between two steps: three times the longest life of a certificate."""


class Stage(Enum):
    ANNOUNCE = "announce"
    SWITCH = "switch"
    RETIRE = "retire"


class Rotated(Struct, frozen=True):
    """What a step has done."""

    kind: CaType
    stage: Stage
    fingerprint: str
    """Of the CA that the step was about; a server CA's pin."""
    next_stage: Stage | None
    """``None``: the rotation is over."""
    not_before: datetime | None
    """When the next step may be taken without haste."""


def rotate(
    context: Context,
    tx: Transaction,
    operator: Operator,
    kind: CaType,
    *,
    grace: timedelta,
    passphrase: bytes | None,
    stage: Stage | None = None,
    in_haste: bool = False,
) -> Rotated:
    """Takes the next step of a rotation of *kind*; with no rotation under way, the first.

    Raises :class:`Conflict` where the step before is less than *grace* ago and
    it is not *in_haste*, or where the next step is not *stage*.
    """
    now = context.clock()
    last = _last_step(tx, kind)
    following = _FOLLOWING[last.stage if last else Stage.RETIRE]
    if stage is not None and stage is not following:
        raise Conflict(
            f"the next step for the {kind.value} CA is {following.value}, not {stage.value}; "
            f"to take it: mezctl ca rotate --type={kind.value} --stage={following.value}"
        )
    if last is not None and following is not Stage.ANNOUNCE and not in_haste:
        _check_wait(last, now, grace)
    trusted = [one for one in tx.authorities() if one.kind == kind.value and one.state != RETIRED]
    if following is Stage.ANNOUNCE:
        about = create_authority(
            tx, kind.value, context.cluster.name, context.cluster.uuid, passphrase=passphrase, now=now,
            random=context.random, state=TRUSTED, actor=str(operator),
        )
    elif following is Stage.SWITCH:
        about = next(one for one in trusted if last is not None and one.id == last.authority_id)
        for one in trusted:
            if one.state == ACTIVE:
                tx.set_authority_state(one.id, TRUSTED)
        tx.set_authority_state(about.id, ACTIVE)
    else:
        about = next(one for one in trusted if one.state != ACTIVE)
        for one in trusted:
            if one.state != ACTIVE:
                tx.set_authority_state(one.id, RETIRED)
    tx.set_value(_key(kind), json.dumps([following.value, about.id, now.isoformat()]).encode())
    shown = _shown(about)
    note(
        context, tx, operator, EventType.CA_ROTATED, "ca", kind.value,
        fields={"stage": following.value, "id": about.id, "public": shown},
    )
    after = None if following is Stage.RETIRE else _FOLLOWING[following]
    return Rotated(kind, following, shown, after, None if after is None else now + grace)


class UnderWay(Struct, frozen=True):
    """A rotation that wants another step."""

    kind: CaType
    stage: Stage
    """The last one taken."""
    at: datetime
    next_stage: Stage


def under_way(tx: Transaction) -> tuple[UnderWay, ...]:
    last = {kind: _last_step(tx, kind) for kind in CaType}
    return tuple(
        UnderWay(kind, step.stage, step.at, _FOLLOWING[step.stage])
        for kind, step in last.items() if step is not None and step.stage is not Stage.RETIRE
    )


_FOLLOWING = {Stage.ANNOUNCE: Stage.SWITCH, Stage.SWITCH: Stage.RETIRE, Stage.RETIRE: Stage.ANNOUNCE}


class _Step(Struct, frozen=True):
    stage: Stage
    authority_id: str
    at: datetime


def _key(kind: CaType) -> str:
    return f"ca_rotated_{kind.value}"


def _last_step(tx: Transaction, kind: CaType) -> _Step | None:
    stored = tx.value(_key(kind))
    if stored is None:
        return None
    stage, authority_id, at = json.loads(stored)
    return _Step(Stage(stage), authority_id, datetime.fromisoformat(at))


def _check_wait(last: _Step, now: datetime, grace: timedelta) -> None:
    if now < last.at + grace:
        until = (last.at + grace).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise Conflict(
            f"the step before was at {last.at:%Y-%m-%dT%H:%M:%SZ}: whoever has not renewed since has not "
            f"heard of it. Wait until {until} ({format_duration(grace)}), or give --now"
        )


def _shown(authority: StoredAuthority) -> str:
    if authority.kind == CaType.SERVER.value:
        return spki_pin(x509.load_pem_x509_certificate(authority.public))
    return keys.fingerprint(authority.public)
