"""Several outputs: all in one renewal, and what becomes of them when the settings change."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.core.request import RenewRequest
from mezite.errors import StateFailure
from mezite.identity import codec
from mezite.identity.destination import Memory
from mezite.identity.events import Tick
from mezite.identity.outputs import Outputs
from mezite.identity.places import Outlets
from mezite.identity.records import ONE_OUTPUT, Wanted
from tests.harness import Auth
from tests.identity.fakes import LOST_REPLY, Rig, joined_rig
from tests.identity.making import durable

TWO = (*ONE_OUTPUT, Wanted("logs", ("ci-deployer",), timedelta(minutes=20)))
SECOND = timedelta(seconds=1)


def asked(rig: Rig) -> list[tuple[str, ...]]:
    """The outputs of each request, in order."""
    return [tuple(key.output for key in ask.request.ssh_keys) for ask in rig.asked]


def held_outputs(rig: Rig) -> tuple[str, ...]:
    assert rig.disk.held is not None
    return tuple(key.output for key in rig.disk.held.keys.ssh)


def test_one_renewal_for_all(auth: Auth) -> None:
    rig = joined_rig(auth, outputs=TWO)
    held = rig.disk.held
    assert held is not None
    assert held_outputs(rig) == ("default", "logs")
    assert held.ttl == timedelta(minutes=20), "the shortest certificate decides"
    rig.advance(timedelta(minutes=10))
    rig.feed(Tick())
    assert (rig.generation, len(rig.asked)) == (2, 2)


def test_an_output_that_was_added_is_asked_for_at_once(auth: Auth) -> None:
    """And one that was taken away is asked for no more."""
    rig = joined_rig(auth)
    rig.restart(token=None, outputs=TWO)
    assert (rig.generation, held_outputs(rig)) == (2, ("default", "logs"))
    rig.restart(outputs=ONE_OUTPUT)
    assert (rig.generation, held_outputs(rig)) == (3, ("default",))
    rig.restart()
    assert rig.generation == 3, "nothing has changed"


def test_other_roles_or_ttl_are_asked_for_at_once(auth: Auth) -> None:
    rig = joined_rig(auth, outputs=TWO)
    rig.restart(token=None, outputs=(TWO[0], replace(TWO[1], ttl=timedelta(minutes=10))))
    assert rig.generation == 2
    assert rig.disk.held is not None
    assert rig.disk.held.ttl == timedelta(minutes=10)


def test_keys_asked_for_before_the_change_are_asked_for_to_the_end(auth: Auth) -> None:
    """Their reply was lost: other keys would look like a fork.  The new ones follow at once."""
    rig = joined_rig(auth)
    rig.faults.append(LOST_REPLY)
    rig.advance(timedelta(minutes=40))
    rig.feed(Tick())
    rig.restart(token=None, outputs=TWO)
    assert asked(rig) == [("default",)] * 3
    assert (rig.generation, auth.locks()) == (2, ())
    for _ in range(3):
        rig.advance(SECOND)
        rig.feed(Tick())
    assert asked(rig)[3:] == [("default", "logs")]
    assert (rig.generation, held_outputs(rig), auth.locks()) == (3, ("default", "logs"), ())


def test_a_server_that_ignores_roles_gets_its_answer_refused(auth: Auth) -> None:
    """Better no certificate than one that can do more than was asked for."""
    rig = joined_rig(auth)
    fewer = (*ONE_OUTPUT, Wanted("logs", ("other-role",)))
    rig.options = replace(rig.options, outputs=fewer)

    answer = rig._answer

    def ignoring(action: object) -> object:
        request = action.request  # type: ignore[attr-defined]
        assert isinstance(request, RenewRequest)
        plain = tuple(replace(key, roles=None) for key in request.ssh_keys)
        return answer(replace(action, request=replace(request, ssh_keys=plain)))  # type: ignore[type-var]

    rig._answer = ignoring  # type: ignore[method-assign,assignment]
    rig.restart(token=None)
    assert rig.generation == 1
    assert "fewer roles" in str(rig.state.trouble)


def test_the_state_of_an_older_mezd_is_read() -> None:
    """It asked for one output, and does not say so."""
    text = codec.encode(durable())
    old = text.replace(b',"asked_outputs":[["default",null,null]]', b"")
    assert old != text
    assert codec.decode(old) == codec.decode(text)


def test_every_place_that_can_has_it(auth: Auth) -> None:
    """One that is full keeps the others from nothing, and is told of."""
    held = joined_rig(auth, outputs=TWO).disk.held
    assert held is not None
    full, good, later = Memory(), Memory(), Memory()
    full.has_room = False
    outlets = Outlets({"default": [full], "logs": [good], "not yet": [later]})
    with pytest.raises(StateFailure, match="no room"):
        outlets.publish(held, timedelta(0))
    assert outlets.served == ("logs",)
    assert good.published()["ssh_key-cert.pub"] == Outputs.from_held(held, "logs").certificate
    assert later.published() == {}
    full.has_room = True
    outlets.publish(held, timedelta(0))
    assert outlets.served == ("default", "logs")
