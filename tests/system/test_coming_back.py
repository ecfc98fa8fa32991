"""Machines that were off: for a weekend, for a month, for longer than a lineage may live."""

from __future__ import annotations

import json
from typing import Any

from tests.system.processes import Cluster, MachineProcess, wait_for

SHORT = ("--certificate-ttl=3s", "--renewal-interval=1s")


def instance_of(cluster: Cluster) -> dict[str, Any]:
    """The one instance, as operators see it."""
    (found,) = json.loads(cluster.ctl("--format", "json", "instances", "ls"))["instances"]
    return dict(found)


def events(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Newest first."""
    return list(json.loads(cluster.ctl("--format", "json", "audit", "ls", "--type", name))["events"])


def generation(machine: MachineProcess) -> int:
    return int(machine.status().get("generation") or 0)


def wait_generation(machine: MachineProcess, least: int) -> None:
    wait_for(lambda: generation(machine) >= least, f"generation {least}", 40)


def is_let_in(machine: MachineProcess) -> bool:
    return machine.ssh("whoami").code == 0


def trouble(machine: MachineProcess) -> str:
    return str((machine.status().get("last_error") or {}).get("code"))


def test_a_machine_off_for_a_weekend_comes_back_by_itself(cluster: Cluster) -> None:
    """Its certificate has ended long ago, its lineage has not: no token, no operator."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(f"--join-token={cluster.add_bot()}", *SHORT)
    wait_for(lambda: is_let_in(machine), "login")
    assert daemon.stop() == 0
    before = instance_of(cluster)
    wait_for(lambda: not is_let_in(machine), "end of the certificate")
    machine.daemon(*SHORT)
    wait_for(lambda: generation(machine) > before["generation"], "renewal")
    wait_for(lambda: is_let_in(machine), "login")
    assert before["id"] == instance_of(cluster)["id"]
    assert events(cluster, "instance.recovered") == []


def test_a_machine_off_for_a_month_goes_on_after_one_command_on_the_server(cluster: Cluster) -> None:
    """The daemon holds on in `expired`; `instances recover` gives one renewal, and nobody touches the
    machine.  What was given is used up: after the next month it is needed again."""
    cluster.add_role()
    machine = cluster.machine()
    token = cluster.add_bot("github-deploy", "--renewable-for=4s")
    assert "4s" in cluster.ctl("bots", "show", "github-deploy")
    first = machine.daemon(f"--join-token={token}", *SHORT)
    wait_for(lambda: is_let_in(machine), "login")
    for _ in range(2):
        first.stop()
        wait_for(lambda: instance_of(cluster)["state"] == "expired", "expired lineage")
        before = instance_of(cluster)
        first = machine.daemon(*SHORT)
        wait_for(lambda: trouble(machine) == "expired", "refusal")
        assert first.code is None
        assert before == instance_of(cluster)
        cluster.ctl("instances", "recover", before["id"])
        wait_generation(machine, before["generation"] + 1)
        wait_for(lambda: is_let_in(machine), "login")
        assert instance_of(cluster)["state"] == "active"
        assert "is not expired" in cluster.mezctl("instances", "recover", before["id"]).err
        assert trouble(machine) == "None"
    recovered = events(cluster, "instance.recovered")
    assert [before["id"]] * 2 == [event["resource_name"] for event in recovered]
    assert all("(root)" in event["user_name"] or "uid:" in event["user_name"] for event in recovered)


def test_a_lineage_past_its_age_gets_one_renewal_at_a_time(cluster: Cluster) -> None:
    """`max_lineage_age` is counted from the join: a recovery is one certificate, not a new life."""
    cluster.add_role()
    machine = cluster.machine()
    daemon = machine.daemon(
        f"--join-token={cluster.add_bot('short-lived', '--max-lineage-age=3s')}", *SHORT
    )
    assert "3s" in cluster.ctl("bots", "show", "short-lived")
    wait_for(lambda: trouble(machine) == "expired", "refusal")
    reached = generation(machine)
    cluster.ctl("instances", "recover", instance_of(cluster)["id"])
    wait_for(lambda: generation(machine) == reached + 1, "renewal", 40)
    wait_for(lambda: trouble(machine) == "expired", "next refusal")
    assert reached + 1 == instance_of(cluster)["generation"]
    assert daemon.code is None


def test_certificates_name_where_they_may_be_used_from(cluster: Cluster) -> None:
    """`--source-address` is in `bots show` and in the certificate: from elsewhere nobody logs in."""
    cluster.add_role()
    near, far = cluster.machine("near"), cluster.machine("far")
    tokens = {
        near: cluster.add_bot("near", "--source-address=127.0.0.0/8,192.0.2.0/24"),
        far: cluster.add_bot("far", "--source-address=192.0.2.0/24"),
    }
    assert "127.0.0.0/8, 192.0.2.0/24" in cluster.ctl("bots", "show", "near")
    for machine, token in tokens.items():
        assert machine.once(f"--join-token={token}").code == 0
    assert is_let_in(near)
    assert not is_let_in(far)
