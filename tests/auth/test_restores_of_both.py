"""Backups of both sides put back, alone and together, in any order with renewals and lost replies.

The machine is honest and alone, so whatever comes: it is never locked while its own
directory is its newest one; it is told one of few things, each with a way out; no
serial is issued twice, no generation is held by two keys of one history, and no
token admits twice without anybody being told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from mezite.auth import older
from mezite.auth.context import Operator
from mezite.auth.restore import begin, restore
from mezite.certs import keys
from mezite.certs.ssh import parse_certificate
from mezite.core.highwater import HighWater
from mezite.core.request import Issued, TokenText
from mezite.errors import Reason, Refused
from tests.harness import Auth, Machine

OPERATOR = Operator(0, "root")
TABLES = ("cluster_values", "counters", "bots", "bot_roles", "tokens", "instances", "admissions", "locks",
          "events")
CLEARED = ("events", "locks", "admissions", "instances", "tokens", "bot_roles", "bots", "counters",
           "cluster_values")
PICK = st.integers(0, 1000)
TOLD = {Reason.GENERATION_MISMATCH, Reason.INSTANCE_UNKNOWN, Reason.EXPIRED, Reason.DATABASE_RESTORED}


class Restores(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.auth = Auth()
        self.serials: set[int] = set()
        self.holders: dict[tuple[str, int], bytes] = {}
        """Instance and generation → lineage key, since the database was put back last."""
        self.mark = HighWater(0, 0)
        self.whole_directory = False
        self.admitted: dict[str, int] = {}
        self.told_of_copy = False
        self.bot = self.auth.add_bot(renewable_for=timedelta(days=7))
        self.server_starts()
        self.machine = Machine(self.auth)
        token = self.auth.add_token(self.bot, ttl=timedelta(days=80))
        self.hear(self.machine, self.auth.join(*self.machine.join_request(token)))
        self.unused = self.auth.add_token(self.bot, ttl=timedelta(days=80))
        self.copies: list[Machine] = []
        self.backups: list[tuple[dict[str, list[Any]], HighWater]] = []
        self.is_newest = True
        """The machine's directory has never been put back to before something it was given."""

    def teardown(self) -> None:
        if hasattr(self, "auth"):
            try:
                if hasattr(self, "machine"):
                    self.check_the_end()
            finally:
                self.auth.close()

    # --- what is looked after ---------------------------------------------------------------------

    def note(self) -> None:
        """What the mark's file holds after a commit."""
        newest = self.auth.write(lambda tx: tx.newest_event())
        self.mark = HighWater(max(self.mark.events, newest), self.mark.serials)

    def hear(self, machine: Machine, outcome: Issued | Refused) -> bool:
        self.note()
        if isinstance(outcome, Refused):
            assert outcome.reason in TOLD | {Reason.PROVE}, outcome
            if outcome.reason is Reason.GENERATION_MISMATCH:
                assert not self.is_newest, "an honest machine was locked"
            return False
        for blob in outcome.certificates:
            serial = parse_certificate(blob).serial
            assert serial not in self.serials, "a serial was issued twice"
            self.serials.add(serial)
        key = keys.public_blob(machine.pending.lineage)
        holder = self.holders.setdefault((outcome.instance_id, outcome.generation), key)
        assert holder == key, "two keys hold one generation"
        machine.accept(outcome)
        return True

    def ask(self, *, loses_reply: bool = False) -> None:
        outcome = self.machine.try_renew()
        if isinstance(outcome, Refused) and outcome.reason is Reason.PROVE:
            outcome = self.machine.try_renew(outcome.nonce)
        if loses_reply and isinstance(outcome, Issued):
            self.note()
            for blob in outcome.certificates:
                self.serials.add(parse_certificate(blob).serial)
            return
        self.hear(self.machine, outcome)

    def server_starts(self, *, without_mark: bool = False) -> None:
        mark = None if without_mark else self.mark
        self.auth.write(
            lambda tx: begin(
                self.auth.context, tx, self.auth.now, clock_is_good=True, mark=mark, has_mark=True
            )
        )
        self.note()

    # --- what happens -----------------------------------------------------------------------------

    @rule()
    def renews(self) -> None:
        self.ask()

    @rule()
    def a_reply_is_lost(self) -> None:
        self.ask(loses_reply=True)

    @rule(seconds=st.sampled_from([1, 600, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.auth.now += timedelta(seconds=seconds)

    @rule()
    def the_machine_is_backed_up(self) -> None:
        self.copies.append(replace(self.machine))

    @rule()
    def the_database_is_backed_up(self) -> None:
        def read(tx: Any) -> dict[str, list[Any]]:
            return {table: tx._all(f"select * from {table}") for table in TABLES}

        self.backups.append((self.auth.write(read), self.mark))

    def put_machine_back(self, which: int) -> None:
        copy = self.copies[which % len(self.copies)]
        if copy.generation < self.machine.generation or copy.pending is not self.machine.pending:
            self.is_newest = False
        self.machine = replace(copy)

    def put_database_back(self, which: int, *, with_mark: bool) -> None:
        rows, mark = self.backups[which % len(self.backups)]

        def write(tx: Any) -> None:
            for table in CLEARED:
                tx._change("", f"delete from {table}")
            for table in TABLES:
                for row in rows[table]:
                    tx._change("", f"insert into {table} values ({', '.join('?' * len(row))})", *row)

        self.auth.write(write)
        self.holders.clear()
        lost_something = self.mark.events > mark.events
        if with_mark:
            self.mark = mark
        self.auth.now += timedelta(seconds=1)
        self.server_starts()
        if lost_something and not with_mark:
            assert self.auth.write(older.older_copy) is not None, "an older copy went unnoticed"

    @precondition(lambda self: self.copies)
    @rule(which=PICK)
    def the_machine_is_put_back(self, which: int) -> None:
        self.put_machine_back(which)

    @precondition(lambda self: self.backups)
    @rule(which=PICK, with_mark=st.booleans())
    def the_database_is_put_back(self, which: int, with_mark: bool) -> None:
        self.put_database_back(which, with_mark=with_mark)

    @precondition(lambda self: self.backups and self.copies)
    @rule(which=PICK, other=PICK, with_mark=st.booleans())
    def both_are_put_back(self, which: int, other: int, with_mark: bool) -> None:
        self.put_machine_back(other)
        self.put_database_back(which, with_mark=with_mark)

    @rule()
    def the_operator_says_so(self) -> None:
        self.auth.now += timedelta(seconds=1)
        self.auth.write(lambda tx: restore(self.auth.context, tx, OPERATOR))
        self.note()
        assert self.auth.write(older.older_copy) is None

    @rule()
    def somebody_shows_the_unused_token(self) -> None:
        """While the copy is known to be one, and after the word, it admits nobody again."""
        stranger = Machine(self.auth)
        known = self.auth.write(older.older_copy)
        outcome = self.auth.join(*self.join_request(stranger, self.unused))
        self.note()
        if known is not None:
            assert isinstance(outcome, Refused)
            assert outcome.reason is Reason.DATABASE_RESTORED
        if isinstance(outcome, Issued):
            for blob in outcome.certificates:
                self.serials.add(parse_certificate(blob).serial)

    def join_request(self, machine: Machine, token: TokenText) -> Any:
        machine.wishes = replace(machine.wishes, client_time=self.auth.now)
        return machine.join_request(token)

    # --- in the end -------------------------------------------------------------------------------

    def check_the_end(self) -> None:
        """With the operator's word the machine goes on, or is told what helps; a new token always does."""
        self.the_operator_says_so()
        before = self.machine.generation
        self.ask()
        if self.machine.generation == before:
            outcome = self.machine.try_renew()
            assert isinstance(outcome, Refused)
            assert outcome.reason in TOLD - {Reason.DATABASE_RESTORED}
            assert outcome.reason is not Reason.GENERATION_MISMATCH or not self.is_newest
        fresh = Machine(self.auth)
        token = self.auth.add_token(self.auth.write(lambda tx: tx.bot("github-deploy")))
        self.hear(fresh, self.auth.join(*self.join_request(fresh, token)))
        assert fresh.generation == 1


TestRestores = Restores.TestCase
TestRestores.settings = settings(
    max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
