"""The server CA, its TLS leaves, and the pin by which a client knows it (RFC 5280)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mezite.certs import keys
from mezite.errors import UntrustedServer

SERVER_NAME = "auth.mezite.internal"
"""In every leaf, so that a client can name the server whatever its address is."""
CA_LIFETIME = timedelta(days=3650)
BACKDATE = timedelta(hours=24)
"""Certificates start this long ago, for clients with a slow clock."""
MAX_CHAIN = 8
_PIN = re.compile(r"[0-9a-f]{32}")


def create_server_ca(
    key: ec.EllipticCurvePrivateKey, cluster: str, cluster_id: str, *, now: datetime, serial: int
) -> x509.Certificate:
    """The self-signed certificate of the cluster's server CA.

    *cluster* is its name (cut to what a common name may hold), *cluster_id* its
    UUID, *serial* a positive random number below 2**159 (RFC 5280 §4.1.2.2).
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster[:54]} server CA")])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:uuid:{cluster_id}")]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue_leaf(
    ca_key: ec.EllipticCurvePrivateKey,
    ca_cert: x509.Certificate,
    names: Sequence[str],
    *,
    now: datetime,
    ttl: timedelta,
    serial: int,
) -> tuple[bytes, bytes]:
    """A new TLS server key and its chain (leaf, then CA), both PEM.

    *names* are DNS names or IP addresses, told apart by their form;
    :data:`SERVER_NAME` is always added.
    """
    key = keys.generate_key()
    public = key.public_key()
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)]))
        .issuer_name(ca_cert.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(max(now - BACKDATE, ca_cert.not_valid_before_utc))
        .not_valid_after(min(now + ttl, ca_cert.not_valid_after_utc))
        .add_extension(
            x509.SubjectAlternativeName(
                [_general_name(name) for name in dict.fromkeys((SERVER_NAME, *names))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return keys.private_to_pem(key, None), certificate_pem(leaf) + certificate_pem(ca_cert)


def certificate_pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# --- the pin -------------------------------------------------------------------------------


def spki_pin(cert: x509.Certificate) -> str:
    """The first 128 bits of the SHA-256 of the certificate's public key (SPKI), in hex."""
    spki = cert.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()[:32]


def find_pinned(chain: Sequence[x509.Certificate], pin: str) -> x509.Certificate:
    """The CA that *pin* names in a presented *chain*, whose first certificate it has signed.

    Raises :class:`UntrustedServer` when no certificate of the chain has the
    pinned key, or the first one is not signed by it, directly: the server CA
    has no CA below it.  Times and names are left to TLS itself, which is given
    the returned certificate as its only root.
    """
    if not _PIN.fullmatch(pin):
        raise UntrustedServer("the pin is not 32 hex digits; take it from the token or `mezctl status`")
    if not chain or len(chain) > MAX_CHAIN:
        raise UntrustedServer("the server presented no usable chain of certificates")
    for candidate in chain:
        if hmac.compare_digest(spki_pin(candidate), pin):
            _check_signed(chain[0], candidate)
            return candidate
    raise UntrustedServer(
        f"the server's CA is not the pinned one: pinned {pin}, presented "
        f"{', '.join(spki_pin(cert) for cert in chain)}; wrong address, or another cluster's token?"
    )


def _check_signed(leaf: x509.Certificate, ca: x509.Certificate) -> None:
    """*ca* may sign certificates and has signed *leaf*, which is not itself."""
    try:
        limits = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not limits.ca or leaf == ca:
            raise UntrustedServer("the pinned certificate is not a CA above the server's certificate")
        leaf.verify_directly_issued_by(ca)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        raise UntrustedServer(
            "the server presents the pinned CA, but its own certificate is not signed by it"
        ) from None
