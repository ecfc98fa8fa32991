"""The programs of docs/examples and docs/client.md, against the real server and node, strict about hosts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import BIN, Cluster, Finished, environment, run

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", (DOCS / "client.md").read_text(), re.DOTALL | re.MULTILINE)
BOTH = pytest.mark.parametrize("example", ["client_asyncssh", "client_conch"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    names = ["web-server-01", "127.0.0.1"]
    made = Cluster(tmp_path_factory.mktemp("examples"), {"ssh": {"host_names": names}})
    made.start()
    made.add_role()
    yield made
    made.close()


class Program:
    """One of the examples, with a bot of its own."""

    def __init__(self, cluster: Cluster, example: str, home: Path, name: str) -> None:
        self.cluster, self.home = cluster, home
        self.script = EXAMPLES / f"{example}.py"
        self.bot = f"{example.replace('_', '-')}-{name}"
        self.token = cluster.add_bot(self.bot)
        self.directory = home / "identity"

    def run(
        self, *options: str, where: str = "deploy@127.0.0.1", command: str = "whoami",
        token: str | None = None,
    ) -> Finished:
        env = environment(self.home, MEZITE_JOIN_TOKEN=self.token if token is None else token)
        return run(
            [sys.executable, self.script, f"127.0.0.1:{self.cluster.port}", self.directory, where,
             str(self.cluster.node_port), command, *options],
            env, timeout=60,
        )


@BOTH
def test_logins_go_on_through_renewals(cluster: Cluster, example: str, tmp_path: Path) -> None:
    program = Program(cluster, example, tmp_path, "renews")
    done = program.run("--renewal-interval=1s", "--times=8", "--every=0.75")
    assert done.code == 0, done
    lines = done.out.splitlines()
    generations = [int(line.split()[1].rstrip(":")) for line in lines]
    assert [line.partition(": ")[2] for line in lines] == ["deploy"] * 8, done
    assert generations == sorted(generations)
    assert generations[-1] > generations[0], "no renewal came in between"
    assert "PRIVATE" not in done.err
    assert program.token not in done.err
    # A later start needs no token, and goes on with the same instance.
    again = program.run("--times=1", token="")
    assert again.code == 0, again
    assert int(again.out.split()[1].rstrip(":")) >= generations[-1]


@BOTH
def test_a_host_of_another_name_is_not_talked_to(cluster: Cluster, example: str, tmp_path: Path) -> None:
    """The node's certificate does not name localhost, which leads to it as well."""
    done = Program(cluster, example, tmp_path, "strange").run("--times=1", where="deploy@localhost")
    assert (done.code, done.out) == (1, ""), done
    (line,) = done.lines
    assert "(wrong_principal)" in line or line.startswith("HostKeyNotVerifiable: "), line


@BOTH
def test_a_command_that_fails_is_told(cluster: Cluster, example: str, tmp_path: Path) -> None:
    done = Program(cluster, example, tmp_path, "fails").run("--times=1", command="false")
    assert (done.code, done.out) == (1, ""), done


@BOTH
def test_a_refused_login_is_one_line(cluster: Cluster, example: str, tmp_path: Path) -> None:
    done = Program(cluster, example, tmp_path, "root").run("--times=1", where="root@127.0.0.1")
    assert done.code == 1, done
    assert done.out == ""
    (line,) = done.lines
    assert "root" in line or "PermissionDenied" in line


@BOTH
def test_a_refused_join_tells_its_reason(cluster: Cluster, example: str, tmp_path: Path) -> None:
    program = Program(cluster, example, tmp_path, "rotated")
    cluster.ctl("bots", "rotate-token", program.bot)
    done = program.run("--times=1")
    assert done.code == 1, done
    assert done.lines[-1].endswith("(token_rotated)"), done
    assert program.token not in done.err


@BOTH
def test_mezd_leaves_what_a_program_has_joined(cluster: Cluster, example: str, tmp_path: Path) -> None:
    """One state, one layout: mezd's commands are good for a program's directory."""
    program = Program(cluster, example, tmp_path, "leaves")
    assert program.run("--times=1").code == 0
    leave = [BIN / "mezd", "identity", "leave", f"--destination={program.directory}"]
    left = run(leave, environment(tmp_path))
    assert left.code == 0, left
    assert left.out.startswith(f"left: bot {program.bot}, ")


@pytest.mark.parametrize(("number", "expected"), [
    (0, "deploy\n"), (1, "logged in by generation 1\n"), (2, "docs-script 1\n"),
], ids=["asyncio", "twisted", "script"])
def test_the_programs_of_the_page_run_as_they_stand_there(
    cluster: Cluster, tmp_path: Path, number: int, expected: str
) -> None:
    assert len(PROGRAMS) == 3
    text = PROGRAMS[number]
    for written, real in (
        ("auth.example.com:3025", f"127.0.0.1:{cluster.port}"), ("/var/lib/deploy", str(tmp_path / "deploy")),
        ("web-server-01", "127.0.0.1"), ("3022", str(cluster.node_port)),
    ):
        text = text.replace(written, real)
    (tmp_path / "program.py").write_text(text)
    bot = ["docs-asyncio", "docs-twisted", "docs-script"][number]
    env = environment(tmp_path, MEZITE_JOIN_TOKEN=cluster.add_bot(bot))
    done = run([sys.executable, tmp_path / "program.py"], env, timeout=60)
    assert (done.code, done.out) == (0, expected), done
