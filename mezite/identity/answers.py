"""Whether an answer of the server is the one that was asked for, before anything is kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from mezite.certs import keys as ssh_keys
from mezite.certs import ssh, verify
from mezite.core.model import Identity
from mezite.core.request import Issued, JoinRequest, RenewRequest, Trust
from mezite.errors import CertificateRejected, InvalidInput
from mezite.identity.records import GenerationKeys, Held, Wanted


def accept(
    issued: Issued,
    request: JoinRequest | RenewRequest,
    keys: GenerationKeys,
    *,
    cluster_uuid: str | None,
    received_at: datetime,
) -> Held:
    """The identity in *issued*, which answers *request* for *keys*.

    Every certificate must be for our key, of the asked instance and generation
    with our lineage key in it, and signed by a user CA of the answered trust;
    the cluster must be *cluster_uuid* where that is known.  Raises
    :class:`InvalidInput` for anything else.

    Not checked: times, since this machine's clock may be the one that is off.
    """
    _check_trust(issued.trust)
    if cluster_uuid is not None and issued.trust.cluster_uuid != cluster_uuid:
        raise InvalidInput("it is for another cluster", "trust.cluster_uuid")
    if isinstance(request, RenewRequest):
        generation = request.generation + 1
        if issued.instance_id != request.instance_id:
            raise InvalidInput("it is for another instance", "instance_id")
    else:
        generation = 1
    if issued.generation != generation:
        raise InvalidInput(f"expected {generation}, found {issued.generation}", "generation")
    if len(issued.certificates) != len(keys.ssh):
        raise InvalidInput(f"expected {len(keys.ssh)}, found {len(issued.certificates)}", "certificates")
    identities = [
        _check_certificate(blob, issued, keys, pair.pair.public)
        for blob, pair in zip(issued.certificates, keys.ssh, strict=True)
    ]
    for asked, identity in zip(request.ssh_keys, identities, strict=True):
        if asked.roles is not None and not set(identity.roles) <= set(asked.roles):
            raise InvalidInput(
                f"output {asked.output} was to have fewer roles; does the server know of outputs at all?",
                "certificates",
            )
    return Held(
        instance_id=issued.instance_id,
        bot=issued.bot,
        generation=generation,
        keys=keys,
        certificates=issued.certificates,
        trust=issued.trust,
        principals=_together(identity.principals for identity in identities),
        roles=_together(identity.roles for identity in identities),
        valid_before_unix=min(identity.valid_before for identity in identities),
        ttl=issued.ttl,
        renew_after=issued.renew_after,
        received_at=received_at,
        server_time=issued.server_time,
        asked_ttl=request.wishes.ttl,
        asked_interval=request.wishes.interval,
        asked_outputs=tuple(Wanted(key.output, key.roles, key.ttl) for key in request.ssh_keys),
    )


def _together(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All of them, each once, in order."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _check_certificate(blob: bytes, issued: Issued, keys: GenerationKeys, public: bytes) -> Identity:
    try:
        certificate = ssh.parse_certificate(blob)
        identity = verify.check_issued(certificate, trusted=frozenset(issued.trust.user_cas))
    except CertificateRejected as error:
        raise InvalidInput(str(error), "certificates") from None
    if certificate.subject_blob != public:
        raise InvalidInput("a certificate is for a key that is not ours", "certificates")
    lineage_key = ssh_keys.fingerprint(keys.lineage.public)
    found = (identity.instance, identity.generation, identity.bot, identity.lineage_key)
    if found != (issued.instance_id, issued.generation, issued.bot, lineage_key):
        raise InvalidInput("a certificate names another instance, generation or key", "certificates")
    if not identity.principals:
        raise InvalidInput("a certificate names no login", "certificates")
    return identity


def _check_trust(trust: Trust) -> None:
    if not (trust.cluster_uuid and trust.host_cas and trust.user_cas and trust.server_cas):
        raise InvalidInput("it names no cluster, or lacks a host, user or server CA", "trust")
    try:
        for blob in (*trust.host_cas, *trust.user_cas):
            ssh_keys.load_public(blob)
        for der in trust.server_cas:
            x509.load_der_x509_certificate(der)
    except (CertificateRejected, ValueError) as error:
        raise InvalidInput(f"a CA in it is not readable: {error}", "trust") from None
