"""Coverage-guided fuzzing of whatever reads bytes of strangers: ``python -m tests.fuzz TARGET [SECONDS]``.

Needs atheris (PyPI), which is no requirement of anything else here.  An input
that raises anything but a typed refusal ends the run and is written down;
it becomes a vector in tests/vectors.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"


def _seeds(file: str, field: str) -> list[bytes]:
    lines = (VECTORS / file).read_text().splitlines()
    return [base64.b64decode(json.loads(line)[field]) for line in lines]


def certificate() -> tuple[Callable[[bytes], None], list[bytes]]:
    """Parsed, and judged as if its CA were trusted, at a time at which it may be valid."""
    from mezite.certs import ssh, verify
    from mezite.errors import CertificateRejected

    def test(data: bytes) -> None:
        with contextlib.suppress(CertificateRejected):
            cert = ssh.parse_certificate(data)
            verify._read_meaning(cert)
            verify.check_user_certificate(
                cert, trusted={cert.ca_blob}, now_unix=max(0, cert.valid_before - 1), login=None,
                address="192.0.2.1",
            )

    return test, _seeds("certificates.jsonl", "certificate")


def signature() -> tuple[Callable[[bytes], None], list[bytes]]:
    """Over data that nobody signed; the first byte says with which key."""
    from mezite.certs import keys
    from mezite.errors import CertificateRejected

    made: list[Any] = [keys.generate_key(), keys.generate_ca_key(), keys.generate_rsa_key()]

    def test(data: bytes) -> None:
        try:
            keys.verify(keys.public_blob(made[data[0] % 3 if data else 0]), data[1:], b"unsigned")
        except CertificateRejected:
            return
        raise AssertionError("a signature out of nothing")

    return test, [bytes([number]) + keys.sign(key, b"other") for number, key in enumerate(made)]


def krl() -> tuple[Callable[[bytes], None], list[bytes]]:
    from mezite.certs import krl, ssh
    from mezite.errors import InvalidInput

    cert = ssh.parse_certificate(_seeds("krl/lists.jsonl", "certificate")[0])

    def test(data: bytes) -> None:
        with contextlib.suppress(InvalidInput):
            krl.parse_revocations(data).reason(cert)

    return test, _seeds("krl/lists.jsonl", "list")


def entries() -> tuple[Callable[[bytes], None], list[bytes]]:
    """Tables of principals, lines of authorized_keys, and lists of addresses."""
    from mezite.certs import entries, verify
    from mezite.errors import CertificateRejected, InvalidInput

    def test(data: bytes) -> None:
        options = entries.find_entry(data, (b"ops", b"a"))
        if options is not None and options.sources is not None:
            entries._is_from(options.sources, "192.0.2.1")
        text = data.decode("utf-8", "replace")
        with contextlib.suppress(InvalidInput):
            entries.parse_key_line(text)
        with contextlib.suppress(CertificateRejected):
            verify._address_blocks(text)

    return test, [
        b'restrict,pty,command="a \\" b",from="10.0.0.0/8,!*.1" ops\n# x\na', b"10.0.0.0/8,::1,fe80::/10",
        b'cert-authority,principals="a,b",expiry-time="20300101Z" ssh-ed25519 AAAA x',
        b'permitopen="[::1]:*",permitlisten="80",tunnel="1",environment="A=b" ops',
    ]


def userauth() -> tuple[Callable[[bytes], None], list[bytes]]:
    """Login packets, at a node in memory whose key exchange is done."""
    from tests.ssh.client import Wire

    one = Wire(max_attempts=10**9).start_userauth()
    seeds = [one.request(), one.request(signer=None), one.request(login=b"root")]
    service = one.server.service

    def test(data: bytes) -> None:
        one.client.received.clear()
        one.access.events.clear()
        service.packetReceived(50, data)
        one.settle()
        assert not one.client.lost
        assert [number for number, _ in one.client.received] != [52], "logged in by a packet out of nothing"

    return test, seeds[1:]


def transport() -> tuple[Callable[[bytes], None], list[bytes]]:
    """The first bytes of a connection: identification, KEXINIT and what comes before any keys."""
    from tests.ssh.client import Wire

    first = Wire(greet=False)
    factory = first.factory

    def test(data: bytes) -> None:
        from twisted.internet.testing import StringTransport

        server = factory.buildProtocol(None)
        server.makeConnection(StringTransport())
        server.dataReceived(data)
        server.connectionLost()

    recorded = _beginning_of_a_client()
    return test, [recorded, recorded[:300]]


def _beginning_of_a_client() -> bytes:
    from twisted.internet.testing import StringTransport

    from tests.ssh.client import RawClient

    client, io = RawClient(strict=True), StringTransport()
    client.makeConnection(io)
    return io.value()


TARGETS = {one.__name__: one for one in (certificate, signature, krl, entries, userauth, transport)}


def main() -> None:
    import atheris
    from twisted.logger import globalLogBeginner

    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False, discardBuffer=True)
    with atheris.instrument_imports(include=["mezite"]):
        test, seeds = TARGETS[name]()
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(seeds):
            Path(directory, f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=8192", directory], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
