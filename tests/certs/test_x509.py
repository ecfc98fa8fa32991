"""The server CA and its leaves, judged by the pin and by OpenSSL."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from mezite.certs import keys
from mezite.certs.x509 import (
    SERVER_NAME,
    certificate_pem,
    create_server_ca,
    find_pinned,
    issue_leaf,
    spki_pin,
)
from mezite.errors import UntrustedServer

NOW = datetime.now(UTC)
UUID = "5a1f0c1e-8b65-4f0e-9a39-0d2f0c7f7c11"


def authority() -> tuple[object, x509.Certificate]:
    key = keys.generate_key()
    return key, create_server_ca(key, "example", UUID, now=NOW, serial=7)


KEY, CA = authority()
LEAF_KEY, CHAIN_PEM = issue_leaf(
    KEY, CA, ["auth.example.com", "192.0.2.1", "::1"],  # type: ignore[arg-type]
    now=NOW, ttl=timedelta(days=30), serial=8,
)
CHAIN = x509.load_pem_x509_certificates(CHAIN_PEM)


def test_ca_says_what_it_is() -> None:
    assert CA.subject.rfc4514_string() == "CN=example server CA"
    limits = CA.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
    names = CA.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"urn:uuid:{UUID}"]
    assert CA.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert CA.not_valid_before_utc < NOW - timedelta(hours=23)


def test_leaf_names_the_server() -> None:
    names = CHAIN[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME, "auth.example.com"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "::1"]
    assert CHAIN[1] == CA


@pytest.mark.parametrize("name", [SERVER_NAME, "auth.example.com", "192.0.2.1"])
def test_openssl_accepts_the_leaf(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A handshake in memory, with strict X.509 checks, between OpenSSL and itself."""
    (tmp_path / "leaf").write_bytes(LEAF_KEY + CHAIN_PEM)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "leaf")
    client = ssl.create_default_context(cadata=certificate_pem(CA).decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    done: set[int] = set()
    while len(done) < 2:
        for index, end in enumerate(ends):
            try:
                end.do_handshake()
                done.add(index)
            except ssl.SSLWantReadError:
                pass


def test_pin_finds_the_ca_in_the_chain() -> None:
    assert find_pinned(CHAIN, spki_pin(CA)) == CA
    assert len(spki_pin(CA)) == 32


def test_ca_presented_beside_a_foreign_leaf_is_refused() -> None:
    """The CA's certificate is public: to present it proves nothing."""
    other_key, other_ca = authority()
    _, other = issue_leaf(other_key, other_ca, [], now=NOW, ttl=timedelta(days=1), serial=1)  # type: ignore[arg-type]
    with pytest.raises(UntrustedServer, match="not signed by it"):
        find_pinned([x509.load_pem_x509_certificates(other)[0], CA], spki_pin(CA))


@pytest.mark.parametrize(
    ("chain", "pin"),
    [
        (CHAIN, "0" * 32),
        (CHAIN, ""),
        (CHAIN, spki_pin(CA).upper() + "0"),
        ([], spki_pin(CA)),
        ([CHAIN[0]], spki_pin(CA)),
        ([CA], spki_pin(CA)),
        (CHAIN, spki_pin(CHAIN[0])),
    ],
    ids=["foreign", "none", "too long", "no chain", "leaf alone", "CA alone", "of the leaf"],
)
def test_unproven_server_is_refused(chain: list[x509.Certificate], pin: str) -> None:
    with pytest.raises(UntrustedServer):
        find_pinned(chain, pin)
