"""`mezctl` as a person runs it, against the server's own methods on a unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mezite.cli.mezctl import mezctl
from mezite.core.request import TokenText
from tests.fakes_admin import Admin, FakeServer
from tests.harness import Auth, Machine


class Terminal:
    """One server, and the commands typed at it."""

    def __init__(self, directory: Path) -> None:
        self.auth = Auth()
        self.admin = Admin(self.auth)
        self.server = FakeServer(directory / "admin.sock", self.admin.methods)

    def close(self) -> None:
        self.server.close()
        self.auth.close()

    def type(self, *words: str, stdin: str | bytes | None = None, socket: str | None = "") -> Result:
        """What became of ``mezctl WORDS``; without *socket* the command line names none."""
        named = () if socket is None else ("--socket", socket or str(self.server.path))
        return CliRunner().invoke(mezctl, [*named, *words], input=stdin, prog_name="mezctl")

    def told(self, *words: str, stdin: str | bytes | None = None) -> str:
        """Standard output of a command that succeeds and complains about nothing."""
        result = self.type(*words, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def failed(
        self, *words: str, stdin: str | bytes | None = None, socket: str | None = ""
    ) -> tuple[int, str]:
        """Exit code and the one line of a command that fails and prints nothing else."""
        result = self.type(*words, stdin=stdin, socket=socket)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        return result.exit_code, result.stderr.rstrip("\n")

    def bot(self, name: str = "github-deploy") -> str:
        """A bot's join token."""
        return str(self.admin.call("bots.add", name=name, roles=["ci-deployer"])["join_token"])

    def machine(self, token: str | None = None) -> Machine:
        joined = Machine(self.auth)
        joined.join(TokenText.from_text(token or self.bot()))
        return joined


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    yield opened
    opened.close()
