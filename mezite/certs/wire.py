"""The SSH wire format (RFC 4251 §5), read without trust and written plainly."""

from __future__ import annotations

from mezite.errors import CertificateRejected

MAX_STRING = 256 * 1024
"""No field of a key, certificate or login packet is longer than this."""


class Reader:
    """Reads one SSH structure from front to back, never past its end.

    Every fault of the data raises :class:`CertificateRejected` with the code
    ``malformed``: nothing is truncated silently, nothing raises otherwise.
    """

    __slots__ = ("_at", "_data", "_end", "_what")

    def __init__(self, data: bytes, what: str = "certificate") -> None:
        self._data = bytes(data)
        self._end = len(self._data)
        self._at = 0
        self._what = what

    def _take(self, count: int) -> bytes:
        start, stop = self._at, self._at + count
        if stop > self._end:
            raise self.malformed("ends in the middle of a field")
        self._at = stop
        return self._data[start:stop]

    def malformed(self, why: str) -> CertificateRejected:
        """The error to raise for this structure."""
        return CertificateRejected("malformed", f"malformed {self._what}: {why}")

    def byte(self) -> int:
        return self._take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def boolean(self) -> bool:
        """Zero is false, all else is true (RFC 4251 §5)."""
        return self.byte() != 0

    def string(self, limit: int = MAX_STRING) -> bytes:
        # In one piece, as nearly all that is ever read are strings.
        start = self._at + 4
        length = int.from_bytes(self._data[self._at : start], "big")
        if length > limit and start <= self._end:
            raise self.malformed(f"a field of {length} bytes, at most {limit} are allowed")
        stop = start + length
        if stop > self._end:
            raise self.malformed("ends in the middle of a field")
        self._at = stop
        return self._data[start:stop]

    def cstring(self, limit: int = MAX_STRING) -> bytes:
        """A string that may not hold a NUL byte (as OpenSSH's sshbuf_get_cstring)."""
        value = self.string(limit)
        if b"\0" in value:
            raise self.malformed("a text holds a NUL byte")
        return value

    def mpint(self, limit: int) -> int:
        """A positive integer in its shortest form; zero and negatives are refused."""
        value = self.string(limit)
        if not value or value[0] & 0x80:
            raise self.malformed("a number that is not positive")
        if value[0] == 0 and (len(value) == 1 or not value[1] & 0x80):
            raise self.malformed("a number with needless zero bytes")
        return int.from_bytes(value, "big")

    def rest(self) -> bytes:
        return self._take(self._end - self._at)

    def consumed(self) -> bytes:
        """Everything read so far."""
        return self._data[: self._at]

    @property
    def at_end(self) -> bool:
        return self._at == self._end

    def finish(self) -> None:
        """Raises when anything is left."""
        if not self.at_end:
            raise self.malformed(f"{self._end - self._at} bytes too many")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(4, "big") + data


def mpint(value: int) -> bytes:
    """A non-negative integer, with the leading zero that its sign needs."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")
