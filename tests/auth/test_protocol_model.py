"""The protocol as a whole: real rules on both sides, a network that does what it likes, and a thief.

Daemons (the pure machine of mezite.identity.machine, with its disk) speak with
the use cases of the server.  Between them messages are lost, repeated, held back
and reordered; processes die between any two of their actions and start again
from their disks; anybody's disk may be copied at any moment, and the server's
database be put back to an earlier one.  What holds nevertheless is what
docs/protocol.md promises, by its numbers there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from mezite.auth import older
from mezite.auth.admin_instances import recover_instance
from mezite.auth.context import Operator
from mezite.certs import keys
from mezite.core.model import Lock
from mezite.core.request import (
    JOIN,
    LEAVE,
    RENEW,
    Issued,
    JoinRequest,
    LeaveRequest,
    RenewRequest,
    Signed,
    signed_bytes,
)
from mezite.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Reason,
    Refused,
    StateFailure,
    Unreachable,
)
from mezite.identity.events import (
    Answered,
    Ask,
    CheckDestination,
    DestinationReady,
    Event,
    KeysMade,
    MakeKeys,
    Moment,
    Publish,
    Published,
    RenewNow,
    Save,
    Saved,
    SaveFailed,
    Start,
    Tick,
    Unanswered,
    WasRefused,
)
from mezite.identity.machine import step
from mezite.identity.records import Durable
from mezite.identity.service import make_keys
from mezite.identity.states import Options, Phase, State
from mezite.rpc import messages
from tests.harness import START, Auth

Request = JoinRequest | RenewRequest
Outcome = Issued | Refused
TABLES = ("tokens", "instances", "admissions", "locks")
PICK = st.integers(0, 1000)
"""Chooses one of those that are there."""


@dataclass(frozen=True)
class Message:
    """A request on its way, and which of its sender's questions it is."""

    sender: Daemon
    question: int
    request: Request
    signed: Signed


@dataclass(frozen=True)
class Reply:
    message: Message
    outcome: Outcome


class Daemon:
    """A machine's process and its disk; a thief's, where it has an *owner*.

    A thief runs the same program on a copy, or one that never proves itself.
    """

    def __init__(self, world: World, options: Options, disk: Durable, owner: Daemon | None = None) -> None:
        self.world = world
        self.options = options
        self.disk = disk
        self.owner = owner
        self.proves = True
        self.state: State | None = None
        """``None``: no process runs."""
        self.made: set[bytes] = set()
        """Every lineage key that it has made."""
        self.question = 0
        self.waits = False
        self.crash_in: int | None = None
        self.saves_fail = 0

    def moment(self) -> Moment:
        now = self.world.auth.now
        return Moment(now - START, now, 0.5)

    def start(self) -> None:
        self.state, self.waits, self.crash_in = State(self.options, self.disk), False, None
        self.feed(Start())

    def crash(self) -> None:
        self.state, self.waits = None, False

    def feed(self, event: Event) -> None:
        events = deque([event])
        while events and self.state is not None:
            self.state, actions = step(self.state, events.popleft(), self.moment())
            for action in actions:
                if self.crash_in is not None:
                    self.crash_in -= 1
                    if self.crash_in < 0:
                        self.crash_in = None
                        self.crash()
                        return
                self._perform(action, events)

    def _perform(self, action: Any, events: deque[Event]) -> None:
        match action:
            case MakeKeys():
                new = make_keys()
                self.made.add(new.lineage.public)
                events.append(KeysMade(new))
            case Save() if self.saves_fail:
                self.saves_fail -= 1
                events.append(SaveFailed(StateFailure("input/output error")))
            case Save(durable):
                self.disk = durable
                events.append(Saved())
            case CheckDestination():
                events.append(DestinationReady())
            case Publish(held):
                assert self.disk.held == held, "published, and not on the disk"
                events.append(Published())
            case Ask():
                self._ask(action)

    def _ask(self, ask: Ask) -> None:
        key, uuid = keys.private_from_pem(ask.signer_pem, None), self.world.auth.context.cluster.uuid
        if isinstance(ask.request, JoinRequest):
            method, body = JOIN, messages.join_body(ask.request)
        else:
            method, body = RENEW, messages.renew_body(ask.request)
        signature = keys.sign(key, signed_bytes(method, uuid, ask.nonce, body))
        self.question, self.waits = self.question + 1, True
        self.world.send(Message(self, self.question, ask.request, Signed(body, signature, ask.nonce)))

    def hear(self, reply: Reply) -> None:
        """The reply; one to a question that is no longer waited for is nothing."""
        if self.state is None or not self.waits or reply.message.question != self.question:
            return
        self.waits = False
        if isinstance(reply.outcome, Issued):
            self.feed(Answered(reply.outcome))
        elif reply.outcome.reason is Reason.PROVE and not self.proves:
            self.feed(Unanswered(Unreachable("keeps quiet")))
        else:
            self.feed(WasRefused(reply.outcome))

    def time_out(self) -> None:
        if self.waits:
            self.waits = False
            self.feed(Unanswered(Unreachable("no answer in time")))


class World(RuleBasedStateMachine):
    """Two machines of one bot, what is on the network, and what has been given out."""

    @initialize()
    def begin(self) -> None:
        self.auth = Auth()
        bot = self.auth.add_bot()
        tokens = [self.auth.add_token(bot, ttl=timedelta(days=3650)) for _ in range(2)]
        self.owners = [
            Daemon(self, Options(token, server="auth:3025", host="ci"), Durable()) for token in tokens
        ]
        self.thieves: list[Daemon] = []
        self.requests: list[Message] = []
        self.replies: list[Reply] = []
        self.recorded: list[Message] = []
        self.backup: dict[str, list[Any]] | None = None
        self.holders: dict[tuple[str, int], bytes] = {}
        """Instance, generation → the lineage key it was given to, since the last restore."""
        self.owner_of: dict[str, Daemon] = {}
        """Instance → whose keys joined as it."""
        for owner in self.owners:
            owner.start()
        # The other one's join is on its way still.
        self.settle(self.owners[0])

    def teardown(self) -> None:
        try:
            if hasattr(self, "owners"):
                self.check_the_end()
        finally:
            if hasattr(self, "auth"):
                self.auth.close()

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.owners, *self.thieves]

    # --- the network, and the server at its end -----------------------------------------------

    def send(self, message: Message) -> None:
        self.requests.append(message)
        self.recorded.append(message)

    def judge(self, message: Message) -> Outcome:
        """What the server says; every promise is looked after here."""
        locked = self.locked()
        if isinstance(message.request, JoinRequest):
            outcome = self.auth.join(message.request, message.signed)
            new_key = message.request.lineage_key
        else:
            is_ahead = self.is_ahead(message.request)
            outcome = self.auth.renew(message.request, message.signed)
            new_key = message.request.new_lineage_key
            if is_ahead and isinstance(outcome, Issued):
                # Adopted: what went to others since the restore is passed by, which docs/protocol.md tells.
                self.holders = {
                    held: key for held, key in self.holders.items() if held[0] != outcome.instance_id
                }
        if isinstance(outcome, Issued):
            instance = outcome.instance_id
            if instance not in self.owner_of:
                self.owner_of[instance] = next(one for one in self.owners if new_key in one.made)
            assert instance not in locked, "3: a certificate left for a locked lineage"
            holder = self.holders.setdefault((instance, outcome.generation), new_key)
            assert holder == new_key, "4: two keys hold one generation"
        for instance in self.locked() - locked:
            assert self.is_stolen(instance), "1: a machine was locked by its own messages"
        return outcome

    def is_ahead(self, request: RenewRequest) -> bool:
        stored = self.auth.write(lambda tx: tx.instance(request.instance_id))
        return stored is not None and request.generation > stored.generation

    def locked(self) -> set[str]:
        locks: tuple[Lock, ...] = self.auth.locks()
        return {lock.target.value for lock in locks if lock.is_final}

    def is_stolen(self, instance: str) -> bool:
        return any(thief.owner is self.owner_of[instance] for thief in self.thieves)

    def settle(self, daemon: Daemon) -> None:
        """Its questions are answered at once until it has none: how it mostly is."""
        for _ in range(6):
            mine = [one for one in self.requests if one.sender is daemon and one.question == daemon.question]
            if not (mine and daemon.waits):
                return
            self.requests.remove(mine[0])
            daemon.hear(Reply(mine[0], self.judge(mine[0])))

    @rule(which=PICK)
    def renew_well(self, which: int) -> None:
        daemon = self.daemons[which % len(self.daemons)]
        daemon.feed(RenewNow())
        self.settle(daemon)

    @rule(which=PICK)
    def ask(self, which: int) -> None:
        self.daemons[which % len(self.daemons)].feed(RenewNow())

    @precondition(lambda self: self.requests)
    @rule(which=PICK, repeated=st.booleans())
    def a_request_arrives(self, which: int, repeated: bool) -> None:
        message = self.requests[which % len(self.requests)]
        if not repeated:
            self.requests.remove(message)
        self.replies.append(Reply(message, self.judge(message)))

    @precondition(lambda self: self.requests)
    @rule(which=PICK)
    def a_request_is_lost(self, which: int) -> None:
        self.requests.pop(which % len(self.requests))

    @precondition(lambda self: self.replies)
    @rule(which=PICK)
    def a_reply_arrives(self, which: int) -> None:
        reply = self.replies.pop(which % len(self.replies))
        reply.message.sender.hear(reply)

    @rule(which=PICK)
    def a_reply_takes_too_long(self, which: int) -> None:
        self.daemons[which % len(self.daemons)].time_out()

    @precondition(lambda self: self.recorded)
    @rule(which=PICK)
    def a_recorded_request_comes_again(self, which: int) -> None:
        self.judge(self.recorded[-1 - which % len(self.recorded)])

    @rule(length=st.sampled_from([1, 61, 1800, 7200]))
    def time_passes(self, length: int) -> None:
        self.auth.now += timedelta(seconds=length)
        for daemon in self.daemons:
            daemon.feed(Tick())

    @rule()
    def a_fortnight_passes(self) -> None:
        """Longer than a lineage renews by itself."""
        self.time_passes(14 * 86_400)

    @rule()
    def an_operator_recovers_whoever_is_expired(self) -> None:
        for instance in sorted(self.owner_of):
            self.recover(instance)

    def recover(self, instance: str) -> None:
        """As `mezctl instances recover` does, where it would."""

        def use_case(tx: Any) -> None:
            try:
                recover_instance(self.auth.context, tx, Operator(0, "root"), instance)
            except (Conflict, NotFound):
                return

        self.auth.write(use_case)

    # --- processes and disks ------------------------------------------------------------------

    @rule(which=PICK, after=st.integers(0, 5))
    def will_crash(self, which: int, after: int) -> None:
        self.daemons[which % len(self.daemons)].crash_in = after

    @rule(which=PICK)
    def restart(self, which: int) -> None:
        self.daemons[which % len(self.daemons)].start()

    @rule(which=PICK)
    def a_save_will_fail(self, which: int) -> None:
        self.daemons[which % len(self.daemons)].saves_fail = 1

    @precondition(lambda self: len(self.thieves) < 3)
    @rule(which=PICK, proves=st.booleans(), keeps_pending=st.booleans(), starts=st.booleans())
    def a_disk_is_copied(self, which: int, proves: bool, keeps_pending: bool, starts: bool) -> None:
        victim = self.daemons[which % len(self.daemons)]
        if victim.disk.held is None and not victim.disk.joins:
            return  # a token and no keys: that is somebody who joins first
        disk = victim.disk if keeps_pending else replace(victim.disk, pending=None)
        thief = Daemon(self, victim.options, disk, victim.owner or victim)
        thief.proves = proves
        self.thieves.append(thief)
        if starts:
            thief.start()

    @precondition(lambda self: self.thieves)
    @rule(which=PICK, renews=st.booleans())
    def a_thief_leaves(self, which: int, renews: bool) -> None:
        """He takes what he wants, and ends the lineage with the newest keys that he has."""
        thief = self.thieves[which % len(self.thieves)]
        if renews:
            thief.start()
            thief.feed(RenewNow())
            self.settle(thief)
        held = thief.disk.held
        if held is None:
            return
        pair = held.keys.lineage
        request = LeaveRequest(held.instance_id, held.generation, pair.public, held.certificates[0])
        body, uuid = messages.leave_body(request), self.auth.context.cluster.uuid
        key = keys.private_from_pem(pair.private_pem, None)
        locked = self.locked()
        self.auth.leave(request, Signed(body, keys.sign(key, signed_bytes(LEAVE, uuid, b"", body))))
        assert self.locked() == locked

    # --- the server's database, and strangers -------------------------------------------------

    @rule()
    def the_database_is_backed_up(self) -> None:
        def read(tx: Any) -> dict[str, list[Any]]:
            return {table: tx._all(f"select * from {table}") for table in TABLES}

        self.backup = self.auth.write(read)

    @precondition(lambda self: self.backup)
    @rule()
    def the_database_is_restored(self) -> None:
        backup = self.backup
        assert backup is not None

        def write(tx: Any) -> None:
            for table, rows in backup.items():
                tx._change("", f"delete from {table}")
                for row in rows:
                    tx._change("", f"insert into {table} values ({', '.join('?' * len(row))})", *row)
            # A server starts on a restored database, and holds nothing of the one before.
            tx._policy.forget()

        self.auth.write(write)
        self.holders.clear()

    @precondition(lambda self: self.recorded)
    @rule(which=PICK, at=PICK, what=st.sampled_from(["key", "nonce", "body", "signature"]))
    def a_stranger_tries(self, which: int, at: int, what: str) -> None:
        """With all that was ever sent, and without a lineage key."""
        message = self.recorded[which % len(self.recorded)]
        signed = message.signed
        if what == "key":
            method = JOIN if isinstance(message.request, JoinRequest) else RENEW
            data = signed_bytes(method, self.auth.context.cluster.uuid, signed.nonce, signed.body)
            signed = replace(signed, signature=keys.sign(keys.generate_key(), data))
        elif what == "nonce":
            signed = replace(signed, nonce=bytes(40))
        elif what == "body":
            index = at % len(signed.body)
            changed = bytes([signed.body[index] ^ 1])
            signed = replace(signed, body=signed.body[:index] + changed + signed.body[index + 1 :])
        else:
            other = self.recorded[at % len(self.recorded)].signed
            if other.body == signed.body:
                return
            signed = replace(signed, signature=other.signature, nonce=other.nonce)
        before = self.snapshot()
        try:
            if isinstance(message.request, JoinRequest):
                outcome = self.auth.join(messages.join_request_from(signed.body), signed)
            else:
                outcome = self.auth.renew(messages.renew_request_from(signed.body), signed)
        except InvalidInput:
            return
        assert isinstance(outcome, Refused)
        assert outcome.reason in (Reason.BAD_PROOF, Reason.INVALID_REQUEST)
        assert self.snapshot() == before, "5: a stranger changed something"

    def snapshot(self) -> Any:
        return self.auth.write(lambda tx: [tx._all(f"select * from {table}") for table in TABLES])

    # --- in the end ---------------------------------------------------------------------------

    def check_the_end(self) -> None:
        """The network is well again, and each machine renews once more."""
        self.requests.clear()
        for daemon in self.daemons:
            daemon.saves_fail = 0
        for owner in self.owners:
            self.check_owner(owner)
        locked = self.locked()
        for message in self.recorded[-20:]:
            self.judge(message)
        for daemon in self.daemons:
            daemon.start()
            self.settle(daemon)
            daemon.feed(RenewNow())
            self.settle(daemon)
        assert locked <= self.locked()

    def check_owner(self, owner: Daemon) -> None:
        # What an operator does after a restore, but for the tokens, which are to be used here.
        self.auth.write(older.declared)
        for instance, whose in self.owner_of.items():
            if whose is owner:
                self.recover(instance)
        owner.start()
        self.settle(owner)
        owner.feed(RenewNow())
        self.settle(owner)
        assert owner.state is not None
        held = owner.disk.held
        mine = [instance for instance, whose in self.owner_of.items() if whose is owner]
        instance = held.instance_id if held is not None else mine[-1]
        stored = self.auth.write(lambda tx: tx.instance(instance))
        if stored is None:
            # It joined after the backup was made.
            assert owner.state.phase is Phase.ENDED
            return
        given = {key for (whose, _), key in self.holders.items() if whose == instance}
        if given - owner.made:
            assert instance in self.locked(), "3: the owner's renewal did not show the thief's"
        if instance in self.locked() or stored.removed_at is not None:
            assert owner.state.phase is Phase.ENDED
            return
        assert owner.state.phase is Phase.HOLDING, "2: a machine does not go on"
        assert held is not None
        assert held.generation == stored.generation
        assert keys.fingerprint(held.keys.lineage.public) == stored.lineage_key
        assert held.received_at + held.ttl > self.auth.now


TestProtocol = World.TestCase
TestProtocol.settings = settings(
    max_examples=40, stateful_step_count=35, suppress_health_check=list(HealthCheck)
)
