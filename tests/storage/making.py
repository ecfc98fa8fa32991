"""Records for storage tests, and the tools that these tests share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from mezite.core.audit import AuditEvent, EventType
from mezite.core.model import OPERATOR, Bot, Instance, JoinToken, Lock, LockKind, LockTarget
from mezite.core.roles import Role
from mezite.storage.interface import Admission, Step, Storage, StoredAuthority, Transaction
from mezite.storage.jobs import Job

T = TypeVar("T")

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


def make_role(name: str = "deploy", **options: Any) -> Role:
    document = {
        "kind": "role",
        "metadata": {"name": name, "description": "für Ünïcode"},
        "spec": {
            "options": {"max_session_ttl": "2h", **options},
            "allow": {"logins": ["app", "web"], "node_labels": {"env": ["staging", "^dev.*$"], "os": "*"}},
            "deny": {"logins": ["root"]},
        },
    }
    return Role.from_document(document)


def make_bot(name: str = "ci", *, id: str = "", roles: tuple[str, ...] = ("deploy",), **more: Any) -> Bot:
    return Bot(id=id or f"bot-{name}", name=name, roles=roles, created_at=NOW, **more)


def make_token(id: str = "tok-1", *, bot_id: str = "bot-ci", uses: int = 1, **more: Any) -> JoinToken:
    return JoinToken(
        id=id, bot_id=bot_id, secret_hash=bytes(range(32)), uses=uses, created_at=NOW, expires_at=NOW + HOUR,
        **more,
    )


def make_instance(id: str = "inst-1", *, bot_id: str = "bot-ci", **more: Any) -> Instance:
    fields: dict[str, Any] = {
        "generation": 1, "lineage_key": "SHA256:one", "previous_key": "", "request_hash": b"\x00\xffhash",
        "token_id": "tok-1", "created_at": NOW, "renewed_at": NOW,
    }
    return Instance(id=id, bot_id=bot_id, **{**fields, **more})


def make_step(instance: Instance, to_key: str = "SHA256:two", **more: Any) -> Step:
    fields: dict[str, Any] = {
        "instance_id": instance.id, "from_generation": instance.generation, "from_key": instance.lineage_key,
        "to_generation": instance.generation + 1, "to_key": to_key, "previous_key": instance.lineage_key,
        "request_hash": b"new", "at": NOW + HOUR, "not_after": NOW + 2 * HOUR, "address": "192.0.2.7",
        "host": "runner-7",
    }
    return Step(**{**fields, **more})


def make_lock(id: str, kind: LockKind, value: str, **more: Any) -> Lock:
    fields: dict[str, Any] = {
        "reason": OPERATOR, "message": "", "created_by": "uid:0(root)", "created_at": NOW,
    }
    return Lock(id=id, target=LockTarget(kind, value), **{**fields, **more})


def make_admission(token_id: str = "tok-1", key: str = "SHA256:one", **more: Any) -> Admission:
    fields: dict[str, Any] = {"instance_id": "inst-1", "at": NOW, "address": "192.0.2.7"}
    return Admission(token_id=token_id, lineage_key=key, **{**fields, **more})


def make_authority(id: str = "ca-1", **more: Any) -> StoredAuthority:
    fields: dict[str, Any] = {
        "kind": "user", "state": "active", "public": b"\x00blob", "private_pem": b"PEM", "created_at": NOW,
    }
    return StoredAuthority(id=id, **{**fields, **more})


def make_event(type: EventType = EventType.BOT_CREATED, name: str = "ci", **more: Any) -> AuditEvent:
    fields: dict[str, Any] = {"at": NOW, "actor": "uid:0(root)", "resource_type": "bot"}
    return AuditEvent(type, **{**fields, "resource_name": name, **more})


def done(future: Future[T]) -> T:
    """What *future* resolves to; fails the test rather than wait for ever."""
    return future.result(timeout=30)


@contextmanager
def held(storage: Storage) -> Iterator[None]:
    """What is written inside queues up, and goes into one batch afterwards,
    which has begun with a use case that holds it up."""
    entered, leave = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        entered.set()
        assert leave.wait(30)

    # Not in this thread, which is to go on, and where the others will run.
    if isinstance(storage, Together):
        blocked = storage.plain.write(wait, concurrent=True)
    else:
        blocked = storage.write(wait)
    assert entered.wait(30)
    try:
        yield
    finally:
        leave.set()
    blocked.exception(timeout=30)


class Together:
    """The storage *plain*, with writes that go through ``write_together``, in their submitter's thread."""

    def __init__(self, plain: Storage) -> None:
        self.plain = plain
        self.read, self.subscribe, self.close = plain.read, plain.subscribe, plain.close
        self.write_together = plain.write_together

    def write(self, use_case: Callable[[Transaction], T], *, concurrent: bool = False) -> Future[T]:
        (future,) = self.write_all([use_case])
        return future

    def write_all(self, use_cases: Sequence[Callable[[Transaction], Any]]) -> list[Future[Any]]:
        jobs = [Job(use_case, is_reading=False) for use_case in use_cases]
        self.plain.write_together(jobs)
        return [job.future for job in jobs]


def together(
    storage: Storage,
    *use_cases: Callable[[Transaction], Any],
    just_before: Callable[[], None] = lambda: None,
) -> list[Future[Any]]:
    """Writes that are one batch from its beginning: submitted by the storage's
    own thread, between two batches.  The storage delivers at once."""
    futures: list[Future[Any]] = []
    submitted = threading.Event()

    def submit(_: Future[None]) -> None:
        just_before()
        if isinstance(storage, Together):
            futures.extend(storage.write_all(use_cases))
        else:
            futures.extend(storage.write(use_case) for use_case in use_cases)
        submitted.set()

    with held(storage):
        storage.write(lambda tx: None).add_done_callback(submit)
    assert submitted.wait(30)
    return futures


def write(storage: Storage, use_case: Callable[[Transaction], T]) -> T:
    return done(storage.write(use_case))


def read(storage: Storage, use_case: Callable[[Transaction], T]) -> T:
    return done(storage.read(use_case))


def with_bot(tx: Transaction) -> None:
    """The bot ``ci`` with the token ``tok-1`` and the instance ``inst-1``."""
    tx.add_bot(make_bot())
    tx.add_token(make_token())
    tx.add_instance(make_instance())
