"""What a request and its certificate prove by themselves, without anything stored."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta

from msgspec import Struct

from mezite.auth.context import Context
from mezite.certs import keys, wire
from mezite.certs.ssh import parse_certificate
from mezite.certs.verify import check_issued
from mezite.core.request import (
    JOIN,
    LEAVE,
    RENEW,
    JoinRequest,
    LeaveRequest,
    RenewRequest,
    Signed,
    SshKey,
    request_hash,
    signed_bytes,
)
from mezite.errors import CertificateRejected, Reason, Refused

NONCE_LIFE = timedelta(seconds=60)
_NONCE_AHEAD = timedelta(seconds=5)
LINEAGE_KEY_TYPES = (b"ecdsa-sha2-nistp256", b"ssh-ed25519")
_LINEAGE_KEY_HEADS = tuple(map(wire.string, LINEAGE_KEY_TYPES))


class JoinProof(Struct, frozen=True):
    """The request was signed by the lineage key it brings."""

    lineage_key: str
    """Fingerprint."""
    request_hash: bytes


class RenewProof(Struct, frozen=True):
    """The request was signed by the lineage key it names.  Whether that is the key
    of the instance and generation it names, the stored ones or the certificate say."""

    lineage_key: str
    """Fingerprint, as the next one."""
    new_key: str
    request_hash: bytes


class LeaveProof(Struct, frozen=True):
    """As a renewal's, from a machine that asks for nothing more."""

    lineage_key: str
    """Fingerprint."""


class Provenance(Struct, frozen=True):
    """One of our certificates ties the request's key to its instance and generation."""

    bot: str
    """Its name when the certificate was made."""
    is_current: bool
    """The certificate's CA is trusted still, not retired."""


def prove_join(context: Context, request: JoinRequest, signed: Signed) -> JoinProof:
    """Raises :class:`Refused` (``bad_proof``, ``invalid_request``)."""
    _check_ssh_keys(request.ssh_keys)
    _check_lineage_key(request.lineage_key)
    _check_signature(context, JOIN, request.lineage_key, signed)
    return JoinProof(
        keys.fingerprint(request.lineage_key), request_hash(request.lineage_key, request.ssh_keys)
    )


def prove_renew(context: Context, request: RenewRequest, signed: Signed) -> RenewProof:
    """Raises :class:`Refused` (``bad_proof``, ``invalid_request``).

    Not checked: the certificate (:func:`prove_certificate`).
    """
    _check_ssh_keys(request.ssh_keys)
    _check_lineage_key(request.new_lineage_key)
    _check_kind(request.lineage_key)
    lineage_key = keys.fingerprint(request.lineage_key)
    new_key = keys.fingerprint(request.new_lineage_key)
    if new_key == lineage_key:
        raise Refused(Reason.INVALID_REQUEST, "every generation has a lineage key of its own")
    _check_signature(context, RENEW, request.lineage_key, signed)
    return RenewProof(lineage_key, new_key, request_hash(request.new_lineage_key, request.ssh_keys))


def prove_leave(context: Context, request: LeaveRequest, signed: Signed) -> LeaveProof:
    """Raises :class:`Refused` (``bad_proof``, ``invalid_request``).

    Not checked: the certificate (:func:`prove_certificate`).
    """
    _check_lineage_key(request.lineage_key)
    _check_signature(context, LEAVE, request.lineage_key, signed)
    return LeaveProof(keys.fingerprint(request.lineage_key))


def prove_certificate(
    context: Context, request: RenewRequest | LeaveRequest, proof: RenewProof | LeaveProof
) -> Provenance:
    """Raises :class:`Refused` (``bad_proof``).

    The certificate may be expired, and its CA retired: it only has to be ours.
    """
    authorities = context.authorities()
    try:
        certificate = parse_certificate(request.certificate)
        identity = check_issued(certificate, trusted=authorities.proving_user_cas)
    except CertificateRejected as rejected:
        raise Refused(Reason.BAD_PROOF, f"the certificate proves nothing: {rejected}") from None
    claimed = (request.instance_id, request.generation, proof.lineage_key)
    if (identity.instance, identity.generation, identity.lineage_key) != claimed:
        raise Refused(
            Reason.BAD_PROOF, "the certificate is of another instance, generation or lineage key"
        )
    return Provenance(identity.bot, is_current=certificate.ca_blob in authorities.user_cas)


def _check_lineage_key(blob: bytes) -> None:
    try:
        keys.check_public(blob)
    except CertificateRejected as rejected:
        raise Refused(Reason.INVALID_REQUEST, f"the lineage key is unusable: {rejected}") from None
    _check_kind(blob)


def _check_kind(blob: bytes) -> None:
    """Before a signature is checked by it: one by a large RSA key takes strangers no
    trouble to send, and the server milliseconds."""
    if not blob.startswith(_LINEAGE_KEY_HEADS):
        raise Refused(Reason.INVALID_REQUEST, "a lineage key is ECDSA P-256 or Ed25519")


def _check_ssh_keys(ssh_keys: tuple[SshKey, ...]) -> None:
    for key in ssh_keys:
        try:
            keys.check_public(key.blob)
        except CertificateRejected as rejected:
            raise Refused(Reason.INVALID_REQUEST, f"an SSH key is unusable: {rejected}") from None


def _check_signature(context: Context, method: str, lineage_key: bytes, signed: Signed) -> None:
    message = signed_bytes(method, context.cluster.uuid, signed.nonce, signed.body)
    try:
        keys.verify(lineage_key, signed.signature, message)
    except CertificateRejected:
        raise Refused(
            Reason.BAD_PROOF, "the request is not signed by its lineage key for this cluster"
        ) from None


# --- the nonce of `prove` ------------------------------------------------------------------


def make_nonce(nonce_key: bytes, instance_id: str, lineage_key: str, now: datetime) -> bytes:
    """Eight bytes of time (ms since the epoch) and an HMAC-SHA256 over it, the
    instance and the key's fingerprint: 40 bytes, no state kept."""
    stamp = int(now.timestamp() * 1000).to_bytes(8, "big")
    return stamp + _nonce_mac(nonce_key, stamp, instance_id, lineage_key)


def nonce_holds(
    nonce: bytes, nonce_key: bytes, instance_id: str, lineage_key: str, now: datetime
) -> bool:
    """Whether we made *nonce* for this instance and key within the last minute."""
    stamp, mac = nonce[:8], nonce[8:]
    if not hmac.compare_digest(mac, _nonce_mac(nonce_key, stamp, instance_id, lineage_key)):
        return False
    age = int(now.timestamp() * 1000) - int.from_bytes(stamp, "big")
    return -_NONCE_AHEAD <= timedelta(milliseconds=age) <= NONCE_LIFE


def _nonce_mac(nonce_key: bytes, stamp: bytes, instance_id: str, lineage_key: str) -> bytes:
    text = b"\0".join((b"mezite-prove-v1", stamp, instance_id.encode(), lineage_key.encode()))
    return hmac.digest(nonce_key, text, hashlib.sha256)
