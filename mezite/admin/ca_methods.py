"""`ca.rotate` and `ca.sign_host` on the operator socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mezite.admin.auth_methods import Method, Run
from mezite.admin.caller import Caller
from mezite.admin.params import Params
from mezite.admin.records import Object, when
from mezite.auth.admin import CaType
from mezite.auth.context import Context, Operator
from mezite.auth.hosts import sign_host
from mezite.auth.rotation import DEFAULT_GRACE, Stage, rotate


def ca_methods(
    context: Context, run: Run, passphrase: bytes | None, reload: Callable[[], Awaitable[None]]
) -> dict[str, Method]:
    """*passphrase* encrypts the new key; *reload* makes this process sign and trust by what
    the database says now."""

    async def ca_rotate(caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "type", "stage", "grace_period", "now")
        kind = CaType(params.choice("type", [one.value for one in CaType]))
        named = params.optional_text("stage")
        stage = None if named is None else Stage(params.choice("stage", [one.value for one in Stage]))
        grace = params.duration("grace_period") or DEFAULT_GRACE
        in_haste = params.boolean("now")
        operator = Operator(caller.uid, caller.name)
        done = await run(
            lambda tx: rotate(
                context, tx, operator, kind, grace=grace, passphrase=passphrase, stage=stage,
                in_haste=in_haste,
            ),
            write=True,
        )
        await reload()
        return {
            "type": kind.value,
            "stage": done.stage.value,
            "fingerprint": done.fingerprint,
            "next_stage": None if done.next_stage is None else done.next_stage.value,
            "not_before": None if done.not_before is None else when(done.not_before),
        }

    async def ca_sign_host(caller: Caller, values: Mapping[str, Any]) -> Object:
        params = Params(values, "public_key", "principals", "ttl")
        public_key, principals = params.text("public_key"), params.texts("principals")
        ttl, operator = params.duration("ttl"), Operator(caller.uid, caller.name)
        signed = await run(
            lambda tx: sign_host(context, tx, operator, public_key, principals, ttl), write=True
        )
        return {
            "certificate": signed.text,
            "key": signed.key,
            "ca_key": signed.ca_key,
            "serial": signed.serial,
            "principals": list(signed.names),
            "valid_before": when(signed.not_after),
        }

    return {"ca.rotate": ca_rotate, "ca.sign_host": ca_sign_host}
