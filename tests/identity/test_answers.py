"""An answer is taken only if it is the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from mezite.certs import keys
from mezite.core.request import Issued, JoinRequest, RenewRequest
from mezite.errors import InvalidInput
from mezite.identity.answers import accept
from mezite.identity.events import RenewNow
from mezite.identity.records import GenerationKeys
from mezite.identity.service import make_keys
from tests.harness import START, Auth
from tests.identity.fakes import LOST_REPLY, answer, joined_rig

Case = tuple[Issued, RenewRequest, GenerationKeys, str]


@pytest.fixture
def case(auth: Auth) -> Case:
    """A real answer to a real renewal, not accepted yet."""
    rig = joined_rig(auth)
    rig.faults.append(LOST_REPLY)
    rig.feed(RenewNow())
    ask = rig.asked[-1]
    key = keys.private_from_pem(ask.signer_pem, None)
    issued = answer(auth, ask.request, lambda data: keys.sign(key, data), b"")
    assert isinstance(issued, Issued)
    return issued, ask.request, rig.disk.pending, auth.context.cluster.uuid


def take(case: Case, **changes: object) -> object:
    issued, request, pending, uuid = case
    return accept(replace(issued, **changes), request, pending, cluster_uuid=uuid, received_at=START)


def test_the_right_answer(case: Case) -> None:
    held = take(case)
    assert (2, case[2], ("deploy",), ("ci-deployer",)) == (
        held.generation, held.keys, held.principals, held.roles
    )


@pytest.mark.parametrize("uuid", ["", "5a7f0f5e-7a4c-4f4e-9c55-0d8a3c5b1f00"])
def test_another_cluster(case: Case, uuid: str) -> None:
    with pytest.raises(InvalidInput, match="cluster"):
        take(case, trust=replace(case[0].trust, cluster_uuid=uuid))


CHANGES: dict[str, Callable[[Issued], dict[str, object]]] = {
    "other instance": lambda issued: {"instance_id": "00000000-0000-4000-8000-000000000000"},
    "generation before": lambda issued: {"generation": 1},
    "generation after": lambda issued: {"generation": 3},
    "other bot": lambda issued: {"bot": "somebody"},
    "no certificate": lambda issued: {"certificates": ()},
    "two certificates": lambda issued: {"certificates": issued.certificates * 2},
    "garbage": lambda issued: {"certificates": (b"garbage",)},
    "cut certificate": lambda issued: {"certificates": (issued.certificates[0][:-1],)},
    "changed certificate": lambda issued: {
        "certificates": (issued.certificates[0].replace(b"deploy", b"daemon"),)
    },
    "unknown CA": lambda issued: {
        "trust": replace(issued.trust, user_cas=(keys.public_blob(keys.generate_ca_key()),))
    },
    "no user CA": lambda issued: {"trust": replace(issued.trust, user_cas=())},
    "no host CA": lambda issued: {"trust": replace(issued.trust, host_cas=())},
    "no server CA": lambda issued: {"trust": replace(issued.trust, server_cas=())},
    "unreadable host CA": lambda issued: {"trust": replace(issued.trust, host_cas=(b"x",))},
    "unreadable server CA": lambda issued: {"trust": replace(issued.trust, server_cas=(b"x",))},
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_answers(case: Case, change: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        take(case, **CHANGES[change](case[0]))
    assert "\n" not in str(caught.value)


def test_certificates_for_other_ssh_keys(case: Case) -> None:
    issued, request, pending, uuid = case
    other = replace(pending, ssh=make_keys().ssh)
    with pytest.raises(InvalidInput, match="not ours"):
        accept(issued, request, other, cluster_uuid=uuid, received_at=START)


def test_certificates_with_another_lineage_key(case: Case) -> None:
    issued, request, pending, uuid = case
    other = replace(pending, lineage=make_keys().lineage)
    with pytest.raises(InvalidInput, match="key"):
        accept(issued, request, other, cluster_uuid=uuid, received_at=START)


def test_a_join_begins_at_generation_one(case: Case) -> None:
    issued, request, pending, _ = case
    join = JoinRequest("tok", "secret", pending.lineage.public, pending.ssh_keys(), request.wishes)
    with pytest.raises(InvalidInput, match="expected 1, found 2"):
        accept(issued, join, pending, cluster_uuid=None, received_at=START)


def test_times_are_not_judged(case: Case) -> None:
    """This machine's clock may be the wrong one."""
    issued, request, pending, uuid = case
    held = accept(
        issued, request, pending, cluster_uuid=uuid, received_at=START + timedelta(days=400)
    )
    assert held.skew < timedelta(days=-399)
