"""Where a renewal's time goes: the server's own path without gRPC, in this process.

CPU, not wall time, so that other work on the machine counts only by the caches it
takes.  Each figure is one request; the least is what the code costs, the median
what it costs here and now.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.measure import Row, Table
from mezite.auth.proof import prove_renew
from mezite.auth.renew import renew
from mezite.core.admission import Limits
from mezite.core.request import Issued
from mezite.proto.mezite.v1 import identity_pb2 as pb
from mezite.rpc import messages
from mezite.rpc.auth_api import AuthApi
from mezite.rpc.refusals import RefusalLog
from mezite.storage.sqlite import SqliteStorage
from mezite.threads import Doorway, Gathering
from tests.harness import PEER, Auth, Machine

AT_ONCE = 64
STAGES = ("decode", "signature and keys", "use case", "BEGIN, COMMIT and two threads", "encode")


class Call:
    """As much of gRPC's context as a renewal asks for."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:40000"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"ssl_tls_version": [b"TLSv1.3"]}


def _request(machine: Machine) -> bytes:
    _, signed = machine.renew_request()
    return pb.SignedRequest(body=signed.body, signature=signed.signature).SerializeToString()


@contextmanager
def _server(doorway: Doorway | None = None) -> Any:
    """The use cases on a database in a file, by the real clock."""
    with tempfile.TemporaryDirectory(prefix="mezite-bench.") as name:
        deliver = doorway.deliver if doorway else None
        auth = Auth(SqliteStorage(Path(name) / "mezite.db", deliver=deliver))
        auth.now = datetime.now(UTC)
        auth.context = replace(auth.context, random=os.urandom)
        try:
            yield auth
        finally:
            auth.close()


def _machines(auth: Auth, count: int) -> list[Machine]:
    token = auth.add_token(auth.add_bot(), uses=count)
    found = [Machine(auth) for _ in range(count)]
    for machine in found:
        machine.wishes = replace(machine.wishes, client_time=auth.now)
        machine.join(token)
    return found


def _by_stage(auth: Auth, machine: Machine, clock: Callable[[], float]) -> list[float]:
    """Seconds of each stage of one renewal, alone in its batch."""
    context, raw = auth.context, _request(machine)
    marks = [clock()]
    signed = messages.signed_from(pb.SignedRequest.FromString(raw))
    wanted = messages.renew_request_from(signed.body)
    marks.append(clock())
    proof = prove_renew(context, wanted, signed)
    marks.append(clock())
    inside: list[float] = []

    def use_case(tx: Any) -> Any:
        inside.append(time.thread_time())
        outcome = renew(context, tx, wanted, proof, nonce=b"", peer=PEER)
        inside.append(time.thread_time())
        return outcome

    outcome = auth.write(use_case)
    after = clock()
    transaction = inside[1] - inside[0]
    assert isinstance(outcome, Issued)
    begun = clock()
    messages.issued_message(outcome).SerializeToString()
    encoded = clock() - begun
    machine.accept(outcome)
    return [marks[1] - marks[0], marks[2] - marks[1], transaction, after - marks[2] - transaction, encoded]


async def _whole(auth: Auth, doorway: Doorway, machines: list[Machine], rounds: int) -> list[float]:
    """Seconds of CPU of this process for each renewal, through the real servicer."""
    doorway.open(asyncio.get_running_loop())
    api = AuthApi(
        auth.context,
        Gathering(doorway, auth.storage.write_together),
        lambda event: None, lambda: None, RefusalLog(), Limits(renewals_of_instance=1e6),
    )
    call: Any = Call()
    found = []
    for _ in range(rounds):
        requests = [pb.SignedRequest.FromString(_request(machine)) for machine in machines]
        started = time.process_time()
        answers = await asyncio.gather(*(api.Renew(request, call) for request in requests))
        found.append((time.process_time() - started) / len(machines))
        for machine, answer in zip(machines, answers, strict=True):
            machine.accept(messages.issued_from(answer))
    doorway.close()
    return found


def measure(quick: bool) -> list[Table]:
    rounds = 50 if quick else 1000
    with _server() as auth:
        (machine,) = _machines(auth, 1)
        stages = [_by_stage(auth, machine, time.process_time) for _ in range(rounds)]
    rows = [Row(name, [one[index] * 1e6 for one in stages]) for index, name in enumerate(STAGES)]
    for size in (1, AT_ONCE):
        doorway = Doorway()
        with _server(doorway) as auth:
            machines = _machines(auth, size)
            found = asyncio.run(_whole(auth, doorway, machines, max(5, rounds // size)))
        rows.append(Row(f"all of it, and the threads, {size} at once", [one * 1e6 for one in found]))
    return [Table("a renewal without gRPC, CPU", "µs", rows)]
