"""Revocation lists packed by hand, right and wrong ones."""

from __future__ import annotations

from mezite.certs import wire
from mezite.certs.krl import MAGIC


def section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + wire.string(body)


def krl(*sections: bytes, version: int = 1, head: bytes = MAGIC, comment: bytes = b"") -> bytes:
    numbers = wire.u64(7) + wire.u64(1_800_000_000) + wire.u64(0)
    return head + wire.u32(version) + numbers + wire.string(b"") + wire.string(comment) + b"".join(sections)


def certificates(ca: bytes, *inner: bytes, reserved: bytes = b"") -> bytes:
    return section(1, wire.string(ca) + wire.string(reserved) + b"".join(inner))


def serials(*numbers: int) -> bytes:
    return section(0x20, b"".join(map(wire.u64, numbers)))


def serial_range(first: int, last: int, tail: bytes = b"") -> bytes:
    return section(0x21, wire.u64(first) + wire.u64(last) + tail)


def bitmap(offset: int, bits: int | bytes) -> bytes:
    packed = wire.string(bits) if isinstance(bits, bytes) else wire.mpint(bits)
    return section(0x22, wire.u64(offset) + packed)


def key_ids(*names: bytes) -> bytes:
    return section(0x23, b"".join(map(wire.string, names)))


def extension(critical: int, kind: int = 255, name: bytes = b"x@example.com", tail: bytes = b"") -> bytes:
    return section(kind, wire.string(name) + bytes([critical]) + wire.string(b"data") + tail)


def blobs(kind: int, *values: bytes) -> bytes:
    return section(kind, b"".join(map(wire.string, values)))
