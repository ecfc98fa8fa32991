"""What `mezctl` prints, word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec.structs import force_setattr, replace

from mezite.certs import keys
from mezite.config import daemon
from mezite.core.model import LockKind, Node
from mezite.core.request import TokenText
from tests.auth.test_admin_instances import final_lock, fork
from tests.cli.conftest import Terminal

ROLE_FILE = """\
kind: role
metadata:
  name: ci-deployer
  description: "CI/CD deploy pipeline SSH access"
spec:
  options:
    max_session_ttl: 1h
  allow:
    node_labels:
      env:
        - staging
        - production
    logins:
      - deploy
  deny:
    logins:
      - root
"""

TOKEN = r"tok-bot-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}"


def test_the_documents_admin_setup(terminal: Terminal) -> None:
    """The three steps of the product's page, with its words."""
    assert terminal.told("roles", "create", "--from-file=-", stdin=ROLE_FILE) == "Role updated: ci-deployer\n"
    told = terminal.told("bots", "add", "--name=github-deploy", "--roles=ci-deployer", "--token-ttl=1h")
    token = re.search(TOKEN, told)
    assert token is not None
    assert told == (
        "Bot created: github-deploy (roles: ci-deployer)\n"
        f"Join token: {token[0]} (expires: 2026-03-24T15:00:00Z)\n"
        "\n"
        "Use this token with mezd identity:\n"
        f"  mezd identity start --auth-server=auth.example.com:3025 --join-token={token[0]}\n"
    )


def test_several_roles_are_given_with_commas_or_one_by_one(terminal: Terminal) -> None:
    terminal.told("roles", "create", "--from-file=-", stdin=ROLE_FILE.replace("ci-deployer", "backup"))
    for name, roles in [
        ("a", ["--roles=ci-deployer,backup"]),
        ("b", ["--roles", "ci-deployer", "--roles=backup"]),
    ]:
        told = terminal.told("bots", "add", f"--name={name}", *roles)
        assert told.startswith(f"Bot created: {name} (roles: ci-deployer, backup)\n")


def test_a_new_token_has_a_line_of_its_own_and_the_command_that_uses_it(terminal: Terminal) -> None:
    terminal.bot()
    join = r"  mezd identity start --auth-server=auth\.example\.com:3025 --join-token=\1"
    for words in (
        ("bots", "rotate-token", "github-deploy"),
        ("tokens", "create", "--bot=github-deploy"),
        ("tokens", "create", "--bot=github-deploy", "--uses=3", "--ttl=1h"),
    ):
        told = terminal.told(*words)
        first = rf"Join token: ({TOKEN}) \(expires: 2026-03-24T15:00:00Z\)"
        assert re.fullmatch(rf"{first}\n\nUse this token with mezd identity:\n{join}\n", told)


def test_the_command_names_every_server(terminal: Terminal) -> None:
    """As mezd takes them."""
    both = "a.example.com:3025,b.example.com:3025"
    force_setattr(terminal.auth.context.cluster, "public_addr", both)
    terminal.bot()
    for words in (
        ("bots", "add", "--name=x", "--roles=ci-deployer"),
        ("bots", "rotate-token", "github-deploy"),
        ("tokens", "create", "--bot=github-deploy"),
    ):
        command = terminal.told(*words).splitlines()[-1].split()
        flags = dict(word.removeprefix("--").split("=") for word in command[3:])
        found = daemon.load({key.replace("-", "_"): value for key, value in flags.items()}, {}, 1000)
        assert found.auth_servers == (("a.example.com", 3025), ("b.example.com", 3025))
        assert json.loads(terminal.told("status", "--format=json"))["public_addr"] == both


def test_bots_ls(terminal: Terminal) -> None:
    terminal.bot()
    terminal.admin.call("bots.add", name="ci", roles=["ci-deployer"], ttl="30m", renewable_for="90d")
    terminal.admin.call("bots.lock", name="ci")
    assert terminal.told("bots", "ls") == (
        "NAME           ROLES        STATE   TTL  RENEWABLE FOR  CREATED\n"
        "ci             ci-deployer  locked  30m  90d            2026-03-24T14:00:00Z\n"
        "github-deploy  ci-deployer  active  -    7d             2026-03-24T14:00:00Z\n"
    )


def test_bots_show(terminal: Terminal) -> None:
    token = terminal.bot()
    machine = terminal.machine(token)
    bot_id = terminal.admin.call("bots.show", name="github-deploy")["bot"]["id"]
    assert terminal.told("bots", "show", "github-deploy") == f"""\
Name:             github-deploy
Roles:            ci-deployer
State:            active
Created:          2026-03-24T14:00:00Z
Certificate TTL:  1h unless the machine asks
Renewable for:    7d
Lineage age:      without end
Source address:   anywhere
Id:               {bot_id}

Instances:
  ID{" " * 34}  STATE   GENERATION  RENEWED               ADDRESS    HOST
  {machine.instance_id}  active  1           2026-03-24T14:00:00Z  192.0.2.7  ci-7

Tokens:
  ID                    STATE  USED  CREATED               EXPIRES
  {token[:20]}  used   1/1   2026-03-24T14:00:00Z  2026-03-24T15:00:00Z
"""


def test_a_locked_bot_without_machines_is_shown(terminal: Terminal) -> None:
    terminal.bot()
    terminal.admin.call("bots.lock", name="github-deploy", reason="stolen laptop")
    told = terminal.told("bots", "show", "github-deploy")
    assert "Locked by uid:0(root) at 2026-03-24T14:00:00Z: stolen laptop\n" in told
    assert re.search(r"\n    -> to let it go on: mezctl locks rm [0-9a-f-]{36}\n\nNo instances.\n", told)


def test_locking_and_unlocking(terminal: Terminal) -> None:
    machine = terminal.machine()
    locked = r"{} locked: {}( until 2026-03-24T15:00:00Z)? \(lock [0-9a-f-]{{36}}\)\n"
    assert re.fullmatch(locked.format("Bot", "github-deploy"), terminal.told("bots", "lock", "github-deploy"))
    assert terminal.told("bots", "unlock", "github-deploy") == "Bot unlocked: github-deploy\n"
    told = terminal.told("instances", "lock", machine.instance_id, "--reason=odd", "--ttl=1h")
    assert re.fullmatch(locked.format("Instance", machine.instance_id), told)
    assert terminal.told("instances", "unlock", machine.instance_id) == (
        f"Instance unlocked: {machine.instance_id}\n"
    )
    told = terminal.told("locks", "add", "--login=deploy")
    assert re.fullmatch(locked.format("Login", "deploy"), told)
    lock_id = told.rstrip(")\n").rpartition(" ")[2]
    assert terminal.told("locks", "ls") == (
        "ID                                    TARGET        REASON    BY           CREATED"
        "               EXPIRES  MESSAGE\n"
        f"{lock_id}  login/deploy  operator  uid:0(root)  2026-03-24T14:00:00Z  -        -\n"
    )
    assert terminal.told("locks", "rm", lock_id) == "Lock removed: login deploy\n"


def test_a_kept_key_comes_with_its_risk(terminal: Terminal) -> None:
    """On standard error: it is for the person, not for the script."""
    machine = terminal.machine()
    stored = terminal.auth.instance(machine.instance_id)
    terminal.auth.lock(LockKind.INSTANCE, machine.instance_id)
    terminal.auth.write(lambda tx: tx.add_lock(final_lock(terminal.auth, machine)))
    result = terminal.type("instances", "unlock", machine.instance_id, "--keep-key", stored.lineage_key)
    assert result.stdout == f"Instance unlocked: {machine.instance_id}\n"
    assert result.stderr.startswith("Mind: the holder of the key given out last goes on")


def test_removing(terminal: Terminal) -> None:
    first = terminal.machine()
    second = terminal.machine(terminal.admin.call("tokens.create", bot="github-deploy")["join_token"])
    terminal.auth.lock(LockKind.INSTANCE, first.instance_id)
    assert terminal.told("instances", "rm", first.instance_id) == f"Instance removed: {first.instance_id}\n"
    token = terminal.admin.call("tokens.create", bot="github-deploy", uses=2)["token"]["id"]
    assert terminal.told("tokens", "rm", token) == f"Token removed: {token} (used 0/2)\n"
    assert terminal.told("bots", "rm", "github-deploy") == "Bot removed: github-deploy (1 instance)\n"
    assert second.instance_id
    assert terminal.told("roles", "delete", "ci-deployer") == "Role deleted: ci-deployer\n"


def test_a_lock_left_on_a_removed_bots_name_is_told(terminal: Terminal) -> None:
    terminal.bot()
    lock = terminal.auth.lock(LockKind.BOT, "github-deploy")
    result = terminal.type("bots", "rm", "github-deploy")
    assert result.stdout == "Bot removed: github-deploy (0 instances)\n"
    assert result.stderr == (
        f"the lock {lock.id} on its name stays, and stops a new bot of that name; "
        f"to remove it: mezctl locks rm {lock.id}\n"
    )


def test_instances(terminal: Terminal) -> None:
    machine = terminal.machine()
    stored = terminal.auth.instance(machine.instance_id)
    assert terminal.told("instances", "show", machine.instance_id) == f"""\
Id:                {machine.instance_id}
Bot:               github-deploy
State:             active
Generation:        1
Lineage key:       {stored.lineage_key}
Previous key:      -
Joined:            2026-03-24T14:00:00Z
Join token:        {stored.token_id}
Renewed:           2026-03-24T14:00:00Z
Certificate ends:  2026-03-24T15:00:00Z
Address:           192.0.2.7
Host (unproven):   ci-7
Boot (unproven):   -
"""
    terminal.auth.advance(days=8)
    assert terminal.told("instances", "recover", machine.instance_id) == (
        f"Instance recoverable: {machine.instance_id} (bot github-deploy)\n"
    )
    told = terminal.told("instances", "ls", "--bot=github-deploy")
    assert told.splitlines()[1].split()[:3] == [machine.instance_id, "github-deploy", "recoverable"]


def test_a_locked_instance_is_shown_with_what_ends_its_locks(terminal: Terminal) -> None:
    machine = terminal.machine()
    terminal.admin.call("instances.lock", id=machine.instance_id, reason="odd")
    (lock,) = terminal.admin.call("locks.ls")["locks"]
    told = terminal.told("instances", "show", machine.instance_id)
    assert told.endswith(f": odd\n    -> to let it go on: mezctl locks rm {lock['id']}\n")
    terminal.told("locks", "rm", lock["id"])
    fork(machine, machine.copy())
    told = terminal.told("instances", "show", machine.instance_id)
    assert told.endswith(f", then: mezctl instances rm {machine.instance_id}\n")


def test_a_role_that_was_printed_is_taken_back(terminal: Terminal) -> None:
    """As YAML and as JSON; YAML's own traps (a key `on`, a value `no`) survive."""
    document = ROLE_FILE.replace("env:", '"on":').replace("- staging", '- "no"')
    terminal.told("roles", "create", "--from-file=-", stdin=document)
    for format_ in ("text", "json"):
        printed = terminal.told("roles", "get", "ci-deployer", "--format", format_)
        done = terminal.told("roles", "create", "--from-file=-", stdin=printed)
        assert done == "Role updated: ci-deployer\n"
        assert terminal.told("roles", "get", "ci-deployer", "--format", format_) == printed
    assert terminal.told("roles", "get", "ci-deployer") == """\
kind: role
version: v1
metadata:
  name: ci-deployer
  description: CI/CD deploy pipeline SSH access
spec:
  options:
    max_session_ttl: 1h
  allow:
    node_labels:
      'on':
      - 'no'
      - production
    logins:
    - deploy
  deny:
    logins:
    - root
"""
    assert terminal.told("roles", "ls") == (
        "NAME         LOGINS  NODE LABELS       MAX TTL  DESCRIPTION\n"
        "ci-deployer  deploy  on=no|production  1h       CI/CD deploy pipeline SSH access\n"
    )


def test_ca_export_prints_what_goes_into_the_file(terminal: Terminal) -> None:
    kinds = ("user", "host", "server")
    user, host, server = (terminal.told("ca", "export", f"--type={kind}") for kind in kinds)
    assert re.fullmatch(r"ssh-ed25519 \S+ Mezite User CA of example\n", user)
    assert re.fullmatch(r"@cert-authority \* ssh-ed25519 \S+ Mezite Host CA of example\n", host)
    assert re.fullmatch(r"-----BEGIN CERTIFICATE-----\n[\s\S]+\n-----END CERTIFICATE-----\n", server)


HOST_KEY = keys.public_line(keys.public_blob(keys.generate_ca_key()), "root@web-1")


def test_sign_host_prints_what_goes_into_the_file(terminal: Terminal, tmp_path: Path) -> None:
    """Its one line, as programs take it; the rest is for the person."""
    file = tmp_path / "host.pub"
    file.write_text(f"\n{HOST_KEY}\n")
    for source, stdin in ((str(file), None), ("-", HOST_KEY)):
        words = ("ca", "sign-host", "--principals=web-1, 10.0.0.5", "--principals=Web-2", "--ttl=7d", source)
        done = terminal.type(*words, stdin=stdin)
        assert done.exit_code == 0, done.output
        assert re.fullmatch(r"ssh-ed25519-cert-v01@openssh\.com \S+ web-1\n", done.stdout)
        assert done.stderr == (
            "good for web-1, 10.0.0.5, Web-2 until 2026-03-31T14:00:00Z; sign again before that\n"
        )
        assert terminal.told("certs", "inspect", "--ca", host_ca(terminal, tmp_path), "-", stdin=done.stdout)
    told = json.loads(terminal.told("--format=json", *words[:-1], str(file)))
    assert set(told) == {"certificate", "key", "ca_key", "serial", "principals", "valid_before"}


def host_ca(terminal: Terminal, directory: Path) -> str:
    file = directory / "host_ca"
    file.write_text(terminal.told("ca", "export", "--type=host"))
    return str(file)


def test_sign_host_sends_no_private_key(terminal: Terminal) -> None:
    private = keys.private_to_openssh(keys.generate_key()).decode()
    code, line = terminal.failed("ca", "sign-host", "--principals=web-1", "-", stdin=private)
    assert (code, line.split(";")[0]) == (
        2, "mezctl: standard input holds a private key, which stays where it is"
    )


def test_nodes_ls(terminal: Terminal) -> None:
    force_setattr(
        terminal.auth.context, "nodes", lambda: (Node("node1", "node1:3022", {"env": "staging"}),)
    )
    assert terminal.told("nodes", "ls") == "NAME   ADDRESS     LABELS\nnode1  node1:3022  env=staging\n"


def test_audit_ls_ends_with_the_newest(terminal: Terminal) -> None:
    terminal.bot("first")
    terminal.auth.advance(seconds=5)
    terminal.bot("second")
    told = terminal.told("audit", "ls", "--type=bot.created")
    rows = [line.split() for line in told.splitlines()]
    assert rows[0] == ["TIME", "CODE", "TYPE", "WHO", "WHAT", "FROM", "DETAILS"]
    assert [row[:6] for row in rows[1:]] == [
        ["2026-03-24T14:00:00Z", "M1200I", "bot.created", "uid:0(root)", "bot/first", "-"],
        ["2026-03-24T14:00:05Z", "M1200I", "bot.created", "uid:0(root)", "bot/second", "-"],
    ]
    short = terminal.type("audit", "ls", "--limit=1", "--type=bot.created")
    assert short.stdout.splitlines()[1].split()[4] == "bot/second"
    after = re.fullmatch(r"older ones: --after (\d+), or --all\n", short.stderr)
    assert after is not None
    older = terminal.type("audit", "ls", "--limit=1", "--type=bot.created", "--after", after[1])
    assert older.stdout.splitlines()[1].split()[4] == "bot/first"
    assert len(terminal.told("audit", "ls", "--all").splitlines()) == 9


def test_what_an_event_says_and_its_facts_are_told_apart(terminal: Terminal) -> None:
    """And a time is one."""
    terminal.machine()
    terminal.admin.call("bots.lock", name="github-deploy", reason="change freeze")
    lines = terminal.told("audit", "ls").splitlines()
    assert lines[-1].endswith("  change freeze (target=bot/github-deploy lock_reason=operator)")
    assert any(line.endswith(" valid_before=2026-03-24T15:00:00Z") for line in lines)


def test_status(terminal: Terminal) -> None:
    told = terminal.told("status")
    uuid = terminal.auth.context.cluster.uuid
    assert told.startswith(f"""\
State:         ready
Cluster:       example ({uuid})
Version:       0.1.0, since 2026-03-24T14:00:00Z
Address:       auth.example.com:3025
Server time:   2026-03-24T14:00:00Z
Clock:         good
Database:      sqlite, :memory:
CA keys:       not encrypted: whoever copies the database is the CA
Roles:         1
Bots:          0
Instances:     0
Tokens:        0
Events:        4
Active locks:  0

CA      STATE   FINGERPRINT""")
    assert "Look at this" not in told


def test_status_tells_what_wants_an_eye(terminal: Terminal) -> None:
    """A clock at fault, a fork, a token that somebody else had used; and how to act on each."""
    token = terminal.bot()
    machine = terminal.machine(token)
    late = type(machine)(terminal.auth)
    terminal.auth.join(*late.join_request(TokenText.from_text(token)))
    fork(machine, machine.copy())
    terminal.admin.refusals["token_used"] += 1
    terminal.admin.guard.hold(terminal.auth.write(terminal.admin.guard.commit))
    terminal.auth.advance(hours=-2)
    told = terminal.told("status")
    assert (
        "Refusals since the server started:\n"
        "  REASON      TIMES  WHAT IT MEANS\n"
        "  token_used  1      somebody had joined by it already; who: mezctl audit ls --type=token_reused\n"
    ) in told
    assert told.startswith("State:         NOT READY: the server's clock is 2h behind its last commit\n")
    alarms = told.partition("Look at this:\n")[2].splitlines()
    assert alarms[:2] == [
        "  the server's clock is 2h behind its last commit: joins and renewals are refused",
        "    -> set the clock, or if it is right: mezctl status --accept-clock",
    ]
    told = f"  instance {machine.instance_id} is locked for good (generation_mismatch): "
    assert alarms[2].startswith(told)
    assert alarms[3].endswith(f"mezctl instances rm {machine.instance_id}")
    assert alarms[4].startswith("  2026-03-24T14:00:00Z token_reused: ")
    assert alarms[5] == f"    -> if that was a stranger: mezctl instances lock {machine.instance_id}"
    assert "Clock:         good\n" in terminal.told("status", "--accept-clock")


def test_an_empty_list_is_said_to_be_so_on_standard_error(terminal: Terminal) -> None:
    for words in (("bots", "ls"), ("tokens", "ls"), ("instances", "ls"), ("locks", "ls"), ("nodes", "ls"),
                  ("audit", "ls", "--type=bot.deleted")):
        result = terminal.type(*words)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith(("no ", "nothing "))


def test_what_a_machine_says_of_itself_cannot_act_on_the_terminal(terminal: Terminal) -> None:
    machine = terminal.machine()
    evil = replace(machine.wishes, host="\x1b]0;pwned\x07\u202e\nroot")
    other = type(machine)(terminal.auth, wishes=evil)
    token = terminal.admin.call("tokens.create", bot="github-deploy")["join_token"]
    other.join(TokenText.from_text(token))
    for words in (("instances", "ls"), ("instances", "show", other.instance_id), ("audit", "ls"),
                  ("bots", "show", "github-deploy"), ("instances", "ls", "--format=json")):
        told = terminal.told(*words)
        assert "pwned" in told
        assert all(char.isprintable() or char == "\n" for char in told)
        assert "\u202e" not in told


def test_lists_follow_every_page(terminal: Terminal) -> None:
    """More than one answer holds."""
    for number in range(1203):
        terminal.auth.add_bot(f"bot-{number:04}")
    assert len(terminal.told("bots", "ls").splitlines()) == 1204
    whole = json.loads(terminal.told("bots", "ls", "--format=json"))
    assert (len(whole["bots"]), whole["next"]) == (1203, None)
    page = json.loads(terminal.told("bots", "ls", "--format=json", "--limit=2"))
    assert ([bot["name"] for bot in page["bots"]], page["next"]) == (["bot-0000", "bot-0001"], "bot-0001")
    result = terminal.type("bots", "ls", "--limit=2", "--after=bot-0001")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["NAME", "bot-0002", "bot-0003"]
    assert result.stderr == "more: --after bot-0003\n"
    result = terminal.type("bots", "ls", "--after=bot-9999")
    assert (result.stdout, result.stderr) == ("", "no more bots after bot-9999\n")
