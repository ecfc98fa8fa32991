"""Connections that ssh has bound to a session: only that session's login is signed there, and none
for another host."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from tests.agent.making import (
    HOST_KEY,
    identity,
    login_request,
    message,
    session_bind,
    sign_request,
)
from tests.agent.test_connection import LIST, REFUSED, SIGNED, Client, Served, listed
from tests.ssh.node import host_certificate

HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
SUCCESS = [(6, b"")]
OTHER = keys.generate_key()
OTHER_KEY = keys.public_blob(OTHER)
held = identity()


@pytest.fixture
def served() -> Served:
    made = Served()
    made.identities.offer(held, made.now())
    return made


def signs(client: Client, **changes: Any) -> bool:
    """Whether a login is signed there; the signature is looked at."""
    data = login_request(held, **changes)
    answer = client.send(sign_request(held.certificate.blob, data))
    if answer == REFUSED:
        return False
    ((number, content),) = answer
    assert number == SIGNED
    keys.verify(held.certificate.subject_blob, Reader(content).string(), data)
    return True


def test_a_bound_connection_signs_the_login_of_its_session(served: Served) -> None:
    client = served.connect()
    assert client.send(session_bind()) == SUCCESS
    assert signs(client)
    assert signs(client, method=HOSTBOUND, host_key=HOST_KEY)


def test_one_that_nobody_bound_signs_as_before(served: Served) -> None:
    # An older ssh, or another client.
    assert signs(served.connect())


@pytest.mark.parametrize(
    "changes",
    [{"session": b"o" * 32}, {"method": HOSTBOUND, "host_key": OTHER_KEY},
     {"session": b"o" * 32, "method": HOSTBOUND, "host_key": HOST_KEY}],
    ids=["session", "server", "session, and the method with the server"],
)
def test_of_another_session_or_server_nothing_is_signed(served: Served, changes: dict[str, Any]) -> None:
    client = served.connect()
    client.send(session_bind())
    assert not signs(client, **changes)
    assert signs(client), "and the connection is as good as before"


def test_servers_may_have_a_certificate(served: Served) -> None:
    certificate = host_certificate(key=OTHER)
    client = served.connect()
    assert client.send(session_bind(host=OTHER, host_key=certificate)) == SUCCESS
    assert signs(client, method=HOSTBOUND, host_key=certificate)
    assert not signs(client, method=HOSTBOUND, host_key=HOST_KEY)


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "p384"])
def test_servers_have_keys_of_all_kinds(served: Served, kind: str) -> None:
    made: dict[str, Any] = {"rsa": keys.generate_rsa_key, "ed25519": keys.generate_ca_key,
                            "p384": lambda: ec.generate_private_key(ec.SECP384R1())}
    client = served.connect()
    assert client.send(session_bind(host=made[kind]())) == SUCCESS
    assert signs(client)


def test_bound_once_a_connection_stays_so(served: Served) -> None:
    client = served.connect()
    assert client.send(session_bind()) == SUCCESS
    assert client.send(session_bind(session=b"o" * 32)) == REFUSED
    assert client.send(session_bind(host=OTHER)) == REFUSED
    assert signs(client)
    assert not signs(client, session=b"o" * 32)


@pytest.mark.parametrize("signed", [b"o" * 32, b""])
def test_a_key_that_did_not_sign_the_session_binds_nothing(served: Served, signed: bytes) -> None:
    # A server whose signature nobody here can verify (SHA-1) is one to log in to as before.
    client = served.connect()
    assert client.send(session_bind(signed=signed)) == REFUSED
    assert signs(client)
    assert client.send(session_bind()) == SUCCESS


@pytest.mark.parametrize("signed", [None, b"o" * 32], ids=["proven", "not proven"])
@pytest.mark.parametrize("bound_before", [False, True])
def test_forwarded_to_a_host_it_lists_and_signs_nothing(
    served: Served, signed: bytes | None, bound_before: bool
) -> None:
    client = served.connect()
    if bound_before:
        client.send(session_bind())
    client.send(session_bind(forwarding=1, signed=signed))
    assert listed(client.send(LIST)) == []
    assert not signs(client)
    # What the host behind it may send to take it back.
    client.send(session_bind())
    client.send(session_bind(session=b"o" * 32))
    assert not signs(client)
    assert not signs(client, session=b"o" * 32)
    assert served.connections.signed == 0
    assert signs(served.connect()), "others are served"


def test_what_cannot_be_read_may_have_been_a_forwarded_one(served: Served) -> None:
    short = message(27, session_bind()[5:-1])
    for cut in (session_bind(rest=b"\0"), session_bind(session=b"s" * 65), short):
        client = served.connect()
        assert client.send(cut) == REFUSED
        assert not signs(client)


@given(st.binary(max_size=80))
def test_no_bytes_break_it(content: bytes) -> None:
    made = Served()
    client = made.connect()
    assert client.send(message(27, wire.string(b"session-bind@openssh.com") + content)) == REFUSED
    assert not client.is_cut


def test_other_extensions_are_refused(served: Served) -> None:
    client = served.connect()
    for said in (b"\0\0\0\x05query", b"", b"\0\0\0\x05que"):
        assert client.send(message(27, said)) == REFUSED
    assert signs(client)
