"""docs/examples, run: what GitHub's and GitLab's runners, Ansible and a pod would do, on real processes."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.examples.reading import EXAMPLES, document, resource
from tests.system.processes import BIN, Cluster, Finished, environment, run, wait_for

ME = pwd.getpwuid(os.geteuid()).pw_name
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""As GitHub starts it for `shell: bash`."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Its node is the web-server-01 of the examples, and runs real commands as this account."""
    made = Cluster(tmp_path_factory.mktemp("examples"), {"ssh": {"exec": "system", "run_as": ME}})
    made.start()
    options = {"max_session_ttl": "1h", "file_copy": True}
    made.add_role(options=options, deny={"logins": ["nobody"]})
    yield made
    made.close()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URL and checksum of a tarball with mezd and msh."""
    path = tmp_path_factory.mktemp("release") / "mezite-linux-amd64.tar.gz"
    with tarfile.open(path, "w:gz") as tarball:
        for program in ("mezd", "msh", "mezctl"):
            tarball.add(BIN / program, program)
    return path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()


def instances(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(cluster.ctl("--format=json", "instances", "ls"))["instances"]
    return found


class Runner:
    """A job of GitHub Actions: its steps share files that say what they have set."""

    def __init__(self, home: Path, inputs: Mapping[str, str]) -> None:
        home.mkdir()
        self.home, self.inputs = home, inputs
        self.env = environment(home, RUNNER_TEMP=str(home / "temp"))
        (home / "temp").mkdir()
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"):
            self.env[name] = str(home / name)
            (home / name).touch()

    def step(self, script: str, given: Mapping[str, str] | None = None) -> Finished:
        assert "${{" not in script, "what comes from outside is no part of a script"
        env = self.env | {name: self._value(text) for name, text in (given or {}).items()}
        path = self.home / "step.sh"
        path.write_text(script)
        done = run([*BASH, path], env, timeout=60)
        added = (self.home / "GITHUB_PATH").read_text().split()
        self.env["PATH"] = ":".join([*added, os.environ["PATH"]])
        self.env |= dict(line.split("=", 1) for line in (self.home / "GITHUB_ENV").read_text().splitlines())
        return done

    def _value(self, text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: self.inputs[match[1]], text)

    def action(self) -> Finished:
        """Its steps until one fails."""
        action = document("github/mezite-identity/action.yml")
        assert set(self.inputs) == set(action["inputs"])
        for step in action["runs"]["steps"]:
            done = self.step(step["run"], step["env"])
            if done.code:
                break
        return done


def job(cluster: Cluster, name: str, token: str, release: tuple[str, str] = ("", "")) -> Runner:
    inputs = {"auth-server": f"127.0.0.1:{cluster.port}", "token": token, "destination": "",
              "certificate-ttl": "15m", "release": release[0], "sha256": release[1]}
    return Runner(cluster.root / name, inputs)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: curl)")
def test_github_runs_the_action_and_the_workflow(cluster: Cluster, release: tuple[str, str]) -> None:
    """Fetch, check, join, deploy, end; the token is in no step's output, and is good for one run."""
    token = cluster.add_bot("github")
    runner = job(cluster, "first", token, release)
    joined = runner.action()
    assert joined.code == 0, joined
    outputs = dict(line.split("=", 1) for line in (runner.home / "GITHUB_OUTPUT").read_text().splitlines())
    assert Path(outputs["ssh-config"]).is_file()
    (workflow,) = document("github/deploy.yml")["jobs"].values()
    deploy, end = (step["run"] for step in workflow["steps"] if "run" in step)
    assert "./deploy.sh" in deploy
    done = runner.step(deploy.replace("./deploy.sh", "id -un"))
    assert (done.code, done.out) == (0, f"{ME}\n"), done
    (held,) = [one for one in instances(cluster) if one["bot"] == "github"]
    assert held["state"] == "active"
    left = runner.step(end)
    assert left.code == 0, left
    assert not (Path(outputs["destination"]) / "ssh_key").exists()
    assert token.split("-")[3] not in joined.out + joined.err

    again = job(cluster, "second", token, release).action()
    assert again.code == 3
    assert "token_used" in again.err


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: curl)")
def test_github_installs_nothing_that_it_was_not_told(cluster: Cluster, release: tuple[str, str]) -> None:
    other = job(cluster, "other", "tok", (release[0], "0" * 64)).action()
    assert other.code != 0
    assert not (cluster.root / "other/temp/mezite-bin").exists()
    none = job(cluster, "none", "tok").action()
    assert (none.code, "::error::" in none.out) == (2, True)


def test_gitlab_runs_the_job_as_often_as_the_token_says(cluster: Cluster) -> None:
    """With a token of two uses, twice; the third run is told why not."""
    made = cluster.ctl("bots", "add", "--name=gitlab", "--roles=ci-deployer", "--uses=2")
    (line,) = [one for one in made.splitlines() if one.startswith("Join token:")]
    (job,) = document("gitlab/gitlab-ci.yml").values()
    home = cluster.root / "gitlab"
    home.mkdir()
    (home / "token").write_text(line.split()[2] + "\n")
    env = environment(home, MEZITE_JOIN_TOKEN_FILE=str(home / "token"), CI_PROJECT_DIR=str(home / "project"),
                      MEZITE_AUTH_SERVER=f"127.0.0.1:{cluster.port}")
    env["PATH"] = f"{BIN}:{env['PATH']}"
    env |= {name: re.sub(r"\$CI_PROJECT_DIR", env["CI_PROJECT_DIR"], text)
            for name, text in job["variables"].items()}
    script = "\n".join([*job["before_script"], *job["script"]]).replace("./deploy.sh", "id -un")
    for _ in range(2):
        done = run([*BASH, "-c", script], env, timeout=60)
        assert (done.code, done.out.splitlines()[-1]) == (0, ME), done
        ended = run([*BASH, "-c", "\n".join(job["after_script"])], env, timeout=60)
        assert ended.code == 0, ended
    third = run([*BASH, "-c", script], env, timeout=60)
    assert (third.code, "token_used" in third.err) == (3, True), third


@pytest.mark.skipif(not (BIN / "ansible-playbook").exists(), reason="needs ansible-core (PyPI)")
def test_ansible_deploys_with_the_identity(cluster: Cluster, tmp_path: Path) -> None:
    """By the example's own settings and inventory; both playbooks are ones."""
    machine = cluster.machine("ansible")
    assert machine.once(f"--join-token={cluster.add_bot('ansible')}").code == 0
    # Unix socket paths are short, temporary directories are not.
    with tempfile.TemporaryDirectory(prefix="mz") as sockets:
        env = environment(
            machine.home, ANSIBLE_CONFIG=str(EXAMPLES / "ansible/ansible.cfg"), ANSIBLE_NOCOLOR="1",
            ANSIBLE_SSH_CONTROL_PATH_DIR=sockets, MEZITE_IDENTITY=str(machine.destination),
            ANSIBLE_REMOTE_TMP=str(tmp_path / "remote"),
        )
        env["PATH"] = f"{BIN}:{env['PATH']}"
        books = [EXAMPLES / "ansible" / name for name in ("deploy.yaml", "mezd.yaml")]
        checked = run(["ansible-playbook", "--syntax-check", *books], env, timeout=120)
        assert checked.code == 0, checked
        done = run(
            ["ansible-playbook", "-v", "-e", f"ansible_python_interpreter={BIN}/python",
             "-e", f"deploy_to={tmp_path}/RELEASE", books[0]],
            env, timeout=120,
        )
        run(["ssh", "-O", "exit", "-o", f"ControlPath={sockets}/x", "x"], env)
    assert done.code == 0, done
    assert (tmp_path / "RELEASE").read_text() == "deployed\n"
    assert re.search(r"web-server-01 +: ok=2 +changed=1 .*failed=0", done.out)


def test_a_pods_program_logs_in_by_the_sidecars_agent(cluster: Cluster) -> None:
    """The sidecar's own settings, with its volumes elsewhere; a second start needs no token."""
    with tempfile.TemporaryDirectory(prefix="mz") as short:
        volumes = {"/state": f"{short}/state", "/identity": f"{short}/identity",
                   "/run/secrets/mezite": f"{short}/token"}
        settings = resource("kubernetes/machine.yaml", "ConfigMap")["data"]["identity.yaml"]
        for place, elsewhere in volumes.items():
            Path(elsewhere).mkdir()
            settings = re.sub(rf"(?m)(: ){place}/", rf"\g<1>{elsewhere}/", settings)
        config = Path(short, "identity.yaml")
        config.write_text(settings.replace("mezite-auth:3025", f"127.0.0.1:{cluster.port}")
                          .replace("0.0.0.0:3082", "127.0.0.1:0"))
        token = Path(short, "token/join-token")
        token.write_text(cluster.add_bot("pod") + "\n")
        env = environment(Path(short))
        argv = [BIN / "mezd", "identity", "start", "--config", config]
        log_in = ["ssh", "-F", f"{short}/identity/app/ssh_config", "deploy@web-server-01", "id -un"]
        for number in (1, 2):
            daemon = cluster.spawn(argv, env, cluster.root / f"pod-{number}.log")
            wait_for(lambda: run(log_in, env).out == f"{ME}\n", f"login; {daemon.text()[-2000:]}", 60)
            assert not list(Path(short, "identity").rglob("ssh_key"))
            assert daemon.stop() == 0
            token.unlink(missing_ok=True)
