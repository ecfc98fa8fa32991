"""What the internal node needs of the authorities: its host keys and host certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from mezite.auth.context import Context, Transaction
from mezite.certs import keys
from mezite.core.template import host_certificate
from mezite.errors import InvalidInput, UsageError

HOST_CERTIFICATE_TTL = timedelta(days=7)
_HOST_KEYS: dict[str, Callable[[], keys.PrivateKey]] = {
    "node_host_key": keys.generate_ca_key,
    "node_host_key_ecdsa": keys.generate_key,
    "node_host_key_rsa": keys.generate_rsa_key,
}
"""Where each lies, and how it is made: Ed25519, P-256, RSA, the kinds that ssh-keygen -A makes."""


def node_host_keys(tx: Transaction, passphrase: bytes | None) -> list[keys.PrivateKey]:
    """The node's host keys, the preferred one first; what is missing is made now.

    Raises :class:`UsageError` when *passphrase* does not open one.
    """
    return [_host_key(tx, name, make, passphrase) for name, make in _HOST_KEYS.items()]


def _host_key(
    tx: Transaction, name: str, make: Callable[[], keys.PrivateKey], passphrase: bytes | None
) -> keys.PrivateKey:
    stored = tx.value(name)
    if stored is None:
        key = make()
        tx.set_value(name, keys.private_to_pem(key, passphrase))
        return key
    try:
        return keys.private_from_pem(stored, passphrase if b"ENCRYPTED" in stored else None)
    except InvalidInput as error:
        raise UsageError(f"ca_key_passphrase does not open the node's host key: {error}") from None


def certify_node(
    context: Context,
    tx: Transaction,
    node_name: str,
    host_names: Sequence[str],
    host_keys: Sequence[keys.PrivateKey],
) -> list[bytes]:
    """New host certificates for *host_keys*, each good for the node's name and *host_names*."""
    certificates = []
    for key in host_keys:
        template = host_certificate(
            f"node/{node_name}", (node_name, *host_names),
            serial=tx.next_serial(), now=context.clock(), ttl=HOST_CERTIFICATE_TTL,
        )
        certificates.append(context.authorities().signer.sign_host(template, keys.public_blob(key)))
    return certificates
