"""The server's own TLS leaf: renewed in time, and presented without a restart."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mezite.certs.x509 import SERVER_NAME
from mezite.rpc.leaf import LEAF_TTL, IssuedLeaf
from mezite.rpc.service import LeafSource
from tests.harness import Auth


@pytest.fixture
def auth() -> Auth:
    return Auth()


def issued(auth: Auth) -> IssuedLeaf:
    return IssuedLeaf(lambda: auth.loaded, ["localhost", "127.0.0.1"], lambda: auth.now, auth.random)


def leaf_of(pair: tuple[bytes, bytes]) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pair[1])[0]


def test_it_is_signed_by_the_server_ca_and_carries_the_name_that_clients_ask_for(auth: Auth) -> None:
    leaf = leaf_of(issued(auth).current())
    leaf.verify_directly_issued_by(auth.loaded.server_ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {SERVER_NAME, "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert leaf.not_valid_before_utc < auth.now < leaf.not_valid_after_utc


@pytest.mark.parametrize(
    ("passed", "renewed"),
    [
        (timedelta(0), False), (LEAF_TTL / 2 - timedelta(seconds=1), False), (LEAF_TTL / 2, True),
        (LEAF_TTL * 3, True), (-LEAF_TTL / 4, False), (-LEAF_TTL, True),
    ],
)
def test_it_is_new_after_half_of_its_life_or_a_clock_set_back(
    auth: Auth, passed: timedelta, renewed: bool
) -> None:
    leaf = issued(auth)
    before = leaf.current()
    auth.now += passed
    leaf.refresh()
    assert renewed == (leaf.current() != before)
    assert leaf_of(leaf.current()).not_valid_after_utc > auth.now


def test_grpc_presents_the_renewed_leaf_on_the_next_connection(auth: Auth) -> None:
    leaf = issued(auth)
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    port = server.add_secure_port("127.0.0.1:0", LeafSource(leaf.current).credentials())
    server.start()
    try:
        first = leaf_of(leaf.current())
        assert presented(port) == presented(port) == first
        auth.now += LEAF_TTL / 2
        leaf.refresh()
        second = leaf_of(leaf.current())
        assert presented(port) == presented(port) == second
        assert second.serial_number != first.serial_number
    finally:
        server.stop(None).wait(30)


def presented(port: int) -> x509.Certificate:
    """What a real handshake shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain) as peer,
    ):
        assert peer.version() == "TLSv1.3"
        der = peer.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)
