"""An auth server without its edges, and machines that speak to its use cases.

Everything is real (storage in memory, keys, certificates, use cases) but the
clock, which a test sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from mezite.auth import authorities
from mezite.auth.context import Context, Peer, Transaction
from mezite.auth.join import join
from mezite.auth.leave import leave
from mezite.auth.proof import Provenance, prove_certificate, prove_join, prove_leave, prove_renew
from mezite.auth.renew import Unverified, renew
from mezite.certs import keys
from mezite.certs.ssh import parse_certificate
from mezite.core.model import Bot, Instance, JoinToken, Lock, LockKind, LockTarget
from mezite.core.request import (
    JOIN,
    RENEW,
    Issued,
    JoinRequest,
    LeaveRequest,
    RenewRequest,
    Signed,
    SshKey,
    TokenText,
    Wishes,
    secret_hash,
    signed_bytes,
)
from mezite.core.roles import Role
from mezite.errors import Refused
from mezite.rpc import messages
from mezite.storage.interface import Storage, StoredEvent
from mezite.storage.memory import MemoryStorage

T = TypeVar("T")
START = datetime(2026, 3, 24, 14, 0, tzinfo=UTC)
PEER = Peer("192.0.2.7")

ROLE = Role.from_document(
    {
        "kind": "role",
        "metadata": {"name": "ci-deployer"},
        "spec": {
            "options": {"max_session_ttl": "1h"},
            "allow": {"node_labels": {"env": ["staging", "production"]}, "logins": ["deploy"]},
            "deny": {"logins": ["root"]},
        },
    }
)


class Counted:
    """Bytes that look random and are the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, length: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._count.to_bytes(8, "big")).digest(length)


class Auth:
    """The use cases on a storage in memory; ``now`` is the server's clock."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.now = START
        self.verified = 0
        """Certificates that had to be verified, as what is stored did not vouch for them."""
        self.random = Counted()
        self.storage = storage or MemoryStorage()

        def create(tx: Transaction) -> bool:
            return authorities.create_cluster(tx, "example", passphrase=None, now=START, random=self.random)

        def load(tx: Transaction) -> tuple[Any, authorities.LoadedAuthorities]:
            return (
                authorities.load_cluster(tx, "auth.example.com:3025"),
                authorities.load_authorities(tx, None, self.random),
            )

        assert self.write(create)
        cluster, loaded = self.write(load)
        self.loaded = loaded
        self.context = Context(
            cluster=cluster,
            authorities=lambda: loaded.current,
            nodes=lambda: (),
            clock=lambda: self.now,
            random=self.random,
        )
        self.write(lambda tx: tx.put_role(ROLE))

    def write(self, use_case: Callable[[Transaction], T]) -> T:
        return self.storage.write(use_case).result(10)

    def write_beside(self, use_case: Callable[[Transaction], T]) -> T:
        """As the server runs what machines ask."""
        return self.storage.write(use_case, concurrent=True).result(30)

    def close(self) -> None:
        self.storage.close()

    def advance(self, **length: float) -> None:
        self.now += timedelta(**length)

    # --- what an operator does --------------------------------------------------------------

    def add_bot(self, name: str = "github-deploy", **settings: Any) -> Bot:
        bot = Bot(
            id=self.context.new_uuid(),
            name=name,
            roles=settings.pop("roles", ("ci-deployer",)),
            created_at=self.now,
            **settings,
        )
        self.write(lambda tx: tx.add_bot(bot))
        return bot

    def add_token(self, bot: Bot, *, uses: int = 1, ttl: timedelta = timedelta(hours=1)) -> TokenText:
        text = TokenText.from_random(self.random(22), self.context.authorities().server_pin)
        token = JoinToken(text.id, bot.id, secret_hash(text.secret), uses, self.now, self.now + ttl)
        self.write(lambda tx: tx.add_token(token))
        return text

    def lock(self, kind: LockKind, value: str, **settings: Any) -> Lock:
        lock = Lock(
            id=self.context.new_uuid(),
            target=LockTarget(kind, value),
            reason="operator",
            message="looked odd",
            created_by="uid:0(root)",
            created_at=self.now,
            **settings,
        )
        self.write(lambda tx: tx.add_lock(lock))
        return lock

    def instance(self, instance_id: str) -> Instance:
        found = self.write(lambda tx: tx.instance(instance_id))
        assert found is not None
        return found

    def locks(self) -> tuple[Lock, ...]:
        return self.write(lambda tx: tx.all_locks())

    def events(self, name: str) -> list[StoredEvent]:
        """Newest first."""
        return list(self.write(lambda tx: tx.list_events(type_name=name, limit=1000)))

    # --- what a machine sends ---------------------------------------------------------------

    def join(self, request: JoinRequest, signed: Signed, peer: Peer = PEER) -> Issued | Refused:
        try:
            proof = prove_join(self.context, request, signed)
        except Refused as refused:
            return refused
        return self.write_beside(
            lambda tx: join(self.context, tx, request, proof, nonce=signed.nonce, peer=peer)
        )

    def renew(self, request: RenewRequest, signed: Signed, peer: Peer = PEER) -> Issued | Refused:
        def judged(provenance: Provenance | None) -> Issued | Refused | Unverified:
            return self.write_beside(
                lambda tx: renew(
                    self.context, tx, request, proof, provenance, nonce=signed.nonce, peer=peer
                )
            )

        try:
            proof = prove_renew(self.context, request, signed)
            outcome = judged(None)
            if isinstance(outcome, Unverified):
                self.verified += 1
                outcome = judged(prove_certificate(self.context, request, proof))
        except Refused as refused:
            return refused
        assert not isinstance(outcome, Unverified)
        return outcome


    def leave(self, request: LeaveRequest, signed: Signed, peer: Peer = PEER) -> Refused | None:
        try:
            proof = prove_leave(self.context, request, signed)
            provenance = prove_certificate(self.context, request, proof)
        except Refused as refused:
            return refused
        return self.write(
            lambda tx: leave(self.context, tx, request, proof, provenance, nonce=signed.nonce, peer=peer)
        )


class Pending(Struct):
    """Keys that a generation is asked for, until it is answered."""

    lineage: keys.PrivateKey = field(default_factory=keys.generate_key)
    ssh: keys.PrivateKey = field(default_factory=keys.generate_key)

    @property
    def ssh_keys(self) -> tuple[SshKey, ...]:
        return (SshKey("default", keys.public_blob(self.ssh)),)


class Machine(Struct):
    """The client's side of the protocol, by hand: each step can be lost, repeated or stolen."""

    auth: Auth
    wishes: Wishes = field(default_factory=lambda: Wishes(None, None, START, host="ci-7"))
    lineage: keys.PrivateKey | None = None
    instance_id: str = ""
    generation: int = 0
    certificate: bytes = b""
    pending: Pending = field(default_factory=Pending)

    def copy(self) -> Machine:
        """What a thief has who copies the state directory."""
        return replace(self)

    def join_request(self, token: TokenText, nonce: bytes = b"") -> tuple[JoinRequest, Signed]:
        request = JoinRequest(
            token.id, token.secret, keys.public_blob(self.pending.lineage), self.pending.ssh_keys, self.wishes
        )
        body = messages.join_body(request)
        return request, self._signed(JOIN, self.pending.lineage, body, nonce)

    def renew_request(self, nonce: bytes = b"") -> tuple[RenewRequest, Signed]:
        assert self.lineage is not None
        request = RenewRequest(
            self.instance_id,
            self.generation,
            keys.public_blob(self.lineage),
            self.certificate,
            keys.public_blob(self.pending.lineage),
            self.pending.ssh_keys,
            self.wishes,
        )
        return request, self._signed(RENEW, self.lineage, messages.renew_body(request), nonce)

    def _signed(self, method: str, key: keys.PrivateKey, body: bytes, nonce: bytes) -> Signed:
        message = signed_bytes(method, self.auth.context.cluster.uuid, nonce, body)
        return Signed(body, keys.sign(key, message), nonce)

    def accept(self, outcome: Issued | Refused) -> Issued:
        """Takes what was answered as the new identity."""
        assert isinstance(outcome, Issued), outcome
        certificate = parse_certificate(outcome.certificates[0])
        assert certificate.subject_blob == keys.public_blob(self.pending.ssh)
        self.lineage = self.pending.lineage
        self.instance_id, self.generation = outcome.instance_id, outcome.generation
        self.certificate = outcome.certificates[0]
        self.pending = Pending()
        return outcome

    def join(self, token: TokenText) -> Issued:
        return self.accept(self.auth.join(*self.join_request(token)))

    def renew(self) -> Issued:
        return self.accept(self.auth.renew(*self.renew_request()))

    def try_renew(self, nonce: bytes = b"") -> Issued | Refused:
        return self.auth.renew(*self.renew_request(nonce))
