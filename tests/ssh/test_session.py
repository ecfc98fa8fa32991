"""Sessions over the wire: what runs, what is refused, and how much memory it takes."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.core.audit import EventType
from tests.ssh.client import START, SUBJECT_BLOB, Wire
from tests.ssh.node import FakeAccess, user_certificate

OPEN, CONFIRM, OPEN_FAILURE, ADJUST, DATA, EXTENDED, EOF, CLOSE, CHANNEL_REQUEST, GRANTED, DENIED = (
    90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100,
)


class Channel:
    """A client's side of one session channel."""

    def __init__(self, connection: Wire, *, window: int = 1 << 20, max_packet: int = 32768) -> None:
        self.wire = connection
        self.out, self.error = b"", b""
        self.status: int | None = None
        self.signal: bytes | None = None
        self.closed = self.eof = False
        self.granted = 0
        ((number, payload),) = connection.send(
            OPEN, wire.string(b"session"), wire.u32(7), wire.u32(window), wire.u32(max_packet)
        )
        assert number == CONFIRM
        reader = Reader(payload)
        assert reader.u32() == 7
        self.remote, self.window, self.packet = reader.u32(), reader.u32(), reader.u32()

    def send(self, number: int, *parts: bytes) -> list[int]:
        packets = self.wire.send(number, wire.u32(self.remote), *parts)
        for packet in packets:
            self.take(*packet)
        return [one for one, _ in packets]

    def take(self, number: int, payload: bytes) -> None:
        reader = Reader(payload)
        assert reader.u32() == 7
        if number == DATA:
            assert not self.eof
            self.out += reader.string()
        elif number == EXTENDED:
            assert reader.u32() == 1
            self.error += reader.string()
        elif number == ADJUST:
            self.granted += reader.u32()
        elif number == CHANNEL_REQUEST:
            kind = reader.string()
            assert not reader.boolean()
            if kind == b"exit-status":
                self.status = reader.u32()
            else:
                self.signal = reader.string()
        elif number == EOF:
            self.eof = True
        elif number == CLOSE:
            self.closed = True

    def request(self, kind: bytes, payload: bytes = b"") -> list[int]:
        return self.send(CHANNEL_REQUEST, wire.string(kind), b"\1", payload)

    def run(self, command: str) -> Channel:
        assert self.request(b"exec", wire.text(command))[0] == GRANTED
        return self


@pytest.mark.parametrize(
    ("command", "out", "status"),
    [
        ("echo a 'b  c'", b"a b  c\n", 0),
        ("true", b"", 0),
        ("false", b"", 1),
        ("whoami", b"deploy\n", 0),
    ],
)
def test_builtin_commands(command: str, out: bytes, status: int) -> None:
    channel = Channel(Wire().log_in()).run(command)
    assert (channel.out, channel.error, channel.status, channel.closed) == (out, b"", status, True)


@pytest.mark.parametrize("command", ["rm -rf /", "", "'", "/bin/sh", "whoami\n"])
def test_unknown_commands_name_the_known_ones(command: str) -> None:
    channel = Channel(Wire().log_in()).run(command)
    if command.strip() == "whoami":
        assert channel.status == 0
        return
    assert channel.status == 127
    assert channel.error.count(b"\n") == 1
    assert b"whoami, certificate, echo, true, false" in channel.error


def test_commands_that_cost_too_much_to_read_are_refused() -> None:
    channel = Channel(Wire().log_in()).run("echo " + "a" * 16 * 1024)
    assert (channel.out, channel.status) == (b"", 2)
    assert channel.error == b"no command here is longer than 16384 bytes\n"


def test_certificate_prints_what_was_validated() -> None:
    shown = json.loads(Channel(Wire().log_in()).run("certificate").out)
    assert shown["serial"] == 12
    assert shown["principals"] == ["deploy"]
    assert shown["roles"] == ["deployer"]
    assert (shown["bot"], shown["generation"]) == ("ci", 3)
    assert (shown["valid_after"], shown["valid_before"]) == ("2026-11-01T11:59:00Z", "2026-11-01T13:00:00Z")


def test_certificate_for_ever_is_shown() -> None:
    blob = user_certificate(SUBJECT_BLOB, at=START, valid_before=2**64 - 1)
    shown = json.loads(Channel(Wire().log_in(blob=blob)).run("certificate").out)
    assert shown["valid_before"] == "forever"


def test_shell_gives_a_hint() -> None:
    channel = Channel(Wire().log_in())
    assert channel.request(b"shell")[0] == GRANTED
    assert channel.error.startswith(b"No shell here")
    assert channel.status == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root can become anybody")
def test_without_rights_only_the_own_account_runs() -> None:
    connection = Wire(exec="system", run_as="root").start_userauth()
    assert connection.numbers(50, connection.request()) == [51]
    assert connection.reasons() == ["account"]


def test_login_without_account_is_refused() -> None:
    connection = Wire(exec="system", run_as="no-such-account").start_userauth()
    assert connection.numbers(50, connection.request(signer=None)) == [51]
    assert connection.reasons() == ["account"]


def test_echo_sends_input_back_until_it_ends() -> None:
    channel = Channel(Wire().log_in()).run("echo")
    channel.send(DATA, wire.string(b"one"))
    channel.send(DATA, wire.string(b"two"))
    assert (channel.out, channel.closed) == (b"onetwo", False)
    channel.send(EOF)
    assert (channel.status, channel.closed) == (0, True)


def test_input_sent_before_the_command_is_kept() -> None:
    channel = Channel(Wire().log_in())
    channel.send(DATA, wire.string(b"early"))
    channel.send(EOF)
    channel.run("echo")
    assert (channel.out, channel.status) == (b"early", 0)


def test_empty_packets_before_the_command_are_not_kept() -> None:
    """They cost no window, so that nothing would bound them."""
    channel = Channel(Wire().log_in())
    for _ in range(100):
        channel.send(DATA, wire.string(b""))
    assert len(channel.wire.server.service.channels[channel.remote]._early) == 0


def test_signal_ends_echo() -> None:
    channel = Channel(Wire().log_in()).run("echo")
    channel.request(b"signal", wire.string(b"TERM"))
    assert (channel.signal, channel.closed) == (b"TERM", True)


@pytest.mark.parametrize("kind", [b"exec", b"shell", b"subsystem"])
def test_force_command_wins(kind: bytes) -> None:
    blob = user_certificate(SUBJECT_BLOB, at=START, critical_options=(("force-command", "certificate"),))
    channel = Channel(Wire().log_in(blob=blob))
    wanted = b"" if kind == b"shell" else b"echo hacked"
    assert channel.request(kind, wire.string(wanted) if wanted else b"")[0] == GRANTED
    shown = json.loads(channel.out)
    assert (shown["force_command"], shown["original_command"]) == ("certificate", wanted.decode())


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (b"pty-req", wire.string(b"xterm") + wire.u32(80) * 4 + wire.string(b"")),
        (b"x11-req", b"\0" + wire.string(b"a") + wire.string(b"b") + wire.u32(0)),
        (b"auth-agent-req@openssh.com", b""),
        (b"env", wire.string(b"LD_PRELOAD") + wire.string(b"x")),
        (b"subsystem", wire.string(b"sftp")),
        (b"exec", wire.string(b"echo \0")),
        (b"\xff\xfe", b""),
        (b"exit-status", b""),
    ],
)
def test_refused_requests(kind: bytes, payload: bytes) -> None:
    """Refused with a plain no, also where the certificate permits a terminal."""
    channel = Channel(Wire().log_in())
    assert channel.request(kind, payload) == [DENIED]
    assert channel.run("true").status == 0


def test_one_program_for_one_session() -> None:
    channel = Channel(Wire().log_in()).run("echo")
    assert channel.request(b"exec", wire.string(b"true")) == [DENIED]


@pytest.mark.parametrize(
    ("kind", "code"),
    [(b"direct-tcpip", 1), (b"forwarded-tcpip", 1), (b"x11", 1), (b"nonsense", 3), (b"\xff", 3)],
)
def test_other_channels_are_refused(kind: bytes, code: int) -> None:
    connection = Wire().log_in()
    ((number, payload),) = connection.send(
        OPEN, wire.string(kind), wire.u32(7), wire.u32(9999), wire.u32(9999), b"junk"
    )
    reader = Reader(payload)
    assert (number, reader.u32(), reader.u32()) == (OPEN_FAILURE, 7, code)


def test_channels_are_few_and_come_back() -> None:
    connection = Wire(max_channels=2).log_in()
    first, _ = Channel(connection).run("echo"), Channel(connection)
    opening = (wire.string(b"session"), wire.u32(7), wire.u32(9), wire.u32(9))
    assert connection.numbers(OPEN, *opening) == [OPEN_FAILURE]
    first.send(CLOSE)
    assert connection.numbers(OPEN, *opening) == [CONFIRM]


def test_packets_of_no_size_are_refused() -> None:
    opening = (wire.string(b"session"), wire.u32(7), wire.u32(9), wire.u32(0))
    assert Wire().log_in().numbers(OPEN, *opening) == [OPEN_FAILURE]


@pytest.mark.parametrize(
    ("number", "answer"),
    [(CONFIRM, wire.u32(9) + wire.u32(1 << 20) + wire.u32(0)),
     (OPEN_FAILURE, wire.u32(1) + wire.string(b"") + wire.string(b""))],
    ids=["confirmation", "failure"],
)
def test_answers_to_channels_that_nobody_opened_end_the_connection(number: int, answer: bytes) -> None:
    """A client cannot have its channel's packets made of no size, nor its channel
    forgotten while something runs in it."""
    channel = Channel(Wire().log_in()).run("echo")
    session = channel.wire.server.service.channels[channel.remote]
    channel.wire.send(number, wire.u32(channel.remote), answer)
    assert channel.wire.client.lost
    assert session.remoteMaxPacket == 32768
    assert channel.wire.access.events[-1].type == EventType.SESSION_END


def test_no_more_sessions_is_kept_to() -> None:
    connection = Wire().log_in()
    assert connection.send(80, wire.string(b"no-more-sessions@openssh.com"), b"\0") == []
    opening = (wire.string(b"session"), wire.u32(7), wire.u32(9), wire.u32(9))
    assert connection.numbers(OPEN, *opening) == [OPEN_FAILURE]


def test_global_requests_are_refused() -> None:
    forward = wire.string(b"tcpip-forward"), b"\1", wire.string(b""), wire.u32(0)
    assert Wire().log_in().send(80, *forward) == [(82, b"")]


def test_output_waits_for_the_window() -> None:
    """In the order it was made, in packets of the size asked for; the end comes last."""
    channel = Channel(Wire().log_in(), window=10, max_packet=4)
    channel.request(b"exec", wire.string(b"echo 0123456789abcdefghij"))
    assert (channel.out, channel.closed, channel.eof) == (b"0123456789", False, False)
    numbers = channel.send(ADJUST, wire.u32(100))
    assert channel.out == b"0123456789abcdefghij\n"
    assert numbers == [DATA, DATA, DATA, EOF, CHANNEL_REQUEST, CLOSE]


def test_echo_takes_no_more_than_it_can_send() -> None:
    """A peer that reads nothing gets no new window: memory stays bounded."""
    channel = Channel(Wire().log_in(), window=0).run("echo")
    sent = 0
    while sent < channel.window:
        channel.send(DATA, wire.string(b"x" * 32768))
        sent += 32768
    assert channel.granted == 0
    channel.send(DATA, wire.string(b"x"))
    assert channel.closed


def test_echo_goes_on_when_it_is_read() -> None:
    channel = Channel(Wire().log_in(), window=0).run("echo")
    for _ in range(4):
        channel.send(DATA, wire.string(b"x" * 32768))
    channel.send(ADJUST, wire.u32(1 << 20))
    assert len(channel.out) == 4 * 32768
    assert channel.granted == 4 * 32768


def test_full_socket_stops_everything() -> None:
    """When the peer does not read its socket, nothing is read from it either."""
    connection = Wire().log_in()
    channel = Channel(connection).run("echo")
    paused: list[str] = []
    connection.server_io.pauseProducing = lambda: paused.append("pause")
    connection.server_io.resumeProducing = lambda: paused.append("resume")
    connection.server.pauseProducing()
    channel.send(DATA, wire.string(b"held"))
    assert channel.out == b""
    connection.client.received.clear()
    connection.server.resumeProducing()
    connection.settle()
    assert paused == ["pause", "resume"]
    assert [number for number, _ in connection.client.received] == [DATA]


def test_output_waits_while_keys_change() -> None:
    """Conch would queue it without bounds for a peer that never finishes."""
    connection = Wire().log_in()
    channel = Channel(connection).run("echo")
    connection.server.sendKexInit()
    assert connection.server.output_blocked
    session: Any = next(iter(connection.server.service.channels.values()))
    session.dataReceived(b"held")
    assert len(connection.server._blockedByKeyExchange) == 0
    connection.settle()
    for packet in connection.client.received:
        channel.take(*packet)
    assert channel.out == b"held"


# --- locks and ends ------------------------------------------------------------------------


def test_lock_ends_the_live_session() -> None:
    connection = Wire().log_in()
    Channel(connection).run("echo")
    connection.access.lock("instance", "0b8fd6c0-5b1e-4d0f-a3f7-6f6c2b7a1d11", START)
    connection.factory.policy_changed()
    connection.settle()
    assert connection.client.disconnected == b"this identity is locked"
    assert connection.client.lost
    login, start, end, logout = connection.access.events
    assert (login.type, start.type) == (EventType.USER_LOGIN, EventType.SESSION_START)
    assert (end.type, end.reason, end.fields["command"]) == (EventType.SESSION_END, "locked", "echo")
    assert "exit_status" not in end.fields
    assert (logout.type, logout.reason) == (EventType.USER_LOGOUT, "locked")
    assert connection.clock.getDelayedCalls() == []


def test_lock_of_another_leaves_the_session_alone() -> None:
    connection = Wire().log_in()
    connection.access.lock("bot", "other", START)
    connection.factory.policy_changed()
    connection.settle()
    assert not connection.client.lost
    assert len(connection.clock.getDelayedCalls()) == 1


def test_locks_by_other_servers_are_found_in_time() -> None:
    """Nobody tells this server; it looks again every few seconds while somebody is logged in."""
    connection = Wire().log_in()
    connection.access.lock("bot", "ci", START)
    connection.clock.advance(10)
    connection.settle()
    assert connection.client.lost
    assert connection.clock.getDelayedCalls() == []


def test_lock_between_decision_and_change_is_not_lost() -> None:
    """A change during a check makes one more check."""
    access = FakeAccess()
    connection = Wire(access).log_in()
    waiting: list[Any] = []
    access.answer = lambda: waiting.append(Deferred()) or waiting[-1]  # type: ignore[func-returns-value]
    old = access.now
    connection.factory.policy_changed()
    access.lock("bot", "ci", START)
    connection.factory.policy_changed()
    waiting[0].callback(old)
    assert len(waiting) == 2
    waiting[1].callback(access.now)
    connection.settle()
    assert connection.client.lost


def test_lock_during_a_login_is_not_lost() -> None:
    """The login was decided by a policy that is old when it is done."""
    access = FakeAccess()
    waiting: list[Any] = []
    access.answer = lambda: waiting.append(Deferred()) or waiting[-1]  # type: ignore[func-returns-value]
    connection = Wire(access).start_userauth()
    connection.send(50, connection.request())
    old, access.answer = access.now, None
    access.lock("bot", "ci", START)
    connection.factory.policy_changed()
    waiting[0].callback(old)
    connection.settle()
    assert connection.client.lost
    assert access.events[-1].reason == "locked"


def test_failed_check_is_repeated(problems: list[str]) -> None:
    connection = Wire().log_in()
    connection.access.answer = lambda: fail(RuntimeError("gone"))
    connection.factory.policy_changed()
    assert problems.pop()
    connection.access.answer = None
    connection.access.lock("bot", "ci", START)
    connection.clock.advance(10)
    connection.settle()
    assert connection.client.lost


def test_stop_ends_every_connection() -> None:
    connection = Wire().log_in()
    other = Wire(factory=connection.factory)
    stopped: list[Any] = []
    connection.factory.end_all().addBoth(stopped.append)
    connection.settle()
    assert stopped == []
    other.settle()
    assert stopped == [None]
    assert connection.clock.getDelayedCalls() == []
    assert connection.factory.buildProtocol(None) is None
    assert [event.reason for event in connection.access.events] == ["", "shutdown"]


def test_session_is_audited_from_start_to_end() -> None:
    """What ran, how it ended, how much passed; tied together by a name, and to the login's certificate."""
    connection = Wire().log_in()
    channel = Channel(connection).run("echo")
    channel.send(DATA, wire.string(b"four"))
    connection.clock.advance(7)
    channel.send(EOF)
    connection.client.transport.loseConnection()
    connection.settle()
    login, start, end = connection.access.events
    assert (login.type, start.type, end.type, end.reason) == (
        EventType.USER_LOGIN, EventType.SESSION_START, EventType.SESSION_END, "",
    )
    assert (start.fields["kind"], start.fields["command"]) == ("exec", "echo")
    assert {name: end.fields[name] for name in ("seconds", "exit_status", "bytes_in", "bytes_out")} == {
        "seconds": 7, "exit_status": 0, "bytes_in": 4, "bytes_out": 4,
    }
    assert start.fields["session"] == end.fields["session"]
    for event in (login, start, end):
        assert (event.fields["serial"], event.client_ip, event.actor) == (12, "192.0.2.7", "bot/ci")
        assert str(event.fields["ca"]).startswith("SHA256:")


def test_what_runs_is_escaped_and_capped_in_the_audit() -> None:
    connection = Wire().log_in()
    Channel(connection).run("echo \x1b]0;\n" + "x" * 5000)
    start = connection.access.events[1]
    command = str(start.fields["command"])
    assert command.startswith("echo \\x1b]0;\\n")
    assert len(command) == 512


def test_refusals_in_a_connection_are_recorded_up_to_a_limit() -> None:
    connection = Wire().log_in()
    for _ in range(100):
        connection.send(80, wire.string(b"tcpip-forward"), b"\1", wire.string(b""), wire.u32(0))
    refused = [event for event in connection.access.events if event.type is EventType.AUTHZ_DENIED]
    assert len(refused) == 20
    assert (refused[0].reason, refused[0].success) == ("port_forwarding", False)
