"""Made-up identities, for tests that need no server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from msgspec.structs import replace

from mezite.certs import keys, ssh
from mezite.core.model import Node
from mezite.core.request import Trust
from mezite.core.template import USER, CertificateTemplate
from mezite.identity.records import Durable, Held, PendingJoin
from mezite.identity.service import make_keys

NOW = datetime(2026, 3, 24, 14, 0, tzinfo=UTC)
INSTANCE = "358a1b7b-242c-49a4-b8b6-1e4de52af137"


@lru_cache
def ca() -> keys.PrivateKey:
    return keys.generate_ca_key()


def held(generation: int = 1, **changes: object) -> Held:
    """An identity as an answer would have made it; the server CA is no real one."""
    generation_keys = make_keys()
    template = CertificateTemplate(
        type=USER, serial=generation, key_id=f"b1/{INSTANCE}/{generation}", principals=("deploy",),
        valid_after=0, valid_before=2**40,
    )
    certificate = ssh.build_certificate(template, generation_keys.ssh[0].pair.public, ca(), b"n" * 32)
    made = Held(
        instance_id=INSTANCE,
        bot="b1",
        generation=generation,
        keys=generation_keys,
        certificates=(certificate,),
        trust=Trust(
            cluster_name="example",
            cluster_uuid="5a7f0f5e-7a4c-4f4e-9c55-0d8a3c5b1f00",
            host_cas=(keys.public_blob(ca()),),
            user_cas=(keys.public_blob(ca()),),
            server_cas=(b"der",),
            nodes=(Node("web-1", "192.0.2.4:3022"), Node("v6", "[2001:db8::1]:22")),
        ),
        principals=("deploy",),
        roles=("ci-deployer",),
        valid_before_unix=2**40,
        ttl=timedelta(hours=1),
        renew_after=timedelta(minutes=29),
        received_at=NOW,
        server_time=NOW + timedelta(seconds=3),
        asked_ttl=None,
        asked_interval=timedelta(minutes=30),
    )
    return replace(made, **changes)


def durable(generation: int = 1) -> Durable:
    return Durable(
        held=held(generation),
        pending=make_keys(),
        joins=(PendingJoin("tok-bot-0123456789ab", make_keys()),),
        redeemed=("tok-bot-ba9876543210",),
        server="auth.example.com:3025",
    )
