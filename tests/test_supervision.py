"""What a service manager is told, over real sockets, and the unit files that start us."""

from __future__ import annotations

import configparser
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mezite.supervision import ALIVE, READY, ServiceManager, status

UNITS = Path(__file__).parent.parent / "docs" / "systemd"
ALL_UNITS = ("mezite-auth.service", "mezd.service", "mezd@.service")
MAX_EXPOSURE = 15
"""Tenths, as systemd-analyze security counts it: 15 leaves the network, and what our own work needs."""


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd makes it, and its name in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        if request.param == "path":
            name = str(tmp_path / "notify")
            receiver.bind(name)
        else:
            receiver.bind(f"\0mezite-test-{tmp_path.name}-{id(receiver)}")
            name = "@" + receiver.getsockname().decode()[1:]
        yield receiver, name


def test_lines_arrive_in_one_datagram(listening: tuple[socket.socket, str]) -> None:
    """A line's own line ends cannot make another line of it."""
    receiver, name = listening
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": name}, pid=7)
    manager.tell(READY, status("all is\nwell"))
    assert receiver.recv(4096) == b"READY=1\nSTATUS=all is well"
    manager.tell(ALIVE)
    assert receiver.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "name", ["", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here", "/" + "x" * 300]
)
def test_nobody_listening_is_no_fault(name: str) -> None:
    ServiceManager.from_environment({"NOTIFY_SOCKET": name}, pid=7).tell(READY)


@pytest.mark.parametrize(
    ("usec", "whose", "expected"),
    [
        ("30000000", "", timedelta(seconds=30)),
        ("30000000", "7", timedelta(seconds=30)),
        ("30000000", "8", None),
        ("0", "", None),
        ("-5", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_the_watchdog_is_the_one_of_this_process(usec: str, whose: str, expected: timedelta | None) -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": whose}
    assert ServiceManager.from_environment(environ, pid=7).watchdog == expected


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)"
)


# --- unit files -----------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys are case-sensitive there
    assert parser.read(UNITS / name)
    return parser


@pytest.mark.parametrize("name", ALL_UNITS)
def test_the_units_say_ready_and_are_confined(name: str) -> None:
    service = unit(name)["Service"]
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert int(service["WatchdogSec"]) >= 10
    assert service["Restart"] == "on-failure"
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelModules", "LockPersonality",
                "RestrictSUIDSGID", "ProtectControlGroups", "PrivateDevices", "MemoryDenyWriteExecute"):
        assert service[key] in ("yes", "read-only"), key
    assert service["ProtectSystem"] == "strict"
    assert service["UMask"] == "0077"
    assert set(service["RestrictAddressFamilies"].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}


@pytest.mark.parametrize("name", ["mezd.service", "mezd@.service"])
def test_the_daemon_is_not_restarted_after_what_only_a_person_can_mend(name: str) -> None:
    """Exit codes 2 (usage) and 3 (refused)."""
    service = unit(name)["Service"]
    assert set(service["RestartPreventExitStatus"].split()) == {"2", "3"}
    assert service["ExecStart"].split()[1:3] == ["identity", "start"]
    # Units that need the identity are ordered after this one, which is ready when it is there.
    assert "network-online.target" in unit(name)["Unit"]["After"]


def test_the_daemon_is_nobody_in_particular_and_its_token_no_word_of_a_command() -> None:
    """The template's is the account it is for; both units differ in names and nothing else."""
    service, template = unit("mezd.service")["Service"], unit("mezd@.service")["Service"]
    assert (service["DynamicUser"], template["User"]) == ("yes", "%i")
    assert service["LoadCredential"] == "join-token:/etc/mezite/join-token"
    assert "${CREDENTIALS_DIRECTORY}/join-token" in service["ExecStart"].split()
    assert f"/var/lib/{service['StateDirectory']}/certs" in service["ExecStart"].split()
    assert f"/var/lib/{template['StateDirectory']}/certs" in template["ExecStart"].split()
    named = {"ExecStart", "LoadCredential", "StateDirectory"}
    assert {key for key in service if service[key] != template.get(key)} == {*named, "DynamicUser"}
    assert {key for key in template if template[key] != service.get(key)} == {*named, "User"}


def test_the_server_runs_in_the_foreground_under_its_own_account() -> None:
    service = unit("mezite-auth.service")["Service"]
    words = service["ExecStart"].split()
    assert words[1:4] == ["--nodaemon", "--pidfile=", "mezite-auth"]
    assert (service["User"], service["StateDirectory"], service["RuntimeDirectory"]) == ("mezite",) * 3


@needs_systemd
@pytest.mark.parametrize("name", ALL_UNITS)
def test_systemd_finds_no_fault_in_the_units(name: str, tmp_path: Path) -> None:
    """With programs that are there, since it looks for them, and with the drop-ins."""
    text = (UNITS / name).read_text().replace("/opt/mezite/bin/", "/usr/bin/")
    for program in ("twistd", "mezd"):
        text = text.replace(f"/usr/bin/{program}", "/usr/bin/env")
    copy = tmp_path / name.replace("@", "@deploy")
    copy.write_text(text)
    for drop_in in (UNITS / "drop-ins").glob(f"{copy.stem}-*.conf"):
        place = tmp_path / f"{copy.name}.d" / drop_in.name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(drop_in, place)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True, text=True, timeout=60, check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or copy.name in line]
    assert complaints == []


@needs_systemd
@pytest.mark.parametrize("name", ALL_UNITS)
def test_systemd_finds_little_exposed(name: str, tmp_path: Path) -> None:
    copy = tmp_path / name
    shutil.copy(UNITS / name, copy)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", copy],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout
