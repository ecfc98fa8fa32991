"""A node for tests: real keys, a policy that tests change, an audit log to look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed

from mezite.certs import keys, ssh
from mezite.core.audit import AuditEvent
from mezite.core.model import Lock, LockTarget
from mezite.core.roles import Role
from mezite.core.template import HOST, USER, CertificateTemplate
from mezite.ssh.factory import NodeFactory, NodeSettings, make_factory
from mezite.ssh.hostkeys import HostKeys, host_keys
from mezite.ssh.policy import Policy

USER_CA = keys.generate_ca_key()
HOST_CA = keys.generate_ca_key()
HOST_KEY = keys.generate_ca_key()
HOST_KEYS: list[keys.PrivateKey] = [HOST_KEY, keys.generate_key(), keys.generate_rsa_key()]
NONCE = b"n" * 32
UUID = "0b8fd6c0-5b1e-4d0f-a3f7-6f6c2b7a1d11"

DEPLOYER = Role.from_document(
    {
        "kind": "role",
        "metadata": {"name": "deployer"},
        "spec": {"allow": {"node_labels": {"env": "staging"}, "logins": ["deploy", "root", "nobody"]}},
    }
)


def now() -> datetime:
    return datetime.now(UTC)


def lock(kind: str, value: str, at: datetime | None = None) -> Lock:
    return Lock("1", LockTarget.from_text(kind, value), "operator", "", "uid:0(root)", at or now())


def user_certificate(
    subject: bytes, ca: keys.PrivateKey = USER_CA, at: datetime | None = None, **changes: Any
) -> bytes:
    start = int((at or now()).timestamp())
    template = CertificateTemplate(
        type=USER,
        serial=12,
        key_id=f"ci/{UUID}/3",
        principals=("deploy",),
        valid_after=start - 60,
        valid_before=start + 3600,
        extensions=(
            ("bot@mezite.com", "ci"),
            ("roles@mezite.com", "deployer"),
            ("instance@mezite.com", UUID),
            ("generation@mezite.com", "3"),
            ("lineage-key@mezite.com", "SHA256:abc"),
            ("permit-pty", None),
        ),
    )
    return ssh.build_certificate(replace(template, **changes), subject, ca, NONCE)


def host_certificate(
    *names: str, at: datetime | None = None, key: keys.PrivateKey = HOST_KEY, **changes: Any
) -> bytes:
    start = int((at or now()).timestamp())
    template = CertificateTemplate(
        type=HOST,
        serial=1,
        key_id="node/node1",
        principals=names or ("node1", "127.0.0.1", "localhost"),
        valid_after=start - 3600,
        valid_before=start + 3600,
    )
    return ssh.build_certificate(replace(template, **changes), keys.public_blob(key), HOST_CA, NONCE)


def certified(at: datetime | None = None) -> HostKeys:
    """Each of our host keys with its certificate."""
    return host_keys((key, host_certificate(at=at, key=key)) for key in HOST_KEYS)


class FakeAccess:
    """Access whose policy tests set; events pile up in ``events``."""

    def __init__(self) -> None:
        self.now = Policy((keys.public_blob(USER_CA),), {"deployer": DEPLOYER})
        self.events: list[AuditEvent] = []
        self.answer: Callable[[], Deferred[Policy]] | None = None
        """Answers in place of ``now`` where it is set."""

    def policy(self) -> Deferred[Policy]:
        return self.answer() if self.answer is not None else succeed(self.now)

    def audit(self, event: AuditEvent) -> None:
        self.events.append(event)

    def lock(self, kind: str, value: str, at: datetime | None = None) -> None:
        self.now = replace(self.now, locks=(*self.now.locks, lock(kind, value, at)))


def node_factory(
    access: FakeAccess, reactor: Any, clock: Callable[[], datetime] = now, **settings: Any
) -> NodeFactory:
    return make_factory(
        NodeSettings(node_name="node1", **{"labels": {"env": "staging"}, **settings}),
        access,
        lambda: certified(clock()),
        reactor=reactor,
        clock=clock,
    )
