"""One identity holds no more of the node than it leaves to others."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from mezite.certs import wire
from mezite.ssh.programs import FILES_OF_COMMAND
from tests.ssh.client import FAILURE, PK_OK, REQUEST, START, SUBJECT_BLOB, SUCCESS, Wire
from tests.ssh.node import user_certificate
from tests.ssh.test_openssh import Node, wait_for

OTHER = "5c2f8d7e-0a57-4f4e-9a34-6a3f0a8f7c22"
EXTENSIONS = (("bot@mezite.com", "cd"), ("roles@mezite.com", "deployer"), ("instance@mezite.com", OTHER))
OTHERS = user_certificate(SUBJECT_BLOB, at=START, extensions=EXTENSIONS)
TOLD = b"too many connections and commands of this identity are open at this node"


def test_connections_of_one_identity_leave_room_for_others() -> None:
    """It is told why, and nobody is ended; a place that is given back counts."""
    first = Wire(max_files=4).log_in()
    second = Wire(factory=first.factory).log_in()
    third = Wire(first.access, factory=first.factory).start_userauth()
    assert third.numbers(REQUEST, third.request(signer=None)) == [PK_OK]
    assert third.numbers(REQUEST, third.request()) == []
    assert (third.client.disconnected, third.client.lost) == (TOLD, True)
    assert third.reasons()[-1] == "too_many"
    Wire(factory=first.factory).log_in(blob=OTHERS)
    assert (first.client.lost, second.client.lost) == (False, False)
    for connection in (first, second):
        connection.client.transport.loseConnection()
        connection.settle()
    Wire(factory=first.factory).log_in()


def test_who_does_not_hold_the_key_is_not_told() -> None:
    """Anybody may have seen the certificate: he learns nothing about its holder."""
    holder = Wire(max_files=2).log_in()
    stranger = Wire(factory=holder.factory).start_userauth()
    assert stranger.numbers(REQUEST, stranger.request(signature=wire.string(b"ssh-ed25519"))) == [FAILURE]


def test_nothing_is_held_by_a_node_that_nobody_uses() -> None:
    connection = Wire().log_in()
    connection.client.transport.loseConnection()
    connection.settle()
    assert connection.factory._files._held == {}


def test_certificates_of_other_cas_share_by_key_id() -> None:
    """Where no instance is known, those that name the same holder are one."""
    plain: dict[str, Any] = {"extensions": (), "at": START}
    certificates = [user_certificate(SUBJECT_BLOB, key_id=name, serial=number, **plain)
                    for name, number in (("anna", 1), ("anna", 2), ("bert", 3))]
    first = Wire(max_files=3, authorization="principals").log_in(blob=certificates[0])
    node = first.factory
    Wire(factory=node).log_in(blob=certificates[1])
    third = Wire(factory=node).start_userauth()
    assert third.numbers(REQUEST, third.request(blob=certificates[1])) == []
    fourth = Wire(factory=node).start_userauth()
    assert fourth.numbers(REQUEST, fourth.request(blob=certificates[2])) == [SUCCESS]


def test_ssh_is_told_and_others_log_in(tmp_path: Path) -> None:
    """Real connections, and real commands, which hold files of the server, too."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    node = Node(tmp_path, max_files=4 * (1 + FILES_OF_COMMAND), exec="system", run_as=me)
    greedy = node.identity("greedy")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(2):
            running.append(subprocess.Popen(
                node.command(greedy, "echo in; exec sleep 600"), stdout=subprocess.PIPE,
            ))
            assert running[-1].stdout is not None
            assert running[-1].stdout.readline() == b"in\n"
        refused = subprocess.run(node.command(greedy, "true", options=("LogLevel=INFO",)),
                                 capture_output=True, timeout=60)
        assert (refused.returncode, TOLD in refused.stderr) == (255, True), refused
        others = node.identity("other", extensions=EXTENSIONS)
        assert subprocess.run(node.command(others, "echo hello"), capture_output=True, timeout=60,
                              ).stdout == b"hello\n"
        running[0].kill()
        running[0].wait()
        # Its command has its time to end.
        wait_for(lambda: subprocess.run(node.command(greedy, "true"), timeout=60).returncode == 0)
    finally:
        for one in running:
            one.kill()
            one.wait()
            one.stdout.close()  # type: ignore[union-attr]
        log = node.close()
    assert "refused: too_many" in log
    assert "Traceback" not in log
