"""A node in a process of its own: ``python -m tests.ssh.node_process DIRECTORY [KEY=VALUE …]``.

Reads the CA and host keys from DIRECTORY, prints its port, appends audit events
to DIRECTORY/audit as JSON lines, and locks the bot ``ci`` when the file
DIRECTORY/lock appears (looked for ten times a second).  Settings are those of
the node, ``rekey_bytes`` and ``rekey_seconds``.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogBeginner, textFileLogObserver

from mezite.certs import keys
from mezite.certs.ssh import certificate_line
from mezite.core.audit import AuditEvent
from mezite.ssh.factory import NodeFactory, NodeService, NodeSettings
from mezite.ssh.hostkeys import HostKeys, host_keys
from mezite.ssh.transport import NodeTransport
from tests.ssh import node


class FileAccess(node.FakeAccess):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", buffering=1)

    def audit(self, event: AuditEvent) -> None:
        row = {
            "type": event.type.event_name, "success": event.success, "reason": event.reason,
            "actor": event.actor, "client_ip": event.client_ip, **event.fields,
        }
        self._file.write(json.dumps(row) + "\n")


def main() -> None:
    directory = Path(sys.argv[1])
    given: dict[str, Any] = {}
    for word in sys.argv[2:]:
        name, _, value = word.partition("=")
        given[name] = json.loads(value)
    class Transport(NodeTransport):
        rekey_bytes = given.pop("rekey_bytes", NodeTransport.rekey_bytes)
        rekey_seconds = given.pop("rekey_seconds", NodeTransport.rekey_seconds)

    host = given.pop("host_certificate", None)
    if "trusted_user_ca_keys" in given:
        given["trusted_user_ca_keys"] = tuple(map(keys.parse_public_line, given["trusted_user_ca_keys"]))
    for name in ("revoked_keys", "trusted_user_ca_files"):
        if name in given:
            given[name] = tuple(map(Path, given[name]))
    node.USER_CA = load_ssh_private_key((directory / "user_ca").read_bytes(), None)  # type: ignore[assignment]
    node.HOST_CA = load_ssh_private_key((directory / "host_ca").read_bytes(), None)  # type: ignore[assignment]
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    access = FileAccess(directory / "audit")
    def certified(at: Any = None) -> HostKeys:
        if host is None:
            return node.certified(at)
        changed = dict(host)
        blob = node.host_certificate(*changed.pop("names"), at=at, **changed)
        (directory / "host-cert.pub").write_text(certificate_line(blob) + "\n")
        return host_keys([(node.HOST_KEY, blob)])

    factory = NodeFactory(
        NodeSettings(node_name="node1", **{"labels": {"env": "staging"}, **given}),
        access, certified, reactor=reactor, clock=node.now,
    )
    factory.protocol = Transport
    access.now = type(access.now)((keys.public_blob(node.USER_CA),), access.now.roles)
    service = NodeService(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), factory)

    def say_port(port: Any) -> None:
        sys.stdout.write(f"{port.getHost().port}\n")
        sys.stdout.flush()

    def look() -> None:
        if (directory / "lock").exists() and not access.now.locks:
            access.lock("bot", "ci", node.now() - timedelta(seconds=1))
            service.policy_changed()

    LoopingCall(look).start(0.1)
    service.startService().addCallback(say_port)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
