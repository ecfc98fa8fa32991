"""One client of the agent: what it is answered, and what it can do to others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh import agent
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from mezite.admin.caller import Allowed, Caller
from mezite.agent import connection
from mezite.agent.connection import (
    IDLE_SECONDS,
    MAX_MESSAGE,
    MESSAGE_SECONDS,
    AgentConnection,
    AgentConnections,
)
from mezite.agent.identities import GRACE, MAX_KEPT, Identities
from mezite.certs import keys, wire
from mezite.certs.wire import Reader
from tests.agent.making import identity, login_request, message, sign_request

FAILURE, LIST, LISTED, SIGNED = 5, message(11), 12, 14
REFUSED = [(FAILURE, b"")]


class Served:
    """An agent in memory; ``uid`` is whose the next client is."""

    def __init__(self, max_connections: int = 8) -> None:
        self.clock = Clock()
        self.identities = Identities()
        self.uid = 1000
        self.connections = AgentConnections(
            self.clock, self.identities, Allowed(1000), now=self.now, max_connections=max_connections,
            identify=lambda transport: Caller(self.uid, self.uid, 4711, "somebody"),
        )

    def now(self) -> timedelta:
        return timedelta(seconds=self.clock.seconds())

    def connect(self) -> Client:
        return Client(self)


class Client:
    def __init__(self, served: Served) -> None:
        self.transport = StringTransport()
        built = served.connections.buildProtocol(None)
        assert isinstance(built, AgentConnection)
        self.protocol = built
        self.protocol.makeConnection(self.transport)

    @property
    def is_cut(self) -> bool:
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def send(self, data: bytes) -> list[tuple[int, bytes]]:
        """Number and content of each answer."""
        self.transport.clear()
        self.protocol.dataReceived(data)
        return answers(self.transport.value())


def answers(data: bytes) -> list[tuple[int, bytes]]:
    reader, found = Reader(data), []
    while not reader.at_end:
        answer = reader.string()
        found.append((answer[0], answer[1:]))
    return found


@pytest.fixture
def served() -> Served:
    return Served()


def listed(answer: list[tuple[int, bytes]]) -> list[tuple[bytes, bytes]]:
    ((number, content),) = answer
    assert number == LISTED
    reader = Reader(content)
    found = [(reader.string(), reader.string()) for _ in range(reader.u32())]
    reader.finish()
    return found


def test_an_empty_agent_lists_nothing(served: Served) -> None:
    assert listed(served.connect().send(LIST)) == []


def test_only_the_newest_certificate_is_listed_and_no_plain_key(served: Served) -> None:
    client = served.connect()
    for serial in (1, 2):
        served.identities.offer(identity(serial), served.now())
        expected = [(identity(serial).certificate.blob, f"b1/i/{serial}".encode())]
        assert listed(client.send(LIST)) == expected


def test_a_login_is_signed(served: Served) -> None:
    held = identity()
    served.identities.offer(held, served.now())
    data = login_request(held)
    ((number, content),) = served.connect().send(sign_request(held.certificate.blob, data))
    assert number == SIGNED
    reader = Reader(content)
    keys.verify(held.certificate.subject_blob, reader.string(), data)
    reader.finish()


@pytest.mark.parametrize(("flag", "name"), [(2, b"rsa-sha2-256"), (4, b"rsa-sha2-512")])
def test_rsa_signs_with_sha2_only(served: Served, flag: int, name: bytes) -> None:
    held = identity(1, "rsa")
    served.identities.offer(held, served.now())
    data = login_request(held, algorithm=name + b"-cert-v01@openssh.com")
    ((number, content),) = served.connect().send(sign_request(held.certificate.blob, data, flag))
    assert number == SIGNED
    keys.verify(held.certificate.subject_blob, Reader(content).string(), data, algorithm=name)
    assert served.connect().send(sign_request(held.certificate.blob, data, 0)) == REFUSED


def test_the_one_before_signs_for_a_grace_time(served: Served) -> None:
    """A login that had listed it when it was replaced ends well; later ones do not."""
    old, new = identity(1), identity(2)
    served.identities.offer(old, served.now())
    served.identities.offer(new, served.now())
    request = sign_request(old.certificate.blob, login_request(old))
    served.clock.advance(GRACE.total_seconds() - 1)
    assert served.connect().send(request)[0][0] == SIGNED
    served.clock.advance(1)
    assert served.connect().send(request) == REFUSED


def test_what_is_kept_is_bounded() -> None:
    identities = Identities()
    for serial in range(MAX_KEPT + 10):
        identities.offer(identity(serial), timedelta(0))
    kept = [s for s in range(MAX_KEPT + 10) if identities.find(identity(s).certificate.blob, timedelta(0))]
    assert kept == list(range(9, MAX_KEPT + 10))
    identities.tidy(GRACE)
    assert identities.find(identity(MAX_KEPT + 8).certificate.blob, timedelta(0)) is None
    identities.forget()
    assert identities.listed is None


def test_nothing_can_be_added_removed_or_locked(served: Served) -> None:
    """Keys, smart cards, locks, other extensions than session-bind: the list is what it was."""
    held = identity()
    served.identities.offer(held, served.now())
    client = served.connect()
    for number in set(range(256)) - {11, 13}:
        for content in (b"", wire.string(held.certificate.blob), wire.string(b"query")):
            assert client.send(message(number, content)) == REFUSED
    assert len(listed(client.send(LIST))) == 1
    assert client.send(sign_request(held.certificate.blob, login_request(held)))[0][0] == SIGNED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        wire.string(b"x"),
        wire.string(identity().certificate.blob) + wire.string(login_request(identity())),
        wire.string(identity().certificate.blob) + wire.string(login_request(identity())) + bytes(5),
        wire.string(identity().certificate.subject_blob) + wire.string(login_request(identity())) + bytes(4),
        wire.string(identity().certificate.blob) + wire.string(b"any data") + bytes(4),
        b"\xff\xff\xff\xff" + bytes(20),
    ],
)
def test_a_bad_request_is_refused_and_the_connection_goes_on(served: Served, content: bytes) -> None:
    served.identities.offer(identity(), served.now())
    client = served.connect()
    assert client.send(message(13, content)) == REFUSED
    assert len(listed(client.send(LIST))) == 1


@pytest.mark.parametrize("length", [0, MAX_MESSAGE + 1, 2**32 - 1])
def test_a_message_of_no_possible_length_ends_the_connection(served: Served, length: int) -> None:
    client = served.connect()
    assert client.send(wire.u32(length) + b"\x0b") == []
    assert client.is_cut


def test_the_longest_message_is_read(served: Served) -> None:
    client = served.connect()
    assert client.send(message(13, bytes(MAX_MESSAGE - 1))) == REFUSED
    assert not client.is_cut


def test_other_users_are_turned_away(served: Served) -> None:
    served.identities.offer(identity(), served.now())
    served.uid = 1001
    client = served.connect()
    assert client.is_cut
    assert client.send(LIST) == []
    served.uid = 0
    assert len(listed(served.connect().send(LIST))) == 1


def test_a_refusal_of_one_kind_hides_none_of_another(served: Served) -> None:
    """Whoever asks for nonsense again and again does not keep an intruder out of the log."""
    told: list[str] = []

    def note(event: LogEvent) -> None:
        if event.get("event") == "agent.refused":
            told.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    try:
        for _ in range(3):
            served.connect().send(b"\xff" * 4)
        served.uid = 2000
        for _ in range(3):
            served.connect()
        served.clock.advance(11)
        served.connect()
    finally:
        globalLogPublisher.removeObserver(note)
    assert ["bytes" in line for line in told] == [True, False, False], told
    assert all("may not use this agent" in line for line in told[1:])


def test_connections_are_bounded(served: Served) -> None:
    clients = [served.connect() for _ in range(9)]
    assert [client.is_cut for client in clients] == [False] * 8 + [True]


def test_a_message_is_given_thirty_seconds_however_it_trickles(served: Served) -> None:
    client = served.connect()
    for byte in LIST[:4]:
        assert client.send(bytes([byte])) == []
        served.clock.advance(MESSAGE_SECONDS / 4 - 0.1)
    assert not client.is_cut
    served.clock.advance(1)
    assert client.is_cut


def test_a_silent_connection_is_ended_in_the_end(served: Served) -> None:
    client = served.connect()
    client.send(LIST)
    served.clock.advance(IDLE_SECONDS - 1)
    assert not client.is_cut
    client.send(LIST)
    served.clock.advance(IDLE_SECONDS)
    assert client.is_cut


def test_who_does_not_read_is_not_read_from(served: Served) -> None:
    """Requests wait, bounded, while answers do; and not for ever."""
    served.identities.offer(identity(), served.now())
    client = served.connect()
    client.protocol.pauseProducing()
    assert client.transport.producerState == "paused"
    assert client.send(LIST * 100) == []
    client.protocol.resumeProducing()
    assert len(answers(client.transport.value())) == 100
    client.protocol.pauseProducing()
    client.send(LIST)
    served.clock.advance(MESSAGE_SECONDS)
    assert client.is_cut


def test_stopping_cuts_every_connection(served: Served) -> None:
    client = served.connect()
    served.connections.close_all()
    assert client.is_cut


def test_what_is_used_of_conch_is_still_there() -> None:
    """A Twisted that moves one of these must be looked at before it is used."""
    for owner, names in connection.CONCH_NAMES.items():
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
    numbers = (agent.AGENT_FAILURE, agent.AGENTC_REQUEST_IDENTITIES, agent.AGENT_IDENTITIES_ANSWER,
               agent.AGENTC_SIGN_REQUEST, agent.AGENT_SIGN_RESPONSE)
    assert numbers == (5, 11, 12, 13, 14)
    assert issubclass(AgentConnection, agent.SSHAgentServer)


# --- whatever comes ------------------------------------------------------------------------

HELD = identity(1)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "session": st.binary(max_size=80),
    "number": st.integers(0, 255),
    "user": st.binary(max_size=20),
    "service": st.sampled_from([b"ssh-connection", b"ssh-userauth", b""]),
    "method": st.sampled_from([b"publickey", b"publickey-hostbound-v00@openssh.com", b"none"]),
    "signed": st.integers(0, 255),
    "algorithm": st.sampled_from([b"ssh-rsa", b"ecdsa-sha2-nistp256", HELD.certificate.type_name]),
    "blob": st.one_of(st.binary(max_size=60), st.just(HELD.certificate.subject_blob)),
    "host_key": st.one_of(st.none(), st.binary(max_size=60)),
    "rest": st.binary(max_size=8),
}
REQUESTS: Callable[..., st.SearchStrategy[bytes]] = lambda: st.one_of(  # noqa: E731
    st.binary(max_size=300),
    st.fixed_dictionaries({}, optional=FIELDS).map(lambda changes: login_request(HELD, **changes)),
)
MESSAGES = st.one_of(
    st.builds(message, st.integers(0, 255), st.binary(max_size=200)),
    st.builds(
        sign_request,
        st.sampled_from([HELD.certificate.blob, HELD.certificate.subject_blob, b""]),
        REQUESTS(),
        st.sampled_from([0, 2, 4, 1, 2**32 - 1]),
    ),
)


def is_login(data: bytes) -> bool:
    """Written apart from the code under test: *data* is a login of ours, byte for byte."""
    reader = Reader(data)
    try:
        session, number, user = reader.string(), reader.byte(), reader.string()
        rest = reader.rest()
    except Exception:
        return False
    key = wire.string(HELD.certificate.type_name) + wire.string(HELD.certificate.blob)
    connection_of = wire.string(b"ssh-connection")
    simple = connection_of + wire.string(b"publickey") + b"\x01" + key
    bound = connection_of + wire.string(b"publickey-hostbound-v00@openssh.com") + b"\x01" + key
    if not (20 <= len(session) <= 64 and number == 50 and b"\0" not in user):
        return False
    if rest.startswith(bound):
        host_key = Reader(rest[len(bound):])
        try:
            host_key.string()
            host_key.finish()
        except Exception:
            return False
        return True
    return rest == simple


@settings(max_examples=400)
@given(st.lists(MESSAGES, max_size=6), st.data())
def test_junk_is_answered_or_ends_the_connection(sent: list[bytes], data: st.DataObject) -> None:
    """One answer for each message, in order; only whole logins are signed, however the bytes are cut."""
    served = Served()
    served.identities.offer(HELD, served.now())
    client = served.connect()
    stream, found = b"".join(sent), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += client.send(stream[start:stop])
    assert not client.is_cut
    assert len(found) == len(sent)
    for one, (number, _) in zip(sent, found, strict=True):
        assert number in (FAILURE, LISTED, SIGNED)
        if number == SIGNED:
            reader = Reader(one[5:])
            assert (reader.string(), is_login(reader.string())) == (HELD.certificate.blob, True)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_raw_bytes_do_no_harm(junk: bytes) -> None:
    served = Served()
    served.identities.offer(HELD, served.now())
    client = served.connect()
    assert all(number in (FAILURE, LISTED) for number, _ in client.send(junk))
    assert len(listed(served.connect().send(LIST))) == 1
