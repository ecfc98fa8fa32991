"""TAB in real shells: commands, options, and the names that the server has."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem
from msgspec.structs import force_setattr

import mezite
from mezite.cli import mezd, msh
from mezite.cli.completion import SHELLS, variable
from mezite.cli.mezctl import mezctl
from mezite.core.model import Node
from mezite.identity.destination import Directory
from mezite.identity.outputs import Outputs
from tests.cli.conftest import Terminal
from tests.identity.making import held
from tests.shells import Shell

ROOT = Path(mezite.__file__).parent.parent
PROGRAMS: dict[str, click.Command] = {"mezctl": mezctl, "mezd": mezd.main, "msh": msh.main}
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], []),
    "zsh": (["zsh", "-f", "-i"], ["unsetopt ZLE_RPROMPT PROMPT_SP 2>/dev/null", "autoload -U compinit",
                                  "compinit -u -D"]),
    "fish": (["fish", "--no-config", "-i"], ["set -g fish_autosuggestion_enabled 0"]),
}
EVALUATED = {"bash": 'eval "$({} completion bash)"', "zsh": 'eval "$({} completion zsh)"',
             "fish": "{} completion fish | source"}


@pytest.fixture
def environ(tmp_path: Path, terminal: Terminal) -> dict[str, str]:
    """Our programs on the PATH, as they lie in the tree; the server's socket by its variable."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in PROGRAMS:
        program = bin_ / name
        program.write_text(f"#!{sys.executable}\nfrom mezite.cli.{name} import main\nmain()\n")
        program.chmod(0o755)
    return {
        "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
        "TERM": "xterm", "LANG": "C.UTF-8", "PS1": "$ ", "MEZITE_ADMIN_SOCKET": str(terminal.server.path),
    }


@pytest.fixture(params=list(START))
def shell(request: pytest.FixtureRequest, environ: dict[str, str]) -> Iterator[Shell]:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (Debian: {name})")
    argv, commands = START[name]
    with Shell(argv, environ) as opened:
        for command in [*commands, *(EVALUATED[name].format(program) for program in PROGRAMS)]:
            opened.run(command)
        yield opened


def test_names_are_completed_in_real_shells(shell: Shell, terminal: Terminal) -> None:
    """A name, a role in a list, an option's value after a space and after an equals sign."""
    terminal.bot("github-deploy")
    terminal.bot("nightly")
    for typed, expected in [
        ("mezctl bots sh\t", "mezctl bots show "),
        ("mezctl bots show gi\t", "mezctl bots show github-deploy"),
        ("mezctl bots add --roles ci-\t", "--roles ci-deployer"),
        ("mezctl tokens ls --bot nig\t", "--bot nightly"),
        ("mezctl tokens ls --bot=nig\t", "--bot=nightly"),
        ("mezctl roles get ci\t", "get ci-deployer"),
        ("mezd identity doc\t", "identity doctor"),
        ("mezd identity start --one\t", "--one-shot"),
        ("msh stat\t", "msh status"),
    ]:
        shell.type(typed)
        shell.see(expected)
        shell.type("\x15")


def test_a_server_that_is_not_there_is_no_noise(shell: Shell, environ: dict[str, str]) -> None:
    shell.type("mezctl --socket /nonexistent bots show gi\t")
    shell.type("X")
    shown = shell.see("giX")
    assert "mezctl:" not in shown
    assert "rror" not in shown


# --- what is completed, without a shell -------------------------------------------------------


def completed(program: str, *words: str, shell: str = "bash") -> list[CompletionItem]:
    *args, incomplete = words
    return SHELLS[shell](PROGRAMS[program], {}, program, variable(program)).get_completions(args, incomplete)


def values(program: str, *words: str, shell: str = "bash") -> list[str]:
    return [item.value for item in completed(program, *words, shell=shell)]


@pytest.fixture
def served(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("MEZITE_ADMIN_SOCKET", str(terminal.server.path))
    return terminal


def test_every_kind_of_name(served: Terminal) -> None:
    machine = served.machine()
    stored = served.auth.instance(machine.instance_id)
    lock = served.admin.call("locks.add", kind="login", target="deploy")["lock"]["id"]
    force_setattr(served.auth.context, "nodes", lambda: (Node("node1", "node1:3022", {}),))
    for words, name in [
        (("bots", "rm"), "github-deploy"), (("bots", "lock"), "github-deploy"),
        (("bots", "rotate-token"), "github-deploy"), (("tokens", "create", "--bot"), "github-deploy"),
        (("instances", "show"), machine.instance_id), (("instances", "recover"), machine.instance_id),
        (("locks", "add", "--instance"), machine.instance_id), (("locks", "add", "--node"), "node1"),
        (("locks", "add", "--role"), "ci-deployer"), (("tokens", "rm"), stored.token_id),
        (("locks", "rm"), lock), (("roles", "delete"), "ci-deployer"),
        (("bots", "add", "--roles"), "ci-deployer"),
    ]:
        assert values("mezctl", *words, "") == [name], words
        assert values("mezctl", *words, name[:3]) == [name], words
        assert values("mezctl", *words, name) == [name], words
        assert values("mezctl", *words, "~") == [], words


def test_names_of_a_long_list_are_found_by_how_they_begin(served: Terminal) -> None:
    """Though one page holds only the first of them."""
    for number in range(1000):
        served.auth.add_bot(f"bot-{number:04}")
    served.auth.add_bot("bot")
    served.auth.add_bot("zebra")
    assert values("mezctl", "bots", "show", "bot-099") == [f"bot-099{digit}" for digit in range(10)]
    assert values("mezctl", "bots", "show", "z") == ["zebra"]
    assert len(values("mezctl", "bots", "show", "")) == 200


def test_a_socket_that_is_named_is_asked(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEZITE_ADMIN_SOCKET", raising=False)
    terminal.bot()
    path = str(terminal.server.path)
    assert values("mezctl", "--socket", path, "bots", "show", "") == ["github-deploy"]
    assert values("mezctl", "bots", "show", "--socket", path, "") == ["github-deploy"]
    assert values("mezctl", "bots", "show", "--format", "json", f"--socket={path}", "") == ["github-deploy"]


def test_of_several_roles_the_last_is_completed_and_none_twice(served: Terminal) -> None:
    served.admin.call("roles.put", document={
        "kind": "role", "metadata": {"name": "logs"}, "spec": {"allow": {"logins": ["logs"]}},
    })
    assert values("mezctl", "bots", "add", "--roles", "ci-deployer,") == ["ci-deployer,logs"]
    assert values("mezctl", "bots", "add", "--roles", "logs,c") == ["logs,ci-deployer"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_value_after_an_equals_sign_is_the_whole_word_where_the_shell_has_one(
    served: Terminal, shell: str
) -> None:
    served.bot()
    assert values("mezctl", "tokens", "ls", "--bot=gi", shell=shell) == ["--bot=github-deploy"]
    assert values("mezctl", "bots", "show", "gi", shell=shell) == ["github-deploy"]


def test_a_server_that_does_not_answer_is_waited_for_a_second_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and says nothing."""
    path = tmp_path / "silent.sock"
    monkeypatch.setenv("MEZITE_ADMIN_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        found: list[list[str]] = []
        thread = threading.Thread(target=lambda: found.append(values("mezctl", "bots", "show", "")))
        thread.start()
        thread.join(30)
    assert found == [[]], "60 s is what other commands wait"


@pytest.mark.parametrize(
    "answer", ["[]", "null", "{}", '{"jsonrpc": "2.0", "id": 1, "result": {"bots": [{}]}}']
)
def test_a_server_of_another_kind_is_no_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: str
) -> None:
    path = tmp_path / "odd.sock"
    monkeypatch.setenv("MEZITE_ADMIN_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer.encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert values("mezctl", "bots", "show", "") == []
        thread.join(10)
    assert capfd.readouterr() == ("", "")


def test_msh_completes_the_nodes_that_the_identity_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path / "certs")
    directory.publish(Outputs.from_held(held()), timedelta(0))
    config = (directory.path / "ssh_config").read_text()
    known = [line.split()[1] for line in config.splitlines() if line.startswith("Host ") and "*" not in line]
    assert known
    monkeypatch.setenv("MEZITE_IDENTITY", str(directory.path))
    assert values("msh", "ssh", "") == known
    assert values("msh", "ssh", f"deploy@{known[0][:2]}") == [f"deploy@{known[0]}"]
    monkeypatch.delenv("MEZITE_IDENTITY")
    assert values("msh", "ssh", "--cert", str(directory.path), "") == known


@pytest.mark.parametrize(
    ("program", "words", "kind"),
    [
        ("mezctl", ("roles", "create", "--from-file", ""), "file"), ("mezctl", ("backup", ""), "file"),
        ("mezctl", ("certs", "inspect", ""), "file"), ("mezctl", ("--socket", ""), "file"),
        ("mezd", ("identity", "start", "--destination", ""), "dir"),
        ("mezd", ("identity", "start", "--join-token-file", ""), "file"), ("msh", ("scp", ""), "file"),
    ],
)
def test_files_are_left_to_the_shell(program: str, words: tuple[str, ...], kind: str) -> None:
    assert [item.type for item in completed(program, *words)] == [kind]


def test_commands_are_completed_without_importing_them(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mezite.cli.mezctl as m\ntry: m.main()\nexcept SystemExit: pass\n"
         "print([n for n in sys.modules if n.startswith('mezite.cli.ctl_')])"],
        env={**environ, "_MEZCTL_COMPLETE": "bash_complete", "COMP_WORDS": "mezctl b", "COMP_CWORD": "1"},
        capture_output=True, text=True, timeout=60, check=True,
    )
    assert done.stdout == "plain,bots\nplain,backup\n[]\n"


@pytest.mark.parametrize("instruction", ["bash_complete", "nosuchshell_complete", "x"])
def test_whatever_the_environment_says_nothing_lands_on_the_line(
    environ: dict[str, str], instruction: str
) -> None:
    """No variable of bash's own: the answer is an exit code."""
    done = subprocess.run(
        [f"{environ['HOME']}/bin/mezctl"], env={**environ, "_MEZCTL_COMPLETE": instruction},
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
