"""The examples are what their readers take: by the schemas of those, and by our own programs' settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mezite.config import daemon
from mezite.config.server import ServerConfig
from tests.examples.reading import EXAMPLES, ROOT, containers, document, documents, instructions, resource

BIN = Path(sys.executable).parent
TOOLS = {"check-jsonschema": "check_jsonschema", "kubernetes-validate": "kubernetes_validate"}


def tool(name: str, *words: str | Path) -> None:
    pytest.importorskip(TOOLS[name], reason=f"needs {name} (PyPI)")
    done = subprocess.run([BIN / name, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("github-actions", "github/mezite-identity/action.yml"),
        ("github-workflows", "github/deploy.yml"),
        ("gitlab-ci", "gitlab/gitlab-ci.yml"),
        ("compose-spec", "docker/compose.yaml"),
    ],
)
def test_it_is_of_its_kind(schema: str, name: str) -> None:
    more = ["--data-transform=gitlab-ci"] if schema == "gitlab-ci" else []
    tool("check-jsonschema", f"--builtin-schema=vendor.{schema}", *more, EXAMPLES / name)


@pytest.mark.parametrize("name", ["server.yaml", "machine.yaml"])
def test_kubernetes_takes_it(name: str) -> None:
    tool("kubernetes-validate", "--strict", "--quiet", EXAMPLES / "kubernetes" / name)


def test_every_yaml_file_is_one() -> None:
    found = [path for path in EXAMPLES.rglob("*") if path.suffix in (".yaml", ".yml")]
    assert len(found) > 8
    for path in found:
        assert list(yaml.safe_load_all(path.read_text())), path


def test_every_example_is_explained() -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("integrations.md", "client.md"))
    for path in EXAMPLES.rglob("*"):
        if path.is_file():
            assert f"(examples/{path.relative_to(EXAMPLES)})" in text, path


# --- settings of our own programs -------------------------------------------------------------


def server_config(text: str, tmp_path: Path) -> ServerConfig:
    """As the server reads it; the passphrase lies where a test can put it."""
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    settings = yaml.safe_load(text)
    assert settings["ca_key_passphrase_file"].startswith("/run/secrets/")
    settings["ca_key_passphrase_file"] = str(secret)
    path = tmp_path / "mezite.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ServerConfig.load(path, {"HOME": str(tmp_path)}, 10001)


def test_the_servers_settings_are_known_ones(tmp_path: Path) -> None:
    of_docker = server_config((EXAMPLES / "docker/mezite.yaml").read_text(), tmp_path)
    of_kubernetes = server_config(
        resource("kubernetes/server.yaml", "ConfigMap")["data"]["mezite.yaml"], tmp_path
    )
    assert of_docker.diag == ("127.0.0.1", 3081)
    assert of_kubernetes.diag == ("0.0.0.0", 3081)
    for config in (of_docker, of_kubernetes):
        assert (config.listen_host, config.listen_port) == ("0.0.0.0", 3025)
        assert config.ca_key_passphrase is not None


def test_the_machines_settings_are_known_ones(tmp_path: Path) -> None:
    text = resource("kubernetes/machine.yaml", "ConfigMap")["data"]["identity.yaml"]
    (tmp_path / "identity.yaml").write_text(text)
    config = daemon.load({"config": str(tmp_path / "identity.yaml")}, {}, 10001)
    assert [one.destination for one in config.all_outputs()] == [Path("/state/certs"), Path("/identity/app")]
    (playbook,) = document_list("ansible/mezd.yaml")
    (content,) = [task["ansible.builtin.copy"]["content"] for task in playbook["tasks"]
                  if task["name"] == "Write the settings"]
    content = content.replace("{{ mezite_auth_server }}", "mezite.example.com:3025")
    (tmp_path / "identity.yaml").write_text(content)
    assert daemon.load({"config": str(tmp_path / "identity.yaml")}, {}, 0).diag == ("127.0.0.1", 3082)


def document_list(name: str) -> list[dict[str, Any]]:
    found: Any = document(name)
    return list(found)


# --- containers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kubernetes/server.yaml", "kubernetes/machine.yaml"])
def test_containers_are_confined_and_probed_for_what_the_answers_mean(name: str) -> None:
    """/healthz is for restarts, /readyz is for traffic: a restart mends no refusal."""
    for container in containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "limits" in container["resources"]
        if container["name"] != "app":
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    for one in documents(name):
        pod = one.get("spec", {}).get("template", {}).get("spec")
        if pod:
            assert pod["securityContext"]["runAsNonRoot"]
            assert not pod["automountServiceAccountToken"]


def test_the_program_beside_the_sidecar_sees_no_state() -> None:
    """What an identity renews with stays with mezd; and no replica shares it."""
    sidecar, app = containers("kubernetes/machine.yaml")
    mounted = {mount["name"]: mount for mount in app["volumeMounts"]}
    assert set(mounted) == {"identity"}
    assert mounted["identity"]["readOnly"]
    assert {"state", "token"} <= {mount["name"] for mount in sidecar["volumeMounts"]}
    machine = resource("kubernetes/machine.yaml", "StatefulSet")["spec"]
    (state,) = machine["volumeClaimTemplates"]
    assert state["metadata"]["name"] == "state"
    assert state["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert resource("kubernetes/server.yaml", "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_image_runs_as_nobody_in_particular_with_all_that_it_copies(tmp_path: Path) -> None:
    """Its build has every file that the package is made of; compose builds it from there."""
    found = instructions()
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    copied = [rest.split()[:-1] for word, rest in found if word == "COPY" and not rest.startswith("--from")]
    for name in (name for names in copied for name in names):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "out", tmp_path],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").glob("mezite-*.whl"))) == 1
    build = document("docker/compose.yaml")["services"]["auth"]["build"]
    assert (EXAMPLES / "docker" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_the_image_has_programs_that_there_are() -> None:
    """Words of commands and health checks, as click knows them."""
    services = document("docker/compose.yaml")["services"]
    commands = [services["identity"]["command"], services["identity"]["healthcheck"]["test"][1:]]
    commands += [one["command"] for one in containers("kubernetes/machine.yaml") if one["name"] != "app"]
    for command in commands:
        assert command[:2] == ["mezd", "identity"]
        words = [BIN / "mezd", *command[1:3], "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        for word in command[3:]:
            assert not word.startswith("--") or word.partition("=")[0] in done.stdout
