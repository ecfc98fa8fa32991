"""Whatever is lost, crashes or is refused, and in whatever order: what the daemon never does."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mezite.core.request import JoinRequest, RenewRequest
from mezite.errors import InvalidInput, Reason, ReasonClass, Refused
from mezite.identity.events import Removed, RenewNow, Stop, Tick
from mezite.identity.states import Options, Phase
from tests.harness import Auth
from tests.identity.fakes import LOST_REPLY, LOST_REQUEST, Crash, Rig, keys_of

FAULTS = st.one_of(
    st.sampled_from([LOST_REQUEST, LOST_REPLY, LOST_REPLY]),
    st.sampled_from([reason for reason in Reason if reason is not Reason.PROVE]).map(
        lambda reason: Refused(reason, "no")
    ),
    st.just(Refused(Reason.PROVE, "prove it", nonce=b"\1" * 32)),
    st.just(InvalidInput("unreadable")),
)


@dataclass(frozen=True)
class Step:
    """One thing that happens to the daemon, and what goes wrong meanwhile."""

    act: str
    second_token: bool
    one_shot: bool
    seconds: int
    faults: tuple[Any, ...]
    crash_in: int | None
    fail_save_in: int | None
    has_room: bool


STEPS = st.builds(
    Step,
    act=st.sampled_from(["restart", "renew", "renew", "wait", "wait", "removed", "stop"]),
    second_token=st.booleans(),
    one_shot=st.sampled_from([False, False, False, True]),
    seconds=st.sampled_from([1, 60, 1800, 7200]),
    faults=st.lists(FAULTS, max_size=3).map(tuple),
    crash_in=st.one_of(st.none(), st.none(), st.integers(0, 8)),
    fail_save_in=st.sampled_from([None, None, None, 0, 1]),
    has_room=st.sampled_from([True, True, True, False]),
)


class Life:
    """A daemon with one or two tokens against the real rules of the server.

    The rig itself asserts that what is published is on the disk.
    """

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        bot = auth.add_bot()
        self.tokens = [auth.add_token(bot, ttl=timedelta(days=300)) for _ in range(2)]
        self.rig = Rig(auth, Options(token=self.tokens[0]))
        self.is_on = False
        self.checked = 0
        self.asked_for: dict[object, set[tuple[bytes, ...]]] = defaultdict(set)

    def go_through(self, step: Step) -> None:
        rig = self.rig
        rig.faults.clear()
        rig.faults.extend(step.faults)
        rig.crash_in, rig.fail_save_in = step.crash_in, step.fail_save_in
        rig.destination.has_room = step.has_room
        rig.advance(timedelta(seconds=step.seconds))
        try:
            self._act(step)
        except Crash:
            self.is_on = False
        if rig.state.phase is Phase.ENDED:
            self.is_on = False
        self.check()

    def _act(self, step: Step) -> None:
        if not self.is_on or step.act == "restart":
            self.is_on = True
            self.rig.restart(token=self.tokens[int(step.second_token)], one_shot=step.one_shot)
        elif step.act == "renew":
            self.rig.feed(RenewNow())
        elif step.act == "wait":
            self.rig.feed(Tick())
        elif step.act == "removed":
            self.rig.destination.empty()
            self.rig.feed(Removed())
        else:
            self.rig.feed(Stop())

    def check(self) -> None:
        for index in range(self.checked, len(self.rig.asked)):
            request, disk = self.rig.asked[index].request, self.rig.on_disk_when_asked[index]
            if isinstance(request, JoinRequest):
                goal: object = request.token_id
                kept = disk.join_keys(request.token_id)
                assert request.token_id not in disk.redeemed, "a token was redeemed twice"
                if disk.held is not None:
                    assert self._is_over(index), "a token was used while the state may go on"
            else:
                assert isinstance(request, RenewRequest)
                goal, kept = (request.instance_id, request.generation + 1), disk.pending
                assert disk.held is not None
                assert disk.held.generation == request.generation
            assert kept is not None, "keys were sent that are not on the disk"
            assert keys_of(request) == (kept.lineage.public, *(key.pair.public for key in kept.ssh))
            self.asked_for[goal].add(keys_of(request))
            assert len(self.asked_for[goal]) == 1, f"other keys were asked for as {goal}"
        self.checked = len(self.rig.asked)
        # One machine alone is never taken for two, whatever went wrong.
        assert self.auth.locks() == ()
        assert self.auth.events("token_reused") == []
        self._check_generations()

    def _is_over(self, index: int) -> bool:
        """The last renewal before this request was refused for good."""
        for before in range(index - 1, -1, -1):
            if isinstance(self.rig.asked[before].request, RenewRequest):
                refused = self.rig.answers[before]
                return isinstance(refused, Refused) and refused.reason.reason_class is not ReasonClass.RETRY
        return False

    def _check_generations(self) -> None:
        """It is at most one generation behind the server, and has that one's keys."""
        held = self.rig.disk.held
        if held is not None:
            stored = self.auth.instance(held.instance_id).generation
            assert stored - held.generation in (0, 1)
            assert stored == held.generation or self.rig.disk.pending is not None

    def check_recovery(self) -> None:
        """Once nothing goes wrong any more, a daemon holds and publishes a good certificate."""
        rig = self.rig
        rig.faults.clear()
        rig.crash_in, rig.fail_save_in, rig.destination.has_room = None, None, True
        rig.restart(token=self.tokens[0], one_shot=False)
        for _ in range(4):
            rig.advance(timedelta(minutes=6))
            rig.feed(Tick())
        self.check()
        assert rig.state.phase is Phase.HOLDING
        held = rig.disk.held
        assert held is not None
        assert held.received_at + held.ttl > self.auth.now
        assert rig.destination.published()


@settings(max_examples=100)
@given(st.lists(STEPS, min_size=3, max_size=14))
def test_a_life_of_faults(steps: list[Step]) -> None:
    auth = Auth()
    try:
        life = Life(auth)
        for step in steps:
            life.go_through(step)
        life.check_recovery()
    finally:
        auth.close()
