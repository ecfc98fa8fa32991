"""Terminals: what a request says, and what the device is like."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.errors import CertificateRejected
from mezite.ssh.accounts import find_account
from mezite.ssh.terminal import Device, Size, TerminalRequest, open_terminal, set_size

ACCOUNT = find_account(pwd.getpwuid(os.geteuid()).pw_name)


def request(
    name: bytes = b"xterm", modes: bytes = b"\0", size: tuple[int, ...] = (80, 24, 640, 480)
) -> bytes:
    return wire.string(name) + b"".join(map(wire.u32, size)) + wire.string(modes)


def mode(code: int, value: int) -> bytes:
    return bytes([code]) + wire.u32(value)


@pytest.fixture
def opened() -> Iterator[list[Device]]:
    devices: list[Device] = []
    yield devices
    for device in devices:
        device.close()


def opened_with(devices: list[Device], *modes: bytes, **how: object) -> list[int | list[bytes]]:
    wanted = TerminalRequest.from_reader(Reader(request(modes=b"".join(modes) + b"\0")))
    devices.append(open_terminal(wanted, ACCOUNT))
    return termios.tcgetattr(devices[-1].theirs)


def test_a_request_is_read() -> None:
    wanted = TerminalRequest.from_reader(Reader(request(modes=mode(53, 0) + mode(128, 38400) + b"\0")))
    assert wanted.name == b"xterm"
    assert wanted.size == Size(80, 24, 640, 480)
    assert wanted.modes == ((53, 0), (128, 38400))


@pytest.mark.parametrize(
    ("encoded", "read"),
    [(b"", 0), (b"\0", 0), (mode(53, 1), 1), (mode(53, 1) + b"\x35\0", 1), (mode(160, 1) + mode(53, 1), 0)],
    ids=["empty", "end", "no end", "cut", "unknown form"],
)
def test_modes_are_read_as_far_as_they_can_be(encoded: bytes, read: int) -> None:
    """RFC 4254 §8: from opcode 160 on nobody knows how long the arguments are."""
    assert len(TerminalRequest.from_reader(Reader(request(modes=encoded))).modes) == read


@pytest.mark.parametrize("name", [b"", b"../../tmp/x", b"a b", b"x" * 65, b"\xff", b"-x", b"x\0y"])
def test_names_that_are_no_terminals_are_dropped(name: bytes) -> None:
    assert TerminalRequest.from_reader(Reader(request(name))).name == b""


def test_sizes_fit_what_the_kernel_holds() -> None:
    assert TerminalRequest.from_reader(Reader(request(size=(2**32 - 1, 0, 0, 0)))).size.columns == 65535


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with contextlib.suppress(CertificateRejected):
        TerminalRequest.from_reader(Reader(data))


def test_the_terminal_is_the_accounts_own(opened: list[Device]) -> None:
    opened_with(opened)
    found = os.fstat(opened[0].theirs)
    assert found.st_uid == ACCOUNT.uid
    assert not stat.S_IMODE(found.st_mode) & 0o007
    assert os.get_terminal_size(opened[0].theirs) == (80, 24)
    set_size(opened[0].ours, Size(100, 30, 0, 0))
    assert os.get_terminal_size(opened[0].theirs) == (100, 30)


def test_modes_are_set(opened: list[Device]) -> None:
    state = opened_with(opened, mode(53, 0), mode(36, 0), mode(3, 8), mode(1, 255), mode(72, 1), mode(91, 1))
    flags = [word for word in state if isinstance(word, int)]
    characters = state[6]
    assert isinstance(characters, list)
    assert not flags[3] & termios.ECHO
    assert flags[3] & termios.ICANON
    assert not flags[0] & termios.ICRNL
    assert flags[1] & termios.ONLCR
    assert flags[2] & termios.CSIZE == termios.CS8
    assert (characters[termios.VERASE], characters[termios.VINTR]) == (b"\x08", b"\0")


@given(st.lists(st.tuples(st.integers(1, 159), st.integers(0, 2**32 - 1)), max_size=30))
def test_no_modes_keep_a_terminal_from_opening(modes: list[tuple[int, int]]) -> None:
    wanted = TerminalRequest(b"xterm", Size(1, 1, 0, 0), tuple(modes))
    open_terminal(wanted, ACCOUNT).close()
