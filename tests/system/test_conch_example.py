"""The example in docs/conch-certificates.md works as it stands there, word for word."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import Finished, Process, environment, free_port, run, wait_for

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conch-certificates.md").read_text()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this machine (Debian: openssh-client)"),
]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


class Example:
    """The documented server, and the commands around it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = environment(directory)
        self.port = free_port()
        (directory / "server.py").write_text(block("python"))
        *prepare, start, self.log_in = block("sh").replace("2222", str(self.port)).splitlines()
        for line in prepare:
            done = self.shell(line)
            assert done.code == 0, (line, done)
        words = shlex.split(start.removesuffix("&"))
        assert words[0] == "python"
        self.server = Process(
            ["sh", "-c", f"cd {directory} && exec {sys.executable} {shlex.join(words[1:])}"],
            self.env | {"PYTHONPATH": str(Path(__file__).parents[2])}, directory / "log",
        )
        wait_for(self._listens, f"server; {self.server.text()}")

    def _listens(self) -> bool:
        assert self.server.code is None, self.server.text()
        return self.shell(f"exec 3<>/dev/tcp/127.0.0.1/{self.port}").code == 0

    def shell(self, line: str) -> Finished:
        return run(["bash", "-c", f"cd {self.directory} && {line}"], self.env)

    def ssh(self, line: str = "") -> Finished:
        return self.shell((line or self.log_in) + " < /dev/null")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    made = Example(tmp_path_factory.mktemp("example"))
    try:
        yield made
    finally:
        made.server.end_group()
    assert "Traceback" not in made.server.text()


def test_documented_login_works(example: Example) -> None:
    done = example.ssh()
    assert (done.code, done.out) == (0, "deploy by certificate 7 (a user): hello\n"), done


def test_another_login_is_refused(example: Example) -> None:
    done = example.ssh(example.log_in.replace("deploy@", "-o BatchMode=yes root@"))
    assert done.code == 255
    assert "Permission denied (publickey)" in done.err


def test_force_command_wins(example: Example) -> None:
    made = example.shell(
        "ssh-keygen -q -t rsa -N '' -f forced && "
        "ssh-keygen -q -s user_ca -I f -n deploy -V +1h -O force-command=uptime forced.pub"
    )
    assert made.code == 0, made
    assert example.ssh(example.log_in.replace("-i id", "-i forced")).out.endswith(": uptime\n")


def test_key_without_certificate_is_refused(example: Example) -> None:
    assert example.shell("ssh-keygen -q -t ed25519 -N '' -f bare").code == 0
    assert example.ssh(example.log_in.replace("-i id", "-o BatchMode=yes -i bare")).code == 255
