"""Both programs' logs as JSON: every line is an event that docs/logs.md knows, and none holds a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.processes import BIN, Cluster, free_port, wait_for
from tests.test_logs import names_in_code

PASSPHRASE = "correct horse battery staple"
UNKNOWN = "tok-bot-" + "0" * 12 + "-" + "5ec7e7" * 5 + "00"


def events(path: Path) -> list[dict[str, Any]]:
    """Every line, each of which has to be one whole object."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for one in found:
        assert {"time", "level", "event", "source", "message"} <= set(one)
        assert set(one) <= {"time", "level", "event", "source", "message", "fields", "traceback"}
    return found


def named(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [one for one in found if one["event"] == name]


def secret_parts(pem: bytes) -> list[str]:
    return [line for line in pem.decode().splitlines() if line and not line.startswith("-----")]


@pytest.mark.config(
    log={"format": "json", "level": "debug"}, auth={"workers": 2}, ca_key_passphrase=PASSPHRASE,
    diag={"listen_addr": f"127.0.0.1:{free_port()}"},
)
def test_logs_of_a_life(cluster: Cluster) -> None:
    """Join, renewals with hooks that write, a login, refusals of every kind, and both ends."""
    cluster.add_role()
    token = cluster.add_bot()
    machine = cluster.machine()
    config = machine.home / "identity.yaml"
    config.write_text(yaml.safe_dump({
        "outputs": ["files", "agent"], "log-format": "json",
        "on-renew": [["/bin/sh", "-c", "echo said; echo half >&2; printf 'not {json'; exit 3"]],
    }))
    daemon = machine.daemon(f"--config={config}", f"--join-token={token}", "--renewal-interval=1s",
                            f"--diag-addr=127.0.0.1:{free_port()}")
    wait_for(lambda: (machine.status().get("generation") or 0) > 2, "renewals")
    assert machine.ssh("whoami").code == 0
    assert machine.ssh("whoami", login="root").code == 255
    pin = token.rsplit("-", 1)[1]
    stranger = cluster.machine("stranger").once("--log-format=json", f"--join-token={UNKNOWN}-{pin}")
    second = cluster.machine("second").once("--log-format=json", f"--join-token={token}")
    assert cluster.mezctl("bots", "show", "nobody").code == 3
    keys = [(machine.destination / "ssh_key").read_bytes()]
    cluster.ctl("bots", "rm", "github-deploy")
    assert daemon.wait() == 3
    assert cluster.server is not None
    assert cluster.server.stop() == 0

    of_server, of_daemon = events(cluster.server.log), events(daemon.log)
    ends = [json.loads(line) for done in (stranger, second) for line in done.err.splitlines()]
    everything = of_server + of_daemon + ends
    assert {one["event"] for one in everything} <= names_in_code()

    (joined,) = named(of_daemon, "identity.joined")
    assert (joined["fields"]["bot"], joined["fields"]["principals"]) == ("github-deploy", ["deploy"])
    assert [one["fields"]["generation"] for one in named(of_daemon, "identity.renewed")][:2] == [2, 3]
    said = [one["fields"]["text"] for one in named(of_daemon, "hook.output")]
    assert said[:3] == ["said", "half", "not {json"]
    assert named(of_daemon, "hook.failed")[0]["fields"]["why"] == "/bin/sh: exit code 3"
    assert of_daemon[-1]["event"] == "identity.ended"
    assert of_daemon[-1]["fields"] == {"code": "bot_gone", "exit_code": 3}
    assert [one["fields"]["code"] for one in ends] == ["token_unknown", "token_used"]

    refused = {one["fields"]["reason"]: one for one in named(of_server, "join.refused")}
    assert set(refused) == {"token_unknown", "token_used"}
    assert refused["token_unknown"]["fields"]["worker"] in (1, 2)
    assert named(of_server, "node.login_refused")[0]["fields"]["login"] == "root"
    assert named(of_server, "server.stopping")
    assert named(of_server, "node.command")[0]["fields"]["login"] == "deploy"

    text = cluster.server.log.read_text() + daemon.log.read_text() + stranger.err + second.err
    secrets = [token.split("-")[3], UNKNOWN.split("-")[3], PASSPHRASE]
    secrets += [part for key in keys for part in secret_parts(key)]
    assert len(secrets) > 4
    assert [one for one in secrets if one in text] == []


@pytest.mark.config(log={"format": "json"})
def test_a_server_that_cannot_start_says_so_in_one_object(cluster: Cluster) -> None:
    assert cluster.server is not None
    second = cluster.spawn(
        [BIN / "twistd", "-n", "--pidfile=", "mezite-auth", "--config", cluster.config], cluster.env,
        cluster.root / "second.log",
    )
    assert second.wait() == 1
    (failed,) = named(events(second.log), "server.failed")
    assert failed["level"] == "critical"
    assert "is in use" in failed["message"] or "another" in failed["message"]
