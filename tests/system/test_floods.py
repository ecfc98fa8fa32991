"""A thousand at once: one winner; and a flood that stops nobody's renewals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import time

import pytest

from mezite.core.request import Issued, TokenText
from mezite.errors import Reason, Refused
from tests.system.processes import TIMEOUT, Cluster, wait_for
from tests.system.test_coming_back import events, generation
from tests.system.wire import Answer, Asker, Wire, joining, nonce_of, on_the_wire, reasons, renewing

MANY = 1000


def counted(cluster: Cluster, kind: str) -> int:
    listed = cluster.ctl("--format", "json", "audit", "ls", f"--type={kind}", "--all")
    return len(json.loads(listed)["events"])


def test_one_token_redeemed_a_thousand_times_at_once_admits_one_machine(cluster: Cluster) -> None:
    """All the others are told that it is used, and by whom; the log is not filled with it."""
    cluster.add_role()
    token = TokenText.from_text(cluster.add_bot())

    async def redeem(wire: Wire) -> list[Answer]:
        return await wire.ask_all([joining(token, Asker()) for _ in range(MANY)])

    answers = on_the_wire(cluster, redeem)
    assert reasons(answers) == {"issued": 1, "token_used": MANY - 1}
    (winner,) = [one for one in answers if isinstance(one, Issued)]
    assert all(winner.instance_id in str(one) for one in answers if isinstance(one, Refused))
    instances = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"]
    assert [one["id"] for one in instances] == [winner.instance_id]
    tokens = json.loads(cluster.ctl("--format", "json", "tokens", "ls"))["tokens"]
    assert [one["used"] for one in tokens] == [1]
    assert 1 <= counted(cluster, "token_reused") <= 10


def test_of_a_thousand_holders_of_one_generation_one_goes_on_and_the_first_that_proves_locks(
    cluster: Cluster,
) -> None:
    """With different keys: one step, 999 questions; and no certificate after the first answer to them."""
    cluster.add_role()
    token = TokenText.from_text(cluster.add_bot())
    owner = Asker()
    holders = [Asker() for _ in range(MANY)]

    async def renew(wire: Wire) -> tuple[list[Answer], list[Answer], Answer]:
        (joined,) = await wire.ask_all([joining(token, owner)])
        assert isinstance(joined, Issued)
        questions = [renewing(joined, owner, holder) for holder in holders]
        first = await wire.ask_all(questions)
        losers = [number for number, answer in enumerate(first) if isinstance(answer, Refused)]
        second = await wire.ask_all(
            [questions[number] for number in losers], [nonce_of(first[number]) for number in losers]
        )
        (won,) = [(number, one) for number, one in enumerate(first) if isinstance(one, Issued)]
        (after,) = await wire.ask_all([renewing(won[1], holders[won[0]], Asker())])
        return first, second, after

    first, second, after = on_the_wire(cluster, renew)
    assert reasons(first) == {"issued": 1, "prove": MANY - 1}
    assert reasons(second) == {"generation_mismatch": MANY - 1}
    assert reasons([after]) == {"generation_mismatch": 1}
    (lock,) = json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"]
    assert lock["reason"] == "generation_mismatch"
    assert counted(cluster, "generation_mismatch") == 1
    assert counted(cluster, "renew.prove_asked") == 1
    assert counted(cluster, "user.cert.issued") == 2


def test_a_guesser_is_sent_away_while_machines_of_his_address_renew(cluster: Cluster) -> None:
    """Some hundred guesses are looked at, the others cost a line; the disk does not fill with them."""
    cluster.add_role()
    machine = cluster.machine()
    machine.daemon(f"--join-token={cluster.add_bot()}", "--renewal-interval=1s")
    wait_for(lambda: generation(machine) >= 1, "join")
    token = TokenText.from_text(cluster.add_bot("other"))

    async def guess(wire: Wire) -> dict[str, int]:
        found: dict[str, int] = {}
        asker = Asker()
        for _ in range(15):
            secrets = [TokenText(token.id, os.urandom(16).hex(), token.pin) for _ in range(100)]
            batch = await wire.ask_all([joining(one, asker) for one in secrets], patience=0)
            for code, number in reasons(batch).items():
                found[code] = found.get(code, 0) + number
            assert all(
                one.retry_after_ms >= 1000 for one in batch
                if isinstance(one, Refused) and one.reason is Reason.UNAVAILABLE
            )
            before = generation(machine)
            for _ in range(100):
                if generation(machine) > before:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("the machine renews no more")
        return found

    found = on_the_wire(cluster, guess)
    assert set(found) == {"token_unknown", "unavailable"}
    assert found["unavailable"] > 500
    assert counted(cluster, "join.refused") <= 60
    # The right secret is good for another address, or later; the token is unused.
    assert [one["used"] for one in json.loads(cluster.ctl("--format", "json", "tokens", "ls"))["tokens"]
            if one["bot"] == "other"] == [0]
    assert "are told to come again later" in (cluster.server.text() if cluster.server else "")
    assert events(cluster, "user.cert.issued")


def test_a_forger_does_not_hold_up_machines_of_his_address(cluster: Cluster) -> None:
    """He takes all renewals that are looked at for their address, and does not keep the times that he
    is told: those that prove themselves renew on, at once."""
    cluster.add_role()
    token, owner, forger = TokenText.from_text(cluster.add_bot()), Asker(), Asker()

    async def forge(wire: Wire) -> tuple[dict[str, int], list[str]]:
        (held,) = await wire.ask_all([joining(token, owner)])
        assert isinstance(held, Issued)
        forged = [renewing(held, forger, Asker()) for _ in range(1000)]
        found = reasons(await wire.ask_all(forged, patience=0))
        renewed, holder = [], owner
        for _ in range(20):
            crowd = asyncio.ensure_future(wire.ask_all(forged[:100], patience=0))
            wanted = Asker()
            (answer,) = await wire.ask_all([renewing(held, holder, wanted)], patience=0)
            renewed += reasons([answer])
            if isinstance(answer, Issued):
                held, holder = answer, wanted
            for code, number in reasons(await crowd).items():
                found[code] = found.get(code, 0) + number
        return found, renewed

    found, renewed = on_the_wire(cluster, forge)
    assert set(found) == {"bad_proof", "unavailable"}
    assert found["unavailable"] > 500
    assert renewed == ["issued"] * 20
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []


@pytest.mark.config(limits={"waiting": 8, "joins_per_second": 1000, "joins_per_second_of_address": 1000})
def test_more_than_can_be_served_come_again_one_after_the_other(cluster: Cluster) -> None:
    """A queue of eight, and three hundred at once: none is lost, none is asked for a proof."""
    cluster.add_role()
    token = TokenText.from_text(cluster.ctl(
        "bots", "add", "--name=fleet", "--roles=ci-deployer", "--token-ttl=1h"
    ).split("Join token: ")[1].split()[0])
    many = TokenText.from_text(
        cluster.ctl("tokens", "create", "--bot=fleet", "--uses=300").split("Join token: ")[1].split()[0]
    )
    assert token.pin == many.pin
    askers = [Asker() for _ in range(300)]

    async def live(wire: Wire) -> tuple[list[Answer], list[Answer], int]:
        joined = await wire.ask_all([joining(many, asker) for asker in askers])
        renewals = [
            renewing(one, asker, Asker()) for one, asker in zip(joined, askers, strict=True)
            if isinstance(one, Issued)
        ]
        before = wire.turned_away
        return joined, await wire.ask_all(renewals), wire.turned_away - before

    joined, renewed, turned = on_the_wire(cluster, live)
    assert reasons(joined) == {"issued": 300}
    assert reasons(renewed) == {"issued": 300}
    assert turned > 0
    assert json.loads(cluster.ctl("--format", "json", "locks", "ls"))["locks"] == []


def test_a_server_that_is_out_of_files_waits_for_some(cluster: Cluster) -> None:
    """It tells of no connection that it cannot take, and takes them all when it can."""
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    assert cluster.server is not None
    pid, told = cluster.server.pid, len(cluster.server.text())
    before, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
        try:
            for port in [cluster.node_port] * 50:
                held.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            time.sleep(2)  # a server that spins has written megabytes by then
            assert len(cluster.server.text()) - told < 10_000
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (before, most))
        assert machine.ssh("whoami").out.strip() == "deploy"
    assert cluster.mezctl("status").code == 0
    assert "Traceback" not in cluster.server.text()
