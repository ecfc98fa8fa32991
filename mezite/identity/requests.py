"""What the daemon asks the server for, for machine.py."""

from __future__ import annotations

from mezite.core.request import JoinRequest, RenewRequest, Wishes
from mezite.identity.events import Moment
from mezite.identity.records import GenerationKeys
from mezite.identity.states import Purpose, State


def request_for(state: State, keys: GenerationKeys, now: Moment) -> JoinRequest | RenewRequest:
    """The request for *keys* that *state*'s purpose is; only the wishes' time differs from the last one."""
    options, held = state.options, state.durable.held
    wishes = Wishes(options.ttl, options.interval, now.wall, options.host, options.boot_id)
    if state.purpose is Purpose.JOIN:
        assert options.token is not None
        token = options.token
        return JoinRequest(
            token.id, token.secret, keys.lineage.public, keys.ssh_keys(options.outputs), wishes
        )
    assert held is not None
    return RenewRequest(
        instance_id=held.instance_id,
        generation=held.generation,
        lineage_key=held.keys.lineage.public,
        certificate=held.certificates[0],
        new_lineage_key=keys.lineage.public,
        ssh_keys=keys.ssh_keys(options.outputs),
        wishes=wishes,
    )
