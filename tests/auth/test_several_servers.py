"""Two servers on one database: what one does while the other is in the middle of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mezite.auth import authorities
from mezite.auth.admin_bots import remove_bot
from mezite.auth.context import Operator, Transaction
from mezite.auth.join import join
from mezite.auth.proof import prove_certificate, prove_join, prove_renew
from mezite.auth.renew import Unverified, renew
from mezite.certs import keys
from mezite.core.model import MAX_CERTIFICATE_TTL, LockKind
from mezite.core.request import Issued
from mezite.errors import Conflict, Reason, Refused, StorageFailure
from mezite.storage.interface import Admission, Storage
from tests.harness import PEER, START, Auth, Counted, Machine, Pending
from tests.system.processes import wait_for

pytestmark = pytest.mark.postgres

ANN = Operator(1000, "ann")
UseCase = Callable[[Transaction], Any]


@pytest.fixture
def auth(postgres_server: Any) -> Iterator[Auth]:
    from mezite.storage.postgres import PostgresStorage

    postgres_server.empty()
    made = Auth(PostgresStorage(postgres_server.local_params))
    yield made
    made.close()


@pytest.fixture
def second(postgres_server: Any, auth: Auth) -> Iterator[Storage]:
    """The other server's."""
    from mezite.storage.postgres import PostgresStorage

    made = PostgresStorage(postgres_server.local_params)
    yield made
    made.close()


def join_by(auth: Auth, machine: Machine, token: Any) -> UseCase:
    request, signed = machine.join_request(token)
    proof = prove_join(auth.context, request, signed)
    return lambda tx: join(auth.context, tx, request, proof, nonce=b"", peer=PEER)


def renew_by(auth: Auth, machine: Machine, nonce: bytes = b"") -> UseCase:
    request, signed = machine.renew_request(nonce)
    proof = prove_renew(auth.context, request, signed)
    certified = prove_certificate(auth.context, request, proof)

    def use_case(tx: Transaction) -> Any:
        outcome = renew(auth.context, tx, request, proof, None, nonce=nonce, peer=PEER)
        if isinstance(outcome, Unverified):
            outcome = renew(auth.context, tx, request, proof, certified, nonce=nonce, peer=PEER)
        return outcome

    return use_case


def joined(auth: Auth) -> Machine:
    machine = Machine(auth)
    machine.join(auth.add_token(auth.add_bot()))
    return machine


def copy_of(machine: Machine) -> Machine:
    """A thief's, who asks for keys of his own."""
    copied = machine.copy()
    copied.pending = Pending()
    return copied


class InTheMiddle:
    """A transaction that calls *what* once, after its first use of *method*."""

    def __init__(self, tx: Transaction, method: str, what: Callable[[], object]) -> None:
        self._tx, self._method, self._what = tx, method, what

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tx, name)
        if name != self._method:
            return found

        def call(*values: Any, **more: Any) -> Any:
            result = found(*values, **more)
            self._method = ""
            self._what()
            return result

        return call


def overtaken(storage: Storage, use_case: UseCase, method: str, by: Callable[[], object]) -> Any:
    """The outcome of *use_case* when *by* happens after *method*; run again, as a
    storage may, it is not overtaken again."""
    waiting = [by]

    def run(tx: Transaction) -> Any:
        return use_case(InTheMiddle(tx, method, waiting.pop()) if waiting else tx)  # type: ignore[arg-type]

    return storage.write(run, concurrent=True).result(30)


def is_waiting(server: Any) -> bool:
    """Whether some transaction waits for another one's lock."""
    with server.superuser("mezite") as connection:
        return bool(connection.execute(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = 'mezite'"
        ).fetchone())


def while_it_waits(
    server: Any, auth: Auth, second: Storage, first: UseCase, other: UseCase, *, alone: bool = False
) -> tuple[Any, Any]:
    """Both outcomes, when *other*, an operator's if *alone*, begins after *first* has done all but commit."""
    done, leave = threading.Event(), threading.Event()

    def held(tx: Transaction) -> Any:
        outcome = first(tx)
        done.set()
        assert leave.wait(30)
        return outcome

    one = auth.storage.write(held, concurrent=True)
    assert done.wait(30)
    two = second.write(other, concurrent=not alone)
    wait_for(lambda: is_waiting(server) or two.done(), "wait for the lock")
    leave.set()
    return one.result(30), two.result(30)


def by_both(auth: Auth, second: Storage, use_cases: list[UseCase]) -> list[Any]:
    """What comes of them, each second one asked of the other server, all at once.

    Asked again where the database was too slow, as machines do: under load, a place in
    the line for one row, or a connection, is not had within the time that there is for it.
    """
    outcomes: dict[int, Any] = {}
    deadline = time.monotonic() + 120
    while len(outcomes) < len(use_cases):
        futures = {
            number: (auth.storage if number % 2 else second).write(use_case, concurrent=True)
            for number, use_case in enumerate(use_cases) if number not in outcomes
        }
        for number, future in futures.items():
            try:
                outcomes[number] = future.result(120)
            except StorageFailure:
                if time.monotonic() > deadline:
                    raise
    return [outcomes[number] for number in range(len(use_cases))]


# --- the same machine asks two servers ------------------------------------------------------


@pytest.mark.parametrize("method", ["admission", "token", "roles"])
def test_a_join_asked_of_two_servers_makes_one_instance(auth: Auth, second: Storage, method: str) -> None:
    """Whoever was not answered in time asks the next server: the same instance, never `token_used`."""
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    use_case = join_by(auth, machine, token)
    answers: list[Any] = []
    late = overtaken(second, use_case, method, lambda: answers.append(auth.write_beside(use_case)))
    (early,) = answers
    assert isinstance(late, Issued), late
    assert (late.instance_id, late.generation) == (early.instance_id, 1)


def test_a_join_that_waits_for_the_same_join_is_answered(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    use_case = join_by(auth, machine, token)
    one, two = while_it_waits(postgres_server, auth, second, use_case, use_case)
    assert one.instance_id == two.instance_id


def test_one_key_uses_a_token_of_several_uses_once(auth: Auth, second: Storage) -> None:
    """The second of two at once fails as a whole, and no use is lost by it."""
    machine, token = Machine(auth), auth.add_token(auth.add_bot(), uses=5)
    use_case = join_by(auth, machine, token)
    with pytest.raises(Conflict):
        overtaken(second, use_case, "use_token", lambda: add_admission(auth, token.id, machine))
    assert auth.write(lambda tx: tx.token(token.id)).used == 0


def add_admission(auth: Auth, token_id: str, machine: Machine) -> None:
    """As another server's join of the same key leaves it."""
    fingerprint = keys.fingerprint(keys.public_blob(machine.pending.lineage))
    admission = Admission(token_id, fingerprint, "elsewhere", START, PEER.address)
    auth.write_beside(lambda tx: tx.add_admission(admission))


def test_a_renewal_asked_of_two_servers_advances_once(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    """The other one waits for the instance, and then answers it as the lost reply that it is."""
    machine = joined(auth)
    use_case = renew_by(auth, machine)
    one, two = while_it_waits(postgres_server, auth, second, use_case, use_case)
    assert (one.generation, two.generation) == (2, 2)
    assert auth.instance(machine.instance_id).generation == 2


# --- several holders, several servers -------------------------------------------------------


def test_of_two_holders_on_two_servers_one_advances_and_the_other_is_asked_to_prove(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    machine = joined(auth)
    thief = copy_of(machine)
    one, two = while_it_waits(postgres_server, auth, second, renew_by(auth, thief), renew_by(auth, machine))
    assert isinstance(one, Issued)
    assert isinstance(two, Refused)
    assert two.reason is Reason.PROVE
    # The nonce is good at every server.
    proven = second.write(renew_by(auth, machine, two.nonce), concurrent=True).result(30)
    assert proven.reason is Reason.GENERATION_MISMATCH
    assert [lock.is_final for lock in auth.locks()] == [True]


def test_a_lock_set_by_another_server_stops_a_renewal_that_is_under_way(
    auth: Auth, second: Storage
) -> None:
    """It is in the step's own condition; then judged again."""
    machine = joined(auth)
    outcome = overtaken(
        second, renew_by(auth, machine), "instance",
        lambda: auth.lock(LockKind.BOT, "github-deploy"),
    )
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.LOCKED
    assert auth.instance(machine.instance_id).generation == 1


@pytest.mark.parametrize("kind", [LockKind.BOT, LockKind.INSTANCE])
def test_a_lock_set_by_another_server_stops_a_join_that_is_repeated(
    auth: Auth, second: Storage, kind: LockKind
) -> None:
    """To a join whose reply was lost: it is in the condition of what notes it."""
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    rejoin = join_by(auth, machine, token)
    instance_id = auth.write_beside(rejoin).instance_id
    name = "github-deploy" if kind is LockKind.BOT else instance_id
    outcome = overtaken(second, rejoin, "roles", lambda: auth.lock(kind, name))
    assert isinstance(outcome, Refused), outcome
    assert outcome.reason is Reason.UNAVAILABLE
    assert second.write(rejoin, concurrent=True).result(30).reason is Reason.LOCKED


@pytest.mark.parametrize("kind", [LockKind.BOT, LockKind.INSTANCE])
def test_a_lock_set_by_another_server_stops_a_renewal_that_is_repeated(
    auth: Auth, second: Storage, kind: LockKind
) -> None:
    machine = joined(auth)
    renewal = renew_by(auth, machine)
    assert isinstance(auth.write_beside(renewal), Issued)
    name = "github-deploy" if kind is LockKind.BOT else machine.instance_id
    outcome = overtaken(second, renewal, "roles", lambda: auth.lock(kind, name))
    assert isinstance(outcome, Refused), outcome
    assert outcome.reason is Reason.UNAVAILABLE
    assert second.write(renewal, concurrent=True).result(30).reason is Reason.LOCKED


def test_who_joins_while_the_bot_is_removed_is_removed_with_it(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    """And locked, as its certificate is out."""
    machine, token = Machine(auth), auth.add_token(auth.add_bot())
    joined, removed = while_it_waits(
        postgres_server, auth, second, join_by(auth, machine, token),
        lambda tx: remove_bot(auth.context, tx, ANN, "github-deploy"), alone=True,
    )
    assert isinstance(joined, Issued)
    assert removed.instances == 1
    assert auth.instance(joined.instance_id).removed_at is not None
    assert [str(lock.target) for lock in auth.locks()] == [f"instance/{joined.instance_id}"]


def test_the_last_certificate_given_out_while_the_bot_is_removed_is_locked_to_its_end(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    machine = joined(auth)
    auth.advance(hours=12)
    renewed, _ = while_it_waits(
        postgres_server, auth, second, renew_by(auth, machine),
        lambda tx: remove_bot(auth.context, tx, ANN, "github-deploy"), alone=True,
    )
    assert isinstance(renewed, Issued)
    (lock,) = auth.locks()
    assert lock.expires_at == auth.now + MAX_CERTIFICATE_TTL


def test_what_another_server_has_committed_holds_for_the_next_use_case_of_a_batch(
    postgres_server: Any, auth: Auth, second: Storage
) -> None:
    """Roles and locks are held in memory; their number is asked for by each use case."""
    from mezite.storage.postgres import PostgresStorage

    machines = [joined(auth)]
    bot = auth.write(lambda tx: tx.bot("github-deploy"))
    assert bot is not None
    for _ in range(3):
        machines.append(Machine(auth))
        machines[-1].join(auth.add_token(bot))
    entered, leave = threading.Event(), threading.Event()

    def first(tx: Transaction) -> Any:
        outcome = renew_by(auth, machines[0])(tx)
        entered.set()
        assert leave.wait(30)
        return outcome

    one = PostgresStorage(postgres_server.local_params, writers=1)
    try:
        futures = [one.write(first, concurrent=True)]
        assert entered.wait(30)
        futures += [one.write(renew_by(auth, machine), concurrent=True) for machine in machines[1:]]
        auth.lock(LockKind.ROLE, "ci-deployer")
        leave.set()
        outcomes = [future.result(30) for future in futures]
    finally:
        one.close()
    assert isinstance(outcomes[0], Issued)
    assert [outcome.reason for outcome in outcomes[1:]] == [Reason.LOCKED] * 3


def test_a_thousand_redemptions_of_one_token_have_one_winner(auth: Auth, second: Storage) -> None:
    token = auth.add_token(auth.add_bot())
    outcomes = by_both(auth, second, [join_by(auth, Machine(auth), token) for _ in range(1000)])
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)} == {Reason.TOKEN_USED}


def test_a_thousand_renewals_of_one_generation_have_one_winner_and_then_a_lock(
    auth: Auth, second: Storage
) -> None:
    """The others are asked to prove, and the first that does locks."""
    machine = joined(auth)
    copies = [copy_of(machine) for _ in range(1000)]
    outcomes = by_both(auth, second, [renew_by(auth, copy) for copy in copies])
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    asked = [
        (copy, outcome) for copy, outcome in zip(copies, outcomes, strict=True)
        if isinstance(outcome, Refused)
    ]
    assert {outcome.reason for _, outcome in asked} == {Reason.PROVE}
    proofs = by_both(auth, second, [renew_by(auth, copy, refused.nonce) for copy, refused in asked[:20]])
    assert {proof.reason for proof in proofs} == {Reason.GENERATION_MISMATCH}
    assert auth.instance(machine.instance_id).generation == 2
    assert len([lock for lock in auth.locks() if lock.is_final]) == 1


# --- what servers share ---------------------------------------------------------------------


def test_servers_that_start_together_make_one_cluster(postgres_server: Any) -> None:
    """One schema, one UUID, one CA of each kind."""
    from mezite.storage.postgres import PostgresStorage

    opened: list[Storage] = []

    def start(params: dict[str, str]) -> bool:
        storage = PostgresStorage(params)
        opened.append(storage)

        def create(tx: Transaction) -> bool:
            return authorities.create_cluster(tx, "example", passphrase=None, now=START, random=Counted())

        return storage.write(create).result(60)

    with postgres_server.new_database() as config:
        params = {**postgres_server.local_params, "dbname": config["name"]}
        try:
            with ThreadPoolExecutor(4) as pool:
                assert sorted(pool.map(start, [params] * 4)) == [False, False, False, True]
            found = opened[0].read(lambda tx: tx.authorities()).result(30)
            assert sorted(one.kind for one in found) == ["host", "server", "user"]
        finally:
            for storage in opened:
                storage.close()


def test_serials_are_unique_over_servers(auth: Auth, second: Storage) -> None:
    def take(tx: Transaction) -> list[int]:
        return [tx.next_serial() for _ in range(60)]

    taken = [serial for serials in by_both(auth, second, [take] * 40) for serial in serials]
    assert len(set(taken)) == len(taken) == 2400


def test_operators_use_cases_run_one_after_the_other_over_servers(auth: Auth, second: Storage) -> None:
    """What one has read is so until it has committed."""

    def add(tx: Transaction) -> None:
        tx.set_value("count", b"%d" % (int(tx.value("count") or b"0") + 1))

    futures = [storage.write(add) for _ in range(100) for storage in (auth.storage, second)]
    for future in futures:
        future.result(30)
    assert auth.write(lambda tx: tx.value("count")) == b"200"


def test_topics_are_heard_by_other_servers(auth: Auth, second: Storage) -> None:
    """Soon, and once; a server's own are no news to it."""
    told: list[frozenset[str]] = []
    own: list[frozenset[str]] = []
    second.subscribe(told.append)
    auth.storage.subscribe(own.append)
    auth.lock(LockKind.LOGIN, "root")
    wait_for(lambda: told, "notification")
    assert (told, own) == ([frozenset({"locks"})], [frozenset({"locks"})])
