"""What `mezctl` does when something is wrong: one line, and an exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mezite.cli.mezctl import _COMMANDS
from tests.cli.conftest import Terminal
from tests.fakes_admin import FakeServer

USAGE = [
    ((), "missing command; see mezctl --help (usage)"),
    (("--bogus",), "no such option '--bogus'; see mezctl --help (usage)"),
    (("bot",), "no such command 'bot'.*; see mezctl --help (usage)"),
    (("bots", "show"), "missing argument 'NAME'; see mezctl bots show --help (usage)"),
    (("bots", "add", "--name=x"), "missing option '--roles'; see mezctl bots add --help (usage)"),
    (("bots", "ls", "--limit=0"), "invalid value for '--limit': .*; see mezctl bots ls --help (usage)"),
    (("bots", "ls", "--format=xml"), "invalid value for '--format': .*; see mezctl bots ls --help (usage)"),
    (("ca", "export", "--type=x"), "invalid value for '--type': .*; see mezctl ca export --help (usage)"),
    (("ca", "sign-host", "-"), "missing option '--principals'; see mezctl ca sign-host --help (usage)"),
    (("ca", "sign-host", "--principals=web-1", "/nowhere.pub"),
     "/nowhere.pub: No such file or directory; name the public key of one host, such as .* (usage)"),
    (("ca", "sign-host", "--principals=web-1", "-"), "standard input holds 0 lines; name .* (usage)"),
    (("locks", "add"), "name one thing to lock: --bot, --instance, --role, --login or --node (usage)"),
    (("locks", "add", "--bot=a", "--role=b"), "name one thing to lock: .* (usage)"),
    (("bots", "add", "--name=a b", "--roles=ci-deployer"), "name: 'a b' is not a name; .* (invalid)"),
    (("bots", "add", "--name=x", "--roles=ci-deployer", "--token-ttl=1y"),
     "token_ttl: '1y' is not a duration; write a duration such as 45s, 30m, 1h30m or 7d (invalid)"),
    (("bots", "add", "--name=x", "--roles=ci-deployer", "--source-address="),
     "source_address: it names no address; leave it out for certificates that are good from anywhere "
     "(invalid)"),
    (("bots", "add", "--name=x", "--roles=ci-deployer", "--source-address= ,"),
     "source_address: it names no address; .* (invalid)"),
    (("bots", "lock", "ci", "--reason=\udcff"),
     "what you send is not UTF-8; write it in that encoding (usage)"),
    (("tokens", "create", "--bot=x", "--uses=0"), "uses: expected an integer from 1 to 100000 (invalid)"),
    (("audit", "ls", "--after=x"), "after: 'x' is not what `next` was; it is a number there (invalid)"),
    (("audit", "ls", "--all", "--after=5"), "--all shows every event; .* (usage)"),
    (("audit", "ls", "--all", "--limit=5"), "--all shows every event; .* (usage)"),
    (("audit", "ls", "--type=x"), "type: there is no event type 'x'; known: .* (invalid)"),
]


@pytest.mark.parametrize(("words", "told"), USAGE)
def test_what_is_asked_wrongly_is_told(terminal: Terminal, words: tuple[str, ...], told: str) -> None:
    pattern = re.escape(f"mezctl: {told}").replace(r"\.\*", ".*")
    code, line = terminal.failed(*words)
    assert re.fullmatch(pattern, line), line
    assert code == 2


REFUSED = [
    (("bots", "show", "x"), "there is no bot 'x'; mezctl bots ls shows them all (not_found)"),
    (("roles", "get", "x"), "there is no role 'x'; mezctl roles ls shows them all (not_found)"),
    (("instances", "lock", "x"),
     "instance 'x' does not exist; mezctl instances ls shows them all (not_found)"),
    (("tokens", "rm", "x"), "there is no token 'x'; mezctl tokens ls shows them all (not_found)"),
    (("locks", "rm", "x"), "there is no lock 'x'; mezctl locks ls shows them all (not_found)"),
    (("roles", "delete", "ci-deployer"),
     "role ci-deployer is used by the bot ci; remove them first: mezctl bots rm NAME (conflict)"),
    (("bots", "unlock", "ci"), "bot ci is not locked; what is: mezctl locks ls (conflict)"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED)
def test_what_the_server_refuses_is_told_with_its_code(
    terminal: Terminal, words: tuple[str, ...], told: str
) -> None:
    terminal.bot("ci")
    assert terminal.failed(*words) == (3, f"mezctl: {told}")


ROLE: dict[str, Any] = {"kind": "role", "metadata": {"name": "x"}, "spec": {}}
FILES: list[tuple[str | bytes, str]] = [
    (json.dumps({**ROLE, "spec": {"allow": {"logins": ["*"]}}}),
     "spec.allow.logins[0]: '*' is not a login name; logins are exact OS account names, "
     "without wildcards or spaces (usage)"),
    (json.dumps({**ROLE, "kind": "bot"}), "kind: expected role, found 'bot'; write kind: role (usage)"),
    (json.dumps({**ROLE, "spec": {"alow": {}}}), "spec.alow: unknown key; did you mean allow? (usage)"),
    (json.dumps({**ROLE, "spec": {"options": {"max_session_ttl": 3600}}}),
     "spec.options.max_session_ttl: 3600 is not a duration; .* (usage)"),
    (json.dumps({**ROLE, "spec": {"allow": {"node_labels": {"env": "^(.$"}}}}),
     "spec.allow.node_labels.env: bad regular expression '^(.$': .* (usage)"),
    (json.dumps({**ROLE, "spec": {"allow": {"logins": []}}}),
     "spec.allow.logins: an empty list means nothing.*"),
    ("kind: role\nkind: role\n", "line 2, column 1: the key 'kind' stands twice (usage)"),
    ("a: [", "line 1, column 5: not YAML: .* (usage)"),
    ("12:00:00 server: a log: of something", "line 1, column 23: not YAML: mapping values .* (usage)"),
    ("kind: role\n---\nkind: role\n", "line 2, column 1: .* (usage)"),
    ("", "empty; a role has kind, metadata and spec (usage)"),
    ("- 1\n", "expected a mapping, found [1] (usage)"),
    (b"kind: \xff", "not UTF-8 at byte 6; save it as UTF-8 (usage)"),
    ("x" * (1024 * 1024 + 1), "larger than 1 MiB; that is no configuration (usage)"),
    ("metadata: {on: x}", "metadata: the key True is no text; quote it (usage)"),
    ("metadata: {name: 2026-03-24}", "metadata.name: 2026-03-24 is no text; quote it (usage)"),
    ("spec: .nan", "spec: nan is no text; quote it (usage)"),
    ("a: &a [*a]", "line 1, column .* (usage)"),
    ("&a [*a]", "nested deeper than 20 levels; that is no configuration (usage)"),
    ("a: " + "[" * 25 + "]" * 25, "nested deeper than 20 levels; that is no configuration (usage)"),
    ("[" * 5000, "nested deeper than 20 levels; that is no configuration (usage)"),
    ("? [a, b]\n: 1\n", "line 1, column 3: a list or mapping is no key; quote it (usage)"),
    ("a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n"
                             for old, new in pairwise("abcdefghij")),
     "more than 100000 values, aliases written out; that is no configuration (usage)"),
    ("a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
                             for old, new in pairwise("abcdefghijkl")) + "? *l\n: 1\n",
     "line 12, column 4: a list or mapping is no key; quote it (usage)"),
]


@pytest.mark.parametrize(("content", "told"), FILES, ids=range(len(FILES)))
def test_a_fault_in_a_role_file_is_told_with_file_and_place(
    terminal: Terminal, tmp_path: Path, content: str | bytes, told: str
) -> None:
    """The same from a file and from standard input; nothing is stored."""
    file = tmp_path / "ci.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    for given, source, stdin in ((str(file), str(file), None), ("-", "standard input", file.read_bytes())):
        code, line = terminal.failed("roles", "create", f"--from-file={given}", stdin=stdin)
        pattern = re.escape(f"mezctl: {source}: {told}").replace(r"\.\*", ".*")
        assert re.fullmatch(pattern, line), line
        assert code == 2
    assert [role["metadata"]["name"] for role in terminal.admin.call("roles.ls")["roles"]] == ["ci-deployer"]


def test_a_missing_role_file_is_told(terminal: Terminal) -> None:
    assert terminal.failed("roles", "create", "--from-file=/nowhere/ci.yaml") == (
        2, "mezctl: /nowhere/ci.yaml: No such file or directory; name a readable file (usage)"
    )


def test_a_missing_socket_is_told_with_every_place(terminal: Terminal, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.sock")
    told = (
        "start the server with: twistd mezite-auth, or name its socket with --socket PATH or "
        "MEZITE_ADMIN_SOCKET (unreachable)"
    )
    expected = f"mezctl: there is no socket at {missing}; {told}"
    assert terminal.failed("status", socket=missing) == (1, expected)


def test_the_default_places_are_looked_at(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mezite.config import paths

    monkeypatch.delenv("MEZITE_ADMIN_SOCKET", raising=False)
    places = (tmp_path / "a.sock", tmp_path / "b.sock")
    monkeypatch.setattr(paths, "admin_sockets", lambda environ, uid: places)
    code, line = terminal.failed("status", socket=None)
    assert code == 1
    assert line.startswith(f"mezctl: there is no socket at {tmp_path}/a.sock or {tmp_path}/b.sock; start")
    terminal.server.path.rename(tmp_path / "b.sock")
    assert terminal.type("status", socket=None).exit_code == 0
    (tmp_path / "b.sock").rename(terminal.server.path)


def test_the_environment_names_the_socket_and_the_option_wins(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZITE_ADMIN_SOCKET", str(terminal.server.path))
    assert terminal.type("status", socket=None).exit_code == 0
    assert terminal.type("status", socket=str(tmp_path / "other.sock")).exit_code == 1


def test_options_of_the_program_may_stand_after_the_command(terminal: Terminal) -> None:
    path = str(terminal.server.path)
    result = terminal.type("bots", "ls", "--format", "json", "--socket", path, socket=None)
    assert json.loads(result.stdout) == {"bots": [], "next": None}


def test_the_wrong_socket_is_told(terminal: Terminal) -> None:
    code, line = terminal.failed("identity", "status")
    assert code == 2
    assert "knows no identity.status; a daemon's socket answers identity commands only" in line


def test_a_daemon_is_asked_on_its_own_socket(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one named; else that of the last destination; never the server's from the environment."""
    methods: Any = {
        "identity.status": lambda caller, params: {"bot": "ci", "generation": 3, "last_error": None},
        "identity.renew": lambda caller, params: {"instance": "i", "generation": 4},
    }
    terminal.server.methods = methods
    told = terminal.told("identity", "status")
    assert "State:       NOT READY" in told
    assert "generation 4" in terminal.told("identity", "renew")
    assert json.loads(terminal.told("identity", "status", "--format=json"))["bot"] == "ci"
    home = tmp_path / "certs"
    (home / ".mezite").mkdir(parents=True)
    terminal.server.path.rename(home / ".mezite/control.sock")
    monkeypatch.setenv("MEZITE_ADMIN_SOCKET", str(tmp_path / "server.sock"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state/mezite").mkdir(parents=True)
    (tmp_path / "state/mezite/last-identity").write_text(f"{home}\n")
    assert terminal.type("identity", "status", socket=None).stdout == told
    (home / ".mezite/control.sock").rename(terminal.server.path)
    code, line = terminal.failed("identity", "status", socket=None)
    assert code == 1
    assert line.startswith(f"mezctl: there is no socket at {home}/.mezite/control.sock or ")
    assert line.endswith("start the daemon with: mezd identity start, or name its socket with --socket PATH"
                         " (unreachable)")


def test_every_command_explains_itself(terminal: Terminal) -> None:
    """Every --help ends well, and no command is without a sentence of help."""
    assert terminal.told("--version") == "mezctl 0.1.0\n"
    assert terminal.told("--help") == terminal.told("-h")
    commands = [
        (name, *rest)
        for name in _COMMANDS
        for rest in [(), *[(line,) for line in listed(terminal.told(name, "--help"))]]
    ]
    assert ("bots", "rotate-token") in commands
    for words in commands:
        told = terminal.told(*words, "--help")
        assert told.startswith(f"Usage: mezctl {' '.join(words)} [OPTIONS]")
        assert re.search(r"\n\n  [A-Z]\S+ ", told), words


ANSWERED = [
    ("status",), ("roles", "get", "x"), ("roles", "delete", "x"), ("bots", "ls"), ("bots", "show", "x"),
    ("bots", "rm", "x"), ("bots", "lock", "x"), ("bots", "rotate-token", "x"), ("tokens", "rm", "x"),
    ("bots", "add", "--name=x", "--roles=y"), ("instances", "show", "x"), ("instances", "recover", "x"),
    ("locks", "rm", "x"), ("ca", "export", "--type=user"), ("ca", "rotate", "--type=user"), ("audit", "ls"),
    ("audit", "ls", "--follow"), ("backup", "/x"), ("restore",),
]


@pytest.mark.parametrize("answer", [{}, None, "x", [], {"bots": ["x"], "events": [5], "next": None}])
def test_a_server_of_another_version_is_told(tmp_path: Path, terminal: Terminal, answer: Any) -> None:
    """It answers what we do not know: one line that says so, and that names its socket."""
    methods = dict.fromkeys(
        [*terminal.admin.methods, "backup", "restore"], lambda caller, values: answered()
    )

    async def answered() -> Any:
        return answer

    other = FakeServer(tmp_path / "other.sock", methods)
    try:
        for words in ANSWERED:
            code, line = terminal.failed(*words, socket=str(other.path))
            assert line.startswith(f"mezctl: {other.path}: "), (words, line)
            assert line.endswith("(protocol)") or "not speak our protocol" in line, (words, line)
            assert code == 1
    finally:
        other.close()


def listed(told: str) -> list[str]:
    """The commands in a group's help."""
    rows = told.partition("Commands:\n")[2].splitlines()
    return [row.split()[0] for row in rows if re.match(r"  \S", row)]


def run(*words: str, code: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )


MAIN = "from mezite.cli.mezctl import main; main()"


def test_a_reader_that_has_seen_enough_is_no_error(terminal: Terminal) -> None:
    for number in range(300):
        terminal.auth.add_bot(f"bot-{number:04}-{'x' * 50}")
    asked = f"{sys.executable} -c '{MAIN}' --socket {terminal.server.path} bots ls --format json"
    done = subprocess.run(
        f"{asked} | head -n 1", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_a_full_disk_is_told(terminal: Terminal) -> None:
    terminal.bot()
    with Path("/dev/full").open("w") as full:
        done = run("--socket", str(terminal.server.path), "bots", "ls", code=MAIN, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "mezctl: standard output: No space left on device (error)\n"


def test_it_starts_with_little(terminal: Terminal) -> None:
    """Neither what takes time nor what another command needs is imported for a list."""
    code = (
        "import sys\n"
        "from mezite.cli.mezctl import mezctl\n"
        "try: mezctl()\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in "
        "('twisted', 'grpc', 'cryptography', 'yaml', 'asyncio', 'pathlib', 'dataclasses', 'signal')"
        " or name.startswith('mezite.')))"
    )
    done = run("--socket", str(terminal.server.path), "bots", "ls", code=code)
    assert json.loads(done.stdout.splitlines()[-1].replace("'", '"')) == [
        "mezite.admin", "mezite.admin.client", "mezite.cli", "mezite.cli.asking", "mezite.cli.ctl_bots",
        "mezite.cli.failures", "mezite.cli.helping", "mezite.cli.mezctl", "mezite.cli.names",
        "mezite.cli.output", "mezite.cli.program", "mezite.cli.streams", "mezite.cli.tables",
        "mezite.cli.terminal", "mezite.errors",
    ]
