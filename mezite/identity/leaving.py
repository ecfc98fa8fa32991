"""An identity ends itself: its server first, then its files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mezite.certs import keys
from mezite.core.request import LeaveRequest, RenewRequest, Wishes
from mezite.errors import MeziteError, Reason, Refused, Unreachable, UntrustedServer
from mezite.identity import pace
from mezite.identity.answers import accept
from mezite.identity.records import Durable, Held
from mezite.identity.state import Keeps
from mezite.rpc.client import AuthClient, ServerTrust


async def leave(
    durable: Durable, state: Keeps, servers: Sequence[str], trusts: Sequence[ServerTrust]
) -> Held:
    """The identity that is over now, by the first of *servers* that answers.

    Keys that were asked for and never answered are asked for first: only the
    newest generation can end its lineage.  Done again after a lost answer it
    does no harm.  Raises as :class:`AuthClient` does; nothing is removed here.
    """
    first: MeziteError | None = None
    for server in servers:
        for trust in trusts:
            try:
                return await _leave(durable, state, server, trust)
            except (Unreachable, UntrustedServer) as error:
                first = first or error
    raise first or Unreachable("no auth server is known")


async def _leave(durable: Durable, state: Keeps, server: str, trust: ServerTrust) -> Held:
    async with AuthClient(server, trust) as client:
        held = durable.held
        assert held is not None
        if durable.pending is not None:
            held = await _finish_renewal(client, durable, held)
            state.save(durable.renewed(held))
        key = keys.private_from_pem(held.keys.lineage.private_pem, None)
        request = LeaveRequest(
            held.instance_id, held.generation, held.keys.lineage.public, held.certificates[0]
        )
        try:
            await client.leave(request, lambda data: keys.sign(key, data), held.trust.cluster_uuid)
        except Refused as refused:
            if refused.reason is Reason.PROVE:
                # Somebody has renewed this lineage since.  To prove that is the daemon's: it locks.
                raise Refused(
                    Reason.BAD_PROOF,
                    f"instance {held.instance_id} has been renewed by another holder since; "
                    "tell an operator, and let it renew once more: that proves it",
                ) from None
            if refused.reason in pace.SERVER_TROUBLE:
                raise
            raise Refused(
                refused.reason,
                f"{refused}; nothing was removed here; an operator can end it: "
                f"mezctl instances rm {held.instance_id}",
            ) from None
        return held


async def _finish_renewal(client: AuthClient, durable: Durable, held: Held) -> Held:
    assert durable.pending is not None
    key = keys.private_from_pem(held.keys.lineage.private_pem, None)
    now = datetime.now(UTC)
    request = RenewRequest(
        instance_id=held.instance_id,
        generation=held.generation,
        lineage_key=held.keys.lineage.public,
        certificate=held.certificates[0],
        new_lineage_key=durable.pending.lineage.public,
        ssh_keys=durable.pending.ssh_keys(held.asked_outputs),
        wishes=Wishes(held.asked_ttl, held.asked_interval, now),
    )
    issued = await client.renew(request, lambda data: keys.sign(key, data), held.trust.cluster_uuid)
    return accept(
        issued, request, durable.pending, cluster_uuid=held.trust.cluster_uuid, received_at=now
    )
