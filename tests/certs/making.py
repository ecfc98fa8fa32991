"""Certificates for tests, right ones and wrong ones."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from msgspec.structs import replace

from mezite.certs import keys, ssh
from mezite.core.template import USER, CertificateTemplate

NOW = 1_800_000_000
CA = keys.generate_ca_key()
CA_BLOB = keys.public_blob(CA)
OTHER_CA = keys.generate_ca_key()
SUBJECT = keys.generate_key()
SUBJECT_BLOB = keys.public_blob(SUBJECT)
NONCE = bytes(range(32))

TEMPLATE = CertificateTemplate(
    type=USER,
    serial=77,
    key_id="ci/0b8f/3",
    principals=("deploy", "backup"),
    valid_after=NOW - 60,
    valid_before=NOW + 3600,
    extensions=(
        ("bot@mezite.com", "ci"),
        ("roles@mezite.com", "deployer,reader"),
        ("instance@mezite.com", "0b8f"),
        ("generation@mezite.com", "3"),
        ("lineage-key@mezite.com", "SHA256:abc"),
        ("permit-pty", None),
    ),
)



def make(ca: Any = CA, subject: bytes = SUBJECT_BLOB, **changes: Any) -> ssh.Certificate:
    """A parsed certificate of :data:`TEMPLATE` with *changes*."""
    template = replace(TEMPLATE, **changes)
    return ssh.parse_certificate(ssh.build_certificate(template, subject, ca, NONCE))


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa_key(),
}
