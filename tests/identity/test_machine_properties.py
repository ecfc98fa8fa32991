"""Whatever is lost, crashes or is refused, and in whatever order: what the daemon never does."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mezite.core.request import JoinRequest, RenewRequest
from mezite.errors import InvalidInput, Reason, ReasonClass, Refused
from mezite.identity.events import RenewNow, Stop, Tick
from mezite.identity.records import Durable
from mezite.identity.states import Options, Phase
from tests.harness import Auth
from tests.identity.fakes import LOST_REPLY, LOST_REQUEST, Crash, Rig, keys_of

REFUSALS = [reason for reason in Reason if reason is not Reason.PROVE]
FAULTS = st.one_of(
    st.sampled_from([LOST_REQUEST, LOST_REPLY]),
    st.sampled_from(REFUSALS).map(lambda reason: Refused(reason, "no")),
    st.just(Refused(Reason.PROVE, "prove it", nonce=b"\1" * 32)),
    st.just(InvalidInput("unreadable")),
)


class DaemonUnderFaults(RuleBasedStateMachine):
    """A daemon with one or two tokens against the real server.

    Besides the checks below, the rig itself asserts that what is published is on the disk.
    """

    @initialize()
    def begin(self) -> None:
        self.auth = Auth()
        bot = self.auth.add_bot()
        self.tokens = [self.auth.add_token(bot, ttl=timedelta(days=300)) for _ in range(2)]
        self.rig = Rig(self.auth, Options(token=self.tokens[0]))
        self.is_on = False
        self.checked = 0
        self.asked_for: dict[object, set[tuple[bytes, ...]]] = defaultdict(set)
        self.history: list[Durable] = []

    def teardown(self) -> None:
        if hasattr(self, "auth"):
            self.auth.close()

    def run_it(self, what: object) -> None:
        try:
            what()
        except Crash:
            self.is_on = False

    @rule(second_token=st.booleans(), one_shot=st.booleans())
    def start(self, second_token: bool, one_shot: bool) -> None:
        self.is_on = True
        token = self.tokens[int(second_token)]
        self.run_it(lambda: self.rig.restart(token=token, one_shot=one_shot))

    @rule(length=st.sampled_from([1, 60, 1800, 7200]))
    def pass_time(self, length: int) -> None:
        self.rig.advance(timedelta(seconds=length))
        if self.is_on:
            self.run_it(lambda: self.rig.feed(Tick()))

    @rule()
    def renew_now(self) -> None:
        if self.is_on:
            self.run_it(lambda: self.rig.feed(RenewNow()))

    @rule(fault=FAULTS, count=st.integers(1, 3))
    def go_wrong(self, fault: object, count: int) -> None:
        self.rig.faults.extend([fault] * count)

    @rule(after=st.integers(0, 8))
    def crash(self, after: int) -> None:
        self.rig.crash_in = after

    @rule()
    def disk_fails(self) -> None:
        self.rig.save_fails = 1

    @rule(room=st.booleans())
    def room(self, room: bool) -> None:
        self.rig.destination.has_room = room

    @rule()
    def stop(self) -> None:
        if self.is_on:
            self.run_it(lambda: self.rig.feed(Stop()))
        self.is_on = False

    # --- what never happens -----------------------------------------------------------------

    @invariant()
    def one_set_of_keys_for_each_generation_and_token(self) -> None:
        if not hasattr(self, "rig"):
            return
        for ask in self.rig.asked[self.checked :]:
            request = ask.request
            if isinstance(request, JoinRequest):
                goal: object = request.token_id
            else:
                goal = (request.instance_id, request.generation + 1)
            self.asked_for[goal].add(keys_of(request))
            assert len(self.asked_for[goal]) == 1, f"other keys were asked for as {goal}"

    @invariant()
    def keys_are_on_the_disk_before_they_are_sent(self) -> None:
        if not hasattr(self, "rig"):
            return
        for ask, disk in zip(
            self.rig.asked[self.checked :], self.rig.on_disk_when_asked[self.checked :], strict=True
        ):
            kept = (
                disk.join_keys(ask.request.token_id)
                if isinstance(ask.request, JoinRequest)
                else disk.pending
            )
            assert keys_of(ask.request) == (kept.lineage.public, *(key.pair.public for key in kept.ssh))

    @invariant()
    def a_token_is_used_only_where_the_state_is_over(self) -> None:
        if not hasattr(self, "rig"):
            return
        for disk, ask in zip(
            self.rig.on_disk_when_asked[self.checked :], self.rig.asked[self.checked :], strict=True
        ):
            if isinstance(ask.request, JoinRequest):
                assert ask.request.token_id not in disk.redeemed
                if disk.held is not None:
                    assert any(
                        refused.reason.reason_class is not ReasonClass.RETRY for refused in self.rig.refusals
                    )
            else:
                assert isinstance(ask.request, RenewRequest)
                assert disk.held.generation == ask.request.generation
        self.checked = len(self.rig.asked)

    @invariant()
    def nobody_is_locked(self) -> None:
        """One machine alone is never taken for two, whatever went wrong."""
        if hasattr(self, "auth"):
            assert self.auth.locks() == ()

    @invariant()
    def it_never_falls_behind_the_server(self) -> None:
        """At most one generation, whose keys it still has."""
        if not hasattr(self, "rig") or self.rig.disk.held is None:
            return
        held = self.rig.disk.held
        stored = self.auth.instance(held.instance_id)
        assert stored.generation - held.generation in (0, 1)
        if stored.generation > held.generation:
            assert self.rig.disk.pending is not None

    @rule()
    def in_the_end_it_recovers(self) -> None:
        """Once nothing goes wrong any more, a daemon holds a good certificate again."""
        self.rig.faults.clear()
        self.rig.crash_in, self.rig.save_fails, self.rig.destination.has_room = None, 0, True
        self.rig.restart(token=self.tokens[0], one_shot=False)
        self.is_on = True
        for _ in range(4):
            self.rig.advance(timedelta(minutes=6))
            self.rig.feed(Tick())
        assert self.rig.state.phase is Phase.HOLDING
        held = self.rig.disk.held
        assert held.received_at + held.ttl > self.auth.now
        assert self.rig.destination.published()


TestDaemonUnderFaults = DaemonUnderFaults.TestCase
TestDaemonUnderFaults.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
