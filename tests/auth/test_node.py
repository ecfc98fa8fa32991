"""The node's host keys: made once, kept, encrypted with the CA keys, certified together."""

from __future__ import annotations

import pytest

from mezite.auth.node import certify_node, node_host_keys
from mezite.certs import keys
from mezite.certs.ssh import parse_certificate
from mezite.core.template import HOST
from mezite.errors import UsageError
from tests.harness import Auth

KINDS = [b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ssh-rsa"]


def blobs(held: list[keys.PrivateKey]) -> list[bytes]:
    return [keys.public_blob(key) for key in held]


def test_host_keys_stay_the_same(auth: Auth) -> None:
    first = auth.write(lambda tx: node_host_keys(tx, None))
    assert [keys.key_type(blob) for blob in blobs(first)] == KINDS
    assert blobs(auth.write(lambda tx: node_host_keys(tx, None))) == blobs(first)


def test_node_of_an_older_version_gets_the_missing_kinds(auth: Auth) -> None:
    """And keeps the key that its clients know."""
    known = keys.generate_ca_key()
    auth.write(lambda tx: tx.set_value("node_host_key", keys.private_to_pem(known, None)))
    held = auth.write(lambda tx: node_host_keys(tx, None))
    assert [keys.key_type(blob) for blob in blobs(held)] == KINDS
    assert blobs(held)[0] == keys.public_blob(known)


def test_wrong_passphrase_is_told(auth: Auth) -> None:
    auth.write(lambda tx: node_host_keys(tx, b"right"))
    auth.write(lambda tx: node_host_keys(tx, b"right"))
    with pytest.raises(UsageError, match="ca_key_passphrase"):
        auth.write(lambda tx: node_host_keys(tx, b"wrong"))


def test_every_host_key_is_certified(auth: Auth) -> None:
    held = auth.write(lambda tx: node_host_keys(tx, None))
    made = auth.write(lambda tx: certify_node(auth.context, tx, "node1", ["node1", "127.0.0.1"], held))
    for key, blob in zip(held, made, strict=True):
        certificate = parse_certificate(blob)
        assert (certificate.type, certificate.principals) == (HOST, (b"node1", b"127.0.0.1"))
        assert certificate.subject_blob == keys.public_blob(key)
        assert certificate.critical_options == ()
        keys.verify(certificate.ca_blob, certificate.signature, certificate.signed_part)
    assert len({parse_certificate(blob).serial for blob in made}) == 3


def test_names_are_certified_as_written_and_in_small_letters(auth: Auth) -> None:
    """A HostKeyAlias is looked for as it is, what somebody types in small letters."""
    held = auth.write(lambda tx: node_host_keys(tx, None))[:1]
    (made,) = auth.write(lambda tx: certify_node(auth.context, tx, "WEB-1", ["web-1", "Web-1.example"], held))
    assert parse_certificate(made).principals == (b"WEB-1", b"web-1", b"Web-1.example", b"web-1.example")
