"""The server at a glance: what its database says, and what its process knows of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from mezite.admin import records
from mezite.admin.auth_methods import Method, Run
from mezite.admin.caller import Caller
from mezite.admin.params import Params
from mezite.admin.records import Object
from mezite.auth import admin, rotation
from mezite.auth.context import Context, Operator
from mezite.auth.timekeeping import ClockGuard


class ServerFacts(Struct, frozen=True):
    """Of the process that answers; what may change is asked anew each time."""

    started_at: datetime
    workers: int
    driver: str
    database: str
    """Where it is, as messages call it; without a password."""
    refusals: Callable[[], Mapping[str, int]]
    """Counted by reason since the start."""
    is_encrypted: Callable[[], bool]
    """Whether the CA keys lie encrypted in the database."""
    not_ready_reason: Callable[[], Awaitable[str | None]]
    """As ``/readyz`` tells it."""


def status_methods(context: Context, run: Run, guard: ClockGuard, facts: ServerFacts) -> dict[str, Method]:
    async def status(caller: Caller, values: Mapping[str, Any]) -> Object:
        Params(values)
        reason = await facts.not_ready_reason()
        found, under_way = await run(
            lambda tx: (admin.status(context, tx), rotation.under_way(tx)), write=False
        )
        return {
            "ready": reason is None,
            "not_ready_reason": reason,
            **records.status(
                found, clock_fault=guard.fault(), refusals=facts.refusals(), encrypted=facts.is_encrypted()
            ),
            "started_at": records.when(facts.started_at),
            "workers": facts.workers,
            "database": {"driver": facts.driver, "where": facts.database},
            "rotations": [
                {
                    "type": one.kind.value, "stage": one.stage.value, "at": records.when(one.at),
                    "next_stage": one.next_stage.value,
                }
                for one in under_way
            ],
        }

    async def clock_accept(caller: Caller, values: Mapping[str, Any]) -> Object:
        Params(values)
        operator = Operator(caller.uid, caller.name)

        accepted = await run(lambda tx: admin.accept_clock(context, tx, operator, guard), write=True)
        guard.hold(accepted)
        return {"server_time": records.when(accepted.at)}

    return {"status": status, "clock.accept": clock_accept}
