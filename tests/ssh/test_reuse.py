"""The classes for other projects bring nothing of our server with them."""

from __future__ import annotations

import subprocess
import sys

REUSABLE = ["mezite.ssh.server", "mezite.ssh.login", "mezite.ssh.hostkeys", "mezite.ssh.userauth",
            "mezite.ssh.transport", "mezite.ssh.conch_private", "mezite.ssh.framing", "mezite.ssh.revocation",
            "mezite.ssh.followed", "mezite.ssh.client", "mezite.ssh.sampling"]
ALLOWED = ("mezite.certs", "mezite.core", "mezite.discreet", "mezite.errors")


def loaded(*modules: str) -> set[str]:
    program = f"import sys, {', '.join(modules)}; print(*(n for n in sys.modules if n.startswith('mezite')))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True,
    timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - {"mezite", "mezite.ssh"}


def test_reusable_classes_load_rules_and_certificates_only() -> None:
    strange = {name for name in loaded(*REUSABLE) if name not in REUSABLE and not name.startswith(ALLOWED)}
    assert strange == set()


def test_the_node_knows_nothing_of_the_auth_server() -> None:
    """Only ``mezite.ssh.cluster`` does."""
    strange = {name for name in loaded("mezite.ssh.factory") if not name.startswith((*ALLOWED, "mezite.ssh"))}
    assert strange == set()
    assert "mezite.ssh.cluster" not in loaded("mezite.ssh.factory")
