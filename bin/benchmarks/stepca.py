"""Renewals and joins beside the like of step-ca: an SSH user certificate for a one-time token.

STEP_CA names its program (bin/benchmarks/step_ca.go says how to build one); without it there is nothing to
measure.  Its token is a JWT signed on P-256 by a provisioner's key, its CA key is on P-256,
its database badger; each of its requests verifies a signature, makes one, and stores the token as used
and the certificate.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import ssl
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from benchmarks.machines import Caller, Load, Work, load, repeated
from benchmarks.measure import Row, Table
from benchmarks.rpc import CONNECTIONS, fleet
from benchmarks.server import auth_server, free_port
from mezite.certs import keys, ssh
from tests.system.processes import Process, wait_for

PATH = "/1.0/ssh/sign"
_PROVISIONER = "bench"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class StepCa:
    """Its program, in *directory*, with a CA of its own."""

    def __init__(self, program: str, directory: Path) -> None:
        self.port, self._key = free_port(), keys.generate_key()
        numbers = self._key.public_key().public_numbers()
        jwk = {"crv": "P-256", "kty": "EC", "x": _b64(numbers.x.to_bytes(32, "big")),
               "y": _b64(numbers.y.to_bytes(32, "big"))}
        thumbprint = json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()
        self._kid = _b64(hashlib.sha256(thumbprint).digest())
        provisioner = {
            "type": "JWK", "name": _PROVISIONER, "claims": {"enableSSHCA": True},
            "key": {**jwk, "kid": self._kid, "use": "sig", "alg": "ES256"},
        }
        root, below = _chain(directory)
        for name in ("host", "user"):
            (directory / f"ssh_{name}_key").write_bytes(keys.private_to_pem(keys.generate_key(), None))
        settings = {
            "root": str(root), "crt": str(below), "key": str(directory / "below.key"),
            "address": f"127.0.0.1:{self.port}", "dnsNames": ["127.0.0.1"],
            "db": {"type": "badgerv2", "dataSource": str(directory / "db")},
            "ssh": {"hostKey": str(directory / "ssh_host_key"), "userKey": str(directory / "ssh_user_key")},
            "authority": {"provisioners": [provisioner]},
        }
        (directory / "ca.json").write_text(json.dumps(settings))
        self.trust = ssl.create_default_context(cafile=str(root))
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "STEPPATH": str(directory)}
        self.process = Process([program, directory / "ca.json"], environment, directory / "step-ca.log")
        wait_for(lambda: "Serving HTTPS" in self.process.text() or self.process.code is not None, "step-ca")
        if self.process.code is not None:
            raise RuntimeError(f"step-ca has ended: {self.process.text()}")

    def request(self) -> tuple[bytes, bytes]:
        """A whole HTTP request for a certificate, and the blob of its key."""
        now, name = int(time.time()), "bench"
        options = {"certType": "user", "keyID": name, "principals": ["deploy"]}
        head = {"alg": "ES256", "kid": self._kid, "typ": "JWT"}
        claims = {
            "iss": _PROVISIONER, "aud": f"https://127.0.0.1:{self.port}{PATH}", "sub": name, "iat": now,
            "nbf": now, "exp": now + 300, "jti": uuid.uuid4().hex, "step": {"ssh": options},
        }
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{signed}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        blob = keys.public_blob(keys.generate_key())
        body = json.dumps({**options, "publicKey": base64.b64encode(blob).decode(), "ott": token}).encode()
        lines = (f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json",
                 f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body, blob

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust)

    async def load(self, size: int, *, fresh: bool, seconds: float) -> Load:
        """As :func:`benchmarks.machines.load`, of certificates signed."""
        kept = [None if fresh else await self.connect() for _ in range(size)]
        took: list[float] = []

        async def sign(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
            request, blob = self.request()
            started = time.perf_counter()
            reader, writer = connection or await self.connect()
            writer.write(request)
            answer = await _answer(reader)
            took.append(time.perf_counter() - started)
            if connection is None:
                writer.close()
            certificate = ssh.parse_certificate(base64.b64decode(json.loads(answer)["crt"]))
            if certificate.subject_blob != blob:
                raise RuntimeError("step-ca has certified another key")

        try:
            return await repeated(
                self.process.pid, [partial(sign, one) for one in kept], [took], seconds=seconds
            )
        finally:
            for one in kept:
                if one is not None:
                    one[1].close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
    (length,) = (line.split(":")[1] for line in head.splitlines() if line.startswith("content-length:"))
    body = await reader.readexactly(int(length))
    if not head.startswith("http/1.1 201"):
        raise RuntimeError(f"step-ca has answered {head.splitlines()[0]} {body.decode()}")
    return body


def _chain(directory: Path) -> tuple[Path, Path]:
    """A root and an authority below it, on P-256."""
    now, made, issuer_key, issuer = datetime.now(UTC), [], None, None
    for name in ("root", "below"):
        key, subject = keys.generate_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(True, 1 if issuer is None else 0), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(issuer_key or key, hashes.SHA256())
        )
        made.append(directory / f"{name}.crt")
        made[-1].write_bytes(certificate.public_bytes(Encoding.PEM))
        (directory / f"{name}.key").write_bytes(keys.private_to_pem(key, None))
        issuer_key, issuer = key, subject
    return made[0], made[1]


@contextmanager
def step_ca(program: str, directory: Path) -> Iterator[StepCa]:
    directory.mkdir()
    made = StepCa(program, directory)
    try:
        yield made
    finally:
        made.process.end_group()


def measure(quick: bool) -> list[Table]:
    program = os.environ.get("STEP_CA", "")
    if not program:
        print("bin/bench: stepca: not measured; STEP_CA names no program", file=sys.stderr)
        return []
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    rounds, seconds = (1, 0.5) if quick else (5, 2.0)
    with auth_server() as server, step_ca(program, server.root / "step-ca") as other:
        server.put_role("deploy")

        async def compare() -> dict[tuple[bool, int, str], list[Load]]:
            target, machines = await fleet(server, max(CONNECTIONS))
            caller = Caller(target, fresh=False)
            await machines[0].renew(caller)
            await caller.close()
            found: dict[tuple[bool, int, str], list[Load]] = {}
            for _ in range(rounds):
                for fresh, size in itertools.product((False, True), CONNECTIONS):
                    theirs = await other.load(size, fresh=fresh, seconds=seconds)
                    found.setdefault((fresh, size, "step-ca"), []).append(theirs)
                    works: dict[str, list[Work]] = {
                        "renewal": [one.renew for one in machines[:size]],
                        "join": [one.another().join for one in machines[:size]],
                    }
                    for kind, work in works.items():
                        ours = await load(target, server.pid, work, fresh=fresh, seconds=seconds)
                        found.setdefault((fresh, size, kind), []).append(ours)
            return found

        found = asyncio.run(compare())
    return [
        Table(title, unit, [
            Row(
                f"{kind}, {'fresh TLS' if fresh else 'kept'}, {size} at once",
                [getattr(one, field) for one in found[fresh, size, kind]],
                "step-ca, which signs an SSH user certificate for a one-time token",
                [getattr(one, field) for one in found[fresh, size, "step-ca"]],
            )
            for kind in ("renewal", "join") for fresh in (False, True) for size in CONNECTIONS
        ])
        for field, title, unit in (
            ("cpu_us", "CPU in the server, beside step-ca", "µs per certificate"),
            ("p50_ms", "latency at the client beside step-ca, median", "ms"),
        )
    ]
