"""Terminals for sessions: what a client asks for, and the device (RFC 4254 §6.2, §6.7, §8)."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import re
import struct
import termios

from msgspec import Struct

from mezite.certs.wire import Reader
from mezite.ssh.accounts import Account

MAX_MODES = 1024
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9+._-]{0,63}")
"""Names of terminals; never a path, which programs would look up as one."""

_CHARACTERS = {
    1: termios.VINTR, 2: termios.VQUIT, 3: termios.VERASE, 4: termios.VKILL, 5: termios.VEOF,
    6: termios.VEOL, 7: termios.VEOL2, 8: termios.VSTART, 9: termios.VSTOP, 10: termios.VSUSP,
    12: termios.VREPRINT, 13: termios.VWERASE, 14: termios.VLNEXT, 18: termios.VDISCARD,
}
_IUTF8 = 0o40000
"""Linux; Python has no name for it."""
_INPUT, _OUTPUT, _LOCAL = 0, 1, 3
_FLAGS = {
    30: (_INPUT, termios.IGNPAR), 31: (_INPUT, termios.PARMRK), 32: (_INPUT, termios.INPCK),
    33: (_INPUT, termios.ISTRIP), 34: (_INPUT, termios.INLCR), 35: (_INPUT, termios.IGNCR),
    36: (_INPUT, termios.ICRNL), 38: (_INPUT, termios.IXON), 39: (_INPUT, termios.IXANY),
    40: (_INPUT, termios.IXOFF), 41: (_INPUT, termios.IMAXBEL), 42: (_INPUT, _IUTF8),
    50: (_LOCAL, termios.ISIG), 51: (_LOCAL, termios.ICANON), 53: (_LOCAL, termios.ECHO),
    54: (_LOCAL, termios.ECHOE), 55: (_LOCAL, termios.ECHOK), 56: (_LOCAL, termios.ECHONL),
    57: (_LOCAL, termios.NOFLSH), 58: (_LOCAL, termios.TOSTOP), 59: (_LOCAL, termios.IEXTEN),
    60: (_LOCAL, termios.ECHOCTL), 61: (_LOCAL, termios.ECHOKE),
    70: (_OUTPUT, termios.OPOST), 72: (_OUTPUT, termios.ONLCR), 73: (_OUTPUT, termios.OCRNL),
    74: (_OUTPUT, termios.ONOCR), 75: (_OUTPUT, termios.ONLRET),
}
"""Without parity and character size: a pseudo-terminal has eight bits and no parity."""
_SPEEDS = {
    int(name[1:]): getattr(termios, name) for name in dir(termios) if re.fullmatch(r"B[1-9]\d*", name)
}
_INPUT_SPEED, _OUTPUT_SPEED = 128, 129


class Size(Struct, frozen=True):
    """Of a window: in characters, and in pixels where they are known."""

    columns: int
    rows: int
    width: int
    height: int

    @classmethod
    def from_reader(cls, reader: Reader) -> Size:
        return cls(*(min(reader.u32(), 0xFFFF) for _ in range(4)))


class TerminalRequest(Struct, frozen=True):
    """What ``pty-req`` asks for."""

    name: bytes
    """For TERM; empty where the name is no terminal's."""
    size: Size
    modes: tuple[tuple[int, int], ...]

    @classmethod
    def from_reader(cls, reader: Reader) -> TerminalRequest:
        """Raises :class:`mezite.errors.CertificateRejected` for a malformed request."""
        name = reader.string(1024)
        size = Size.from_reader(reader)
        modes = reader.string(MAX_MODES)
        reader.finish()
        return cls(name if _NAME.fullmatch(name) else b"", size, _read_modes(modes))


def _read_modes(encoded: bytes) -> tuple[tuple[int, int], ...]:
    """Opcodes with their arguments, up to the end or to an opcode whose form nobody knows."""
    found: list[tuple[int, int]] = []
    at = 0
    while at + 5 <= len(encoded) and 1 <= encoded[at] <= 159:
        found.append((encoded[at], int.from_bytes(encoded[at + 1 : at + 5], "big")))
        at += 5
    return tuple(found)


class Device(Struct):
    """An open pseudo-terminal.  The program's side is closed here once it has been started."""

    ours: int
    theirs: int
    path: str

    def close(self) -> None:
        for fd in (self.ours, self.theirs):
            with contextlib.suppress(OSError):
                os.close(fd)


def open_terminal(wanted: TerminalRequest, account: Account) -> Device:
    """A new terminal that belongs to *account*, as *wanted*.  Raises ``OSError``."""
    ours, theirs = os.openpty()
    device = Device(ours, theirs, "")
    try:
        device.path = os.ttyname(theirs)
        if os.geteuid() == 0:
            group, mode = _writers(account)
            os.fchown(theirs, account.uid, group)
            os.fchmod(theirs, mode)
        _set_modes(theirs, wanted.modes)
        set_size(ours, wanted.size)
    except (OSError, termios.error) as error:
        device.close()
        raise OSError(str(error)) from None
    return device


def _writers(account: Account) -> tuple[int, int]:
    """Group and mode of a terminal: ``write`` and ``wall`` are in the group tty."""
    try:
        return grp.getgrnam("tty").gr_gid, 0o620
    except KeyError:
        return account.gid, 0o600


def set_size(fd: int, size: Size) -> None:
    """Sets the window's size; programs in it get SIGWINCH."""
    packed = struct.pack("HHHH", size.rows, size.columns, size.width, size.height)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, packed)


def _set_modes(fd: int, modes: tuple[tuple[int, int], ...]) -> None:
    state = termios.tcgetattr(fd)
    characters: list[bytes | int] = state[6]
    for code, value in modes:
        if code in _CHARACTERS:
            # 255 stands for a character that is switched off (RFC 4254 §8).
            characters[_CHARACTERS[code]] = bytes([0 if value >= 255 else value])
        elif code in _FLAGS:
            where, flag = _FLAGS[code]
            state[where] = state[where] | flag if value else state[where] & ~flag
        elif code in (_INPUT_SPEED, _OUTPUT_SPEED) and value in _SPEEDS:
            state[4 if code == _INPUT_SPEED else 5] = _SPEEDS[value]
    with contextlib.suppress(termios.error):
        # As sshd: a terminal with other modes is better than none.
        termios.tcsetattr(fd, termios.TCSANOW, state)
