"""Several SSH keys in one request, each with roles and a TTL of its own: never more than the bot has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from mezite.certs import keys
from mezite.certs.ssh import Certificate, parse_certificate
from mezite.certs.verify import check_issued
from mezite.core.request import Issued, JoinRequest, SshKey, Wishes, request_hash
from mezite.core.roles import Role
from mezite.errors import Reason, Refused
from mezite.rpc import messages
from tests.harness import START, Auth, Machine, Pending


def role(name: str, logins: list[str], deny: dict[str, Any] | None = None, ttl: str = "1h") -> Role:
    return Role.from_document(
        {
            "kind": "role",
            "metadata": {"name": name},
            "spec": {
                "options": {"max_session_ttl": ttl},
                "allow": {"node_labels": {"*": "*"}, "logins": logins},
                **({"deny": deny} if deny else {}),
            },
        }
    )


@pytest.fixture
def auth() -> Iterator[Auth]:
    auth = Auth()
    for one in (
        role("deploy", ["deploy", "shared"]), role("logs", ["logs", "root"], ttl="30m"),
        role("no-root", ["x"], {"logins": ["root", "shared"]}),
        role("no-production", ["x"], {"node_labels": {"env": "production"}}),
    ):
        auth.write(lambda tx, one=one: tx.put_role(one))
    yield auth
    auth.close()


class ManyPending(Pending):
    wanted: tuple[SshKey, ...] = ()
    made: tuple[keys.PrivateKey, ...] = ()

    @property
    def ssh_keys(self) -> tuple[SshKey, ...]:
        blobs = [keys.public_blob(key) for key in (self.ssh, *self.made)]
        return tuple(replace(key, blob=blob) for key, blob in zip(self.wanted, blobs, strict=True))


def asked(output: str, *roles: str, **more: Any) -> SshKey:
    return SshKey(output, b"", roles or None, **more)


def joined(auth: Auth, *wanted: SshKey, roles: tuple[str, ...], **wishes: Any) -> Issued | Refused:
    token = auth.add_token(auth.add_bot("-".join(roles), roles=roles))
    made = tuple(keys.generate_key() for _ in wanted[1:])
    machine = Machine(auth, pending=ManyPending(wanted=wanted, made=made))
    machine.wishes = replace(Wishes(None, None, START), **wishes)
    return auth.join(*machine.join_request(token))


def certificates(outcome: Issued | Refused) -> list[Certificate]:
    assert isinstance(outcome, Issued), outcome
    return [parse_certificate(blob) for blob in outcome.certificates]


def seconds(certificate: Certificate) -> int:
    return certificate.valid_before - certificate.valid_after - 60


def test_each_key_has_its_roles_and_its_ttl(auth: Auth) -> None:
    outcome = joined(
        auth, asked("default"), asked("a", "deploy", ttl=timedelta(minutes=20)), asked("b", "logs"),
        roles=("deploy", "logs"), ttl=timedelta(minutes=50),
    )
    found = certificates(outcome)
    cas = frozenset(auth.context.trust().user_cas)
    assert [check_issued(one, trusted=cas).roles for one in found] == [
        ("deploy", "logs"), ("deploy",), ("logs",)
    ]
    assert [one.principals for one in found] == [
        (b"deploy", b"shared", b"logs", b"root"), (b"deploy", b"shared"), (b"logs", b"root")
    ]
    assert [seconds(one) for one in found] == [1800, 1200, 1800]
    assert isinstance(outcome, Issued)
    assert outcome.ttl == timedelta(minutes=20), "the shortest decides when to renew"
    assert outcome.renew_after <= timedelta(minutes=10)


def test_denied_logins_stay_denied_when_their_role_is_left_out(auth: Auth) -> None:
    found = certificates(joined(
        auth, asked("a", "deploy"), asked("b", "logs"), roles=("deploy", "logs", "no-root")
    ))
    assert [one.principals for one in found] == [(b"deploy",), (b"logs",)]


def test_a_role_that_denies_nodes_cannot_be_left_out(auth: Auth) -> None:
    roles = ("deploy", "no-production")
    outcome = joined(auth, asked("a", "deploy"), roles=roles)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.ROLE_UNFIT
    assert "no-production" in str(outcome)
    certificates(joined(auth, asked("a", "no-production"), roles=("logs", "no-production")))


@pytest.mark.parametrize("wanted", [("logs",), ("deploy", "logs"), ("none",)])
def test_no_role_that_the_bot_has_not(auth: Auth, wanted: tuple[str, ...]) -> None:
    """One output that asks for it, and nobody gets anything: the token is not used."""
    outcome = joined(auth, asked("default"), asked("a", *wanted), roles=("deploy",))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.ROLE_GONE
    assert "output a" in str(outcome)


def test_the_interval_is_shorter_than_every_ttl(auth: Auth) -> None:
    wanted = asked("default"), asked("a", ttl=timedelta(minutes=5))
    outcome = joined(auth, *wanted, roles=("deploy",), interval=timedelta(minutes=5))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.INTERVAL_TOO_LONG


def test_wishes_of_a_key_travel_and_are_no_part_of_what_is_asked_for() -> None:
    """They may change between repetitions of a request; the keys may not."""
    pending = ManyPending(wanted=(asked("a", "x", "y", ttl=timedelta(minutes=5)),))
    wishes = Wishes(None, None, START)
    request = JoinRequest("tok-bot-0123456789ab", "secret", b"key", pending.ssh_keys, wishes)
    found = messages.join_request_from(messages.join_body(request))
    assert found.ssh_keys == pending.ssh_keys
    plain = tuple(SshKey(key.output, key.blob) for key in pending.ssh_keys)
    assert request_hash(b"key", plain) == request_hash(b"key", pending.ssh_keys)
