"""What the internal node needs of the authorities: its host key and host certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from mezite.auth.context import Context, Transaction
from mezite.certs import keys
from mezite.core.template import host_certificate
from mezite.errors import InvalidInput, UsageError

HOST_CERTIFICATE_TTL = timedelta(days=7)
_HOST_KEY = "node_host_key"


def node_host_key(tx: Transaction, passphrase: bytes | None) -> keys.PrivateKey:
    """The node's Ed25519 host key, made at its first start.

    Raises :class:`UsageError` when *passphrase* does not open it.
    """
    stored = tx.value(_HOST_KEY)
    if stored is None:
        key = keys.generate_ca_key()
        tx.set_value(_HOST_KEY, keys.private_to_pem(key, passphrase))
        return key
    try:
        return keys.private_from_pem(stored, passphrase if b"ENCRYPTED" in stored else None)
    except InvalidInput as error:
        raise UsageError(f"ca_key_passphrase does not open the node's host key: {error}") from None


def certify_node(
    context: Context, tx: Transaction, node_name: str, host_names: Sequence[str], host_key: bytes
) -> bytes:
    """A new host certificate for *host_key* (SSH wire format), good for *host_names*."""
    template = host_certificate(
        node_name, host_names, serial=tx.next_serial(), now=context.clock(), ttl=HOST_CERTIFICATE_TTL
    )
    return context.authorities().signer.sign_host(template, host_key)
