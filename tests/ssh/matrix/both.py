"""sshd and the node side by side, trusting the CAs of :mod:`packing`, and what both say to the same cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from mezite.certs import keys
from tests.ssh.matrix.packing import CAS, Case
from tests.ssh.matrix.servers import SSHD, Judge, Sshd
from tests.ssh.test_openssh import Node, started

MISSING = "no sshd on this machine (Debian: openssh-server)"
UNBOUNDED_SSHD: dict[str, Any] = {"MaxAuthTries": 10**6, "LoginGraceTime": 0}
UNBOUNDED_NODE: dict[str, Any] = {"max_attempts": 10**6, "login_timeout_seconds": 600}
"""One connection may ask for hundreds of logins."""


def node_like_sshd(factory: pytest.TempPathFactory, **settings: Any) -> Iterator[Node]:
    """By principals, as sshd decides."""
    lines = [keys.public_line(keys.public_blob(ca)) for ca in CAS.values()]
    yield from started(factory, authorization="principals", trusted_user_ca_keys=lines, **settings)


@contextmanager
def sshd_or_skip(factory: pytest.TempPathFactory, **options: Any) -> Iterator[Sshd]:
    """Skips the test where there is none, or it does not start."""
    if SSHD is None:
        pytest.skip(MISSING)
    server = Sshd(factory.mktemp("sshd"), CAS.values(), **options)
    try:
        if not server.is_up:
            pytest.skip("this sshd does not start here")
        yield server
    finally:
        server.close()


def judged(port: int, cases: Mapping[str, Case]) -> dict[str, tuple[bool, bool]]:
    """Of each case, whether its question is answered with PK_OK, and whether it gets in."""
    judge = Judge(port)
    try:
        return {name: (judge.invites(case), judge.admits(case)) for name, case in cases.items()}
    finally:
        judge.close()
