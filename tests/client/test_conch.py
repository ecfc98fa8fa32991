"""`mezite.client.conch.connect`: what comes of connections that lead nowhere, by a clock of the test's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mezite.client import Credential, conch
from mezite.errors import NoAnswer, Unreachable
from tests.harness import Auth
from tests.identity.fakes import joined_rig


@pytest.fixture(scope="module")
def credential() -> Credential:
    auth = Auth()
    held = joined_rig(auth).disk.held
    auth.close()
    assert held is not None
    return Credential.from_held(held)


class Connecting:
    def __init__(self, credential: Credential) -> None:
        self.reactor = MemoryReactorClock()
        self.outcome: list[Any] = []
        endpoint = TCP4ClientEndpoint(self.reactor, "192.0.2.1", 22, timeout=3600)
        within = timedelta(seconds=30)
        self.connecting = conch.connect(
            self.reactor, endpoint, credential, login="deploy", host="node1", within=within
        )
        self.connecting.addBoth(self.outcome.append)

    def connected(self) -> Any:
        """The client's protocol, once there is a connection."""
        factory = self.reactor.tcpClients[0][2]
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        return protocol

    @property
    def error(self) -> Any:
        (found,) = self.outcome
        assert isinstance(found, Failure)
        return found.value


def test_nobody_answers_the_connection(credential: Credential) -> None:
    connecting = Connecting(credential)
    connecting.reactor.advance(29)
    assert connecting.outcome == []
    connecting.reactor.advance(1)
    assert isinstance(connecting.error, NoAnswer)
    assert str(connecting.error) == "node1 did not let deploy in within 30 s"


@pytest.mark.parametrize("is_connected", [False, True])
def test_cancelling_leaves_nothing(credential: Credential, is_connected: bool) -> None:
    connecting = Connecting(credential)
    if is_connected:
        protocol = connecting.connected()
    connecting.connecting.cancel()
    assert isinstance(connecting.error, CancelledError | ConnectingCancelledError)
    assert not is_connected or protocol.transport.disconnecting or protocol.transport.disconnected
    assert connecting.reactor.getDelayedCalls() == []


def test_a_host_that_says_nothing(credential: Credential) -> None:
    connecting = Connecting(credential)
    connecting.reactor.advance(20)
    protocol = connecting.connected()
    connecting.reactor.advance(10)
    assert isinstance(connecting.error, NoAnswer)
    assert protocol.transport.disconnecting or protocol.transport.disconnected
    assert connecting.reactor.getDelayedCalls() == []


def test_a_host_that_refuses_the_connection(credential: Credential) -> None:
    connecting = Connecting(credential)
    connecting.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
    assert isinstance(connecting.error, ConnectionRefusedError)


def test_a_host_that_hangs_up(credential: Credential) -> None:
    connecting = Connecting(credential)
    connecting.connected().connectionLost(Failure(ConnectionDone()))
    assert isinstance(connecting.error, Unreachable)
    assert connecting.reactor.getDelayedCalls() == []


def test_what_is_no_ssh_server(credential: Credential) -> None:
    connecting = Connecting(credential)
    protocol = connecting.connected()
    protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert protocol.transport.disconnecting
    protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(connecting.error, Unreachable)


def test_what_libraries_take(credential: Credential) -> None:
    """One pair, in each library's own terms."""
    import asyncssh

    options = credential.for_asyncssh()
    ((key, certificate),) = options["client_keys"]
    assert key.public_data == certificate.key.public_data
    assert asyncssh.import_known_hosts(options["known_hosts"].decode()) is not None
    conch_key = credential.conch_key()
    assert conch_key.public().blob() == credential.parsed().subject_blob
    assert not conch_key.isPublic()
