"""What Prometheus reads from both programs, by its own parser."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.prometheus.test_dashboard import expressions
from tests.system.processes import TIMEOUT, Cluster, MachineProcess, free_port, wait_for

pytestmark = pytest.mark.system
SERVER = f"127.0.0.1:{free_port()}"
DAEMON = f"127.0.0.1:{free_port()}"
PROMTOOL = shutil.which("promtool")
DOCS = Path(__file__).parents[2] / "docs"
MONITORING = DOCS / "monitoring.md"
RULES = DOCS / "prometheus" / "alerts.yaml"
UNKNOWN = "tok-bot-" + "0" * 12 + "-" + "0" * 32


def page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
        return text


def well_made(text: str) -> None:
    """By the conventions of Prometheus and of OpenMetrics: units and kinds in the names, each once, each
    explained, and in the documentation; promtool, where it is, sees no fault either."""
    families = list(text_string_to_metric_families(text))
    names = [family.name.removesuffix("_total") for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation, family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
        assert family.type != "histogram" or family.name.endswith("_seconds")
        if family.name.startswith("mezite"):
            assert re.search(rf"`{family.name}\w*[`{{]", MONITORING.read_text()), family.name
    if PROMTOOL is not None:
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True,
                              check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def scrape(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    text = page(address)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def requests(method: str, outcome: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "mezite_requests_total", (("method", method), ("outcome", outcome))


@pytest.mark.parametrize(
    "cluster_workers",
    [
        pytest.param(1, marks=pytest.mark.config(diag={"listen_addr": SERVER}), id="one process"),
        pytest.param(
            2, marks=pytest.mark.config(diag={"listen_addr": SERVER}, auth={"workers": 2}), id="two workers"
        ),
    ],
)
def test_server_counts_what_machines_asked(cluster: Cluster, cluster_workers: int) -> None:
    """Joins, renewals and refusals of all processes, the rows, and whether it is ready."""
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    assert machine.once(f"--join-token={token}").code == 0
    for _ in range(3):
        assert machine.once().code == 0
    pin = token.rsplit("-", 1)[1]
    assert cluster.machine("stranger").once(f"--join-token={UNKNOWN}-{pin}").code == 3

    def counted() -> bool:
        found = scrape(SERVER)
        return (
            found.get(requests("join", "ok")) == 1
            and found.get(requests("renew", "ok")) == 3
            and found.get(requests("join", "token_unknown")) == 1
        )

    wait_for(counted, "requests counted")  # workers report every second
    found = scrape(SERVER)
    assert found["mezite_request_seconds_count", (("method", "renew"),)] == 3
    assert found["mezite_request_seconds_bucket", (("le", "+Inf"), ("method", "renew"))] == 3
    assert found["mezite_request_seconds_sum", (("method", "renew"),)] > 0
    assert (found["mezite_ready", ()], found["mezite_serving", ()]) == (1, 1)
    assert (found["mezite_instances", ()], found["mezite_active_locks", ()]) == (1, 0)
    assert found["process_resident_memory_bytes", ()] > 0
    well_made(page(SERVER))


@pytest.mark.config(diag={"listen_addr": SERVER})
def test_logins_at_the_node_are_counted(cluster: Cluster) -> None:
    cluster.add_role()
    machine = cluster.machine()
    assert machine.once(f"--join-token={cluster.add_bot()}").code == 0
    assert machine.ssh("whoami").code == 0
    assert machine.ssh("whoami", login="root").code == 255

    def counted() -> dict[tuple[str, tuple[tuple[str, str], ...]], float] | None:
        found = scrape(SERVER)
        told = {dict(labels)["event"] for name, labels in found if name == "mezite_events_total"}
        return found if {"user.login", "authz.denied"} <= told else None

    found = wait_for(counted, "login and refusal counted")
    assert found["mezite_events_total", (("event", "user.login"), ("reason", ""))] == 1


@pytest.mark.config(diag={"listen_addr": SERVER})
def test_daemon_tells_how_its_certificate_stands(cluster: Cluster) -> None:
    """Seconds left, generation, requests; and red once the server is away."""
    cluster.add_role()
    machine: MachineProcess = cluster.machine()
    machine.daemon(
        f"--join-token={cluster.add_bot()}", "--renewal-interval=1s", "--certificate-ttl=2m",
        f"--diag-addr={DAEMON}",
    )
    wait_for(lambda: (machine.status().get("generation") or 0) > 1, "renewal")
    found = scrape(DAEMON)
    assert found["mezite_identity_ready", ()] == 1
    assert 0 < found["mezite_identity_seconds_to_expiry", ()] <= 120
    assert found["mezite_identity_generation", ()] >= 2
    assert found["mezite_identity_hooks_failing", ()] == 0
    (info,) = [dict(labels) for name, labels in found if name == "mezite_identity_info"]
    assert (info["bot"], info["cluster"]) == ("github-deploy", "example")
    well_made(page(DAEMON))
    # The alert rules and the dashboard speak of what there is.
    assert machine.ssh("whoami", login="root").code == 255
    there = {name for name, _ in found} | {name for name, _ in scrape(SERVER)}
    spoken = RULES.read_text() + "".join(expressions())
    assert set(re.findall(r"\bmezite_\w+", spoken)) - there == set()
    asked = "mezite_identity_requests_total"
    assert found[asked, (("method", "join"), ("outcome", "ok"))] == 1
    assert found[asked, (("method", "renew"), ("outcome", "ok"))] >= 1
    assert cluster.server is not None
    cluster.server.stop()
    wait_for(lambda: scrape(DAEMON)["mezite_identity_failures_in_a_row", ()] >= 2, "failures counted")
    assert scrape(DAEMON)["mezite_identity_ready", ()] == 0
