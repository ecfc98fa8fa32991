"""The certificate authorities: made at the first start, then read from the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mezite.auth.context import AuthoritySet, Cluster
from mezite.certs import keys
from mezite.certs.signer import InProcessSigner
from mezite.certs.x509 import certificate_pem, create_server_ca, spki_pin
from mezite.core.audit import AuditEvent, EventType
from mezite.discreet import Discreet
from mezite.errors import InvalidInput, StorageFailure, UsageError
from mezite.storage.interface import StoredAuthority, Transaction

USER, HOST, SERVER = "user", "host", "server"
ACTIVE, TRUSTED, RETIRED = "active", "trusted", "retired"

CLUSTER_UUID = "cluster_uuid"
CLUSTER_NAME = "cluster_name"
_NONCE_KEY = "nonce_key"


class LoadedAuthorities(Discreet, frozen=True):
    """The authorities with their keys, as one process holds them in memory."""

    hidden = ("server_ca_key",)

    current: AuthoritySet
    server_ca: x509.Certificate
    server_ca_key: ec.EllipticCurvePrivateKey
    encrypted: bool
    """Whether the private keys lie encrypted in the database."""


def create_cluster(
    tx: Transaction, name: str, *, passphrase: bytes | None, now: datetime, random: Callable[[int], bytes]
) -> bool:
    """At the first start the cluster's UUID, secrets and authorities are made;
    whether this was it.  Part of the caller's transaction: all of it or nothing."""
    if tx.value(CLUSTER_UUID) is not None:
        return False
    uuid = UUID(bytes=random(16), version=4)
    tx.set_value(CLUSTER_UUID, str(uuid).encode())
    tx.set_value(CLUSTER_NAME, name.encode())
    tx.set_value(_NONCE_KEY, random(32))
    tx.add_event(
        AuditEvent(EventType.CLUSTER_CREATED, now, "system", "cluster", name, fields={"uuid": str(uuid)})
    )
    for kind in (USER, HOST, SERVER):
        create_authority(tx, kind, name, str(uuid), passphrase=passphrase, now=now, random=random)
    return True


def create_authority(
    tx: Transaction,
    kind: str,
    cluster_name: str,
    cluster_uuid: str,
    *,
    passphrase: bytes | None,
    now: datetime,
    random: Callable[[int], bytes],
    state: str = ACTIVE,
    actor: str = "system",
) -> StoredAuthority:
    """A new authority of *kind* is stored.  Part of the caller's transaction."""
    key: keys.PrivateKey
    if kind == SERVER:
        key = keys.generate_key()
        serial = int.from_bytes(random(19), "big") + 1
        certificate = create_server_ca(key, cluster_name, cluster_uuid, now=now, serial=serial)
        public, shown = certificate_pem(certificate), spki_pin(certificate)
    else:
        key = keys.generate_ca_key()
        public = keys.public_blob(key)
        shown = keys.fingerprint(public)
    authority_id = str(UUID(bytes=random(16), version=4))
    authority = StoredAuthority(
        authority_id, kind, state, public, keys.private_to_pem(key, passphrase), now
    )
    tx.add_authority(authority)
    tx.add_event(
        AuditEvent(
            EventType.CA_CREATED, now, actor, "ca", kind, fields={"id": authority_id, "public": shown}
        )
    )
    return authority


def load_cluster(tx: Transaction, public_addr: str) -> Cluster:
    """The cluster as :func:`create_cluster` made it; its name is the one it was made with."""
    uuid, name, nonce_key = (tx.value(key) for key in (CLUSTER_UUID, CLUSTER_NAME, _NONCE_KEY))
    if uuid is None or name is None or nonce_key is None:
        raise StorageFailure("the database holds no cluster; restore it from a backup")
    return Cluster(name.decode(), uuid.decode(), public_addr, nonce_key)


def load_authorities(
    tx: Transaction, passphrase: bytes | None, random: Callable[[int], bytes]
) -> LoadedAuthorities:
    """The authorities in the database, ready to sign.

    Raises :class:`UsageError` when the passphrase does not open the keys, and
    :class:`StorageFailure` when a kind has no active authority.
    """
    stored = tx.authorities()
    active = {}
    for kind in (USER, HOST, SERVER):
        found = [authority for authority in stored if (authority.kind, authority.state) == (kind, ACTIVE)]
        if not found:
            raise StorageFailure(f"the database holds no active {kind} CA; restore it from a backup")
        active[kind] = found[-1]
    encrypted = [b"ENCRYPTED" in authority.private_pem for authority in active.values()]

    def private(kind: str) -> keys.PrivateKey:
        pem = active[kind].private_pem
        try:
            return keys.private_from_pem(pem, passphrase if b"ENCRYPTED" in pem else None)
        except InvalidInput as error:
            raise UsageError(f"ca_key_passphrase does not open the {kind} CA's key: {error}") from None

    def published(kind: str) -> tuple[bytes, ...]:
        others = [one for one in stored if one.kind == kind and one.state == TRUSTED]
        return (active[kind].public, *(one.public for one in others))

    server_key = private(SERVER)
    if not isinstance(server_key, ec.EllipticCurvePrivateKey):
        raise StorageFailure("the server CA's key is not an EC key; restore the database from a backup")
    server_cas = tuple(x509.load_pem_x509_certificate(pem) for pem in published(SERVER))
    signer = InProcessSigner(
        private(USER),
        private(HOST),
        random,
        other_user_cas=published(USER)[1:],
        other_host_cas=published(HOST)[1:],
    )
    current = AuthoritySet(
        signer=signer,
        user_cas=published(USER),
        proving_user_cas=frozenset(one.public for one in stored if one.kind == USER),
        host_cas=published(HOST),
        server_cas=tuple(one.public_bytes(Encoding.DER) for one in server_cas),
        server_pin=spki_pin(server_cas[0]),
    )
    return LoadedAuthorities(current, server_cas[0], server_key, encrypted=all(encrypted))
