"""Which commands count as file copies."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.ssh.copying import MAX_JUDGED, copy_program


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (b"scp -t /tmp", "scp"),
        (b"scp -v -r -p -d -f -- '/a b'", "scp"),
        (b"/usr/bin/scp -qt x", "scp"),
        (b"rsync --server -logDtpre.iLsfxCIvu . /x", "rsync"),
        (b"sudo -u www rsync --server . x", "rsync"),
        (b"LC_ALL=C env X=1 rsync --server . x", "rsync"),
        (b"/usr/lib/openssh/sftp-server", "sftp"),
        (b"internal-sftp -R", "sftp"),
        (b"scp 'unbalanced -t", None),
        (b"scp -t 'unbalanced", "scp"),
        (b"scp a b", None),
        (b"rsync -a /a /b", None),
        (b"cat rsync.log --server", None),
        (b"echo hello", None),
        (b"", None),
        (b"\xff\xfe", None),
    ],
)
def test_far_ends_of_copies_are_known(command: bytes, program: str | None) -> None:
    """Copies that a command makes by itself, on the node, are none through it."""
    assert copy_program(command) == program


@pytest.mark.parametrize("word", [b"a", b"scp", b"rsync", b"scp -a", b"rsync --serve"])
def test_long_commands_are_judged_in_no_time(word: bytes) -> None:
    """By the number of steps, as a slow machine has no other measure."""
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += 1

    long = (word + b" ") * (128 * 1024 // (len(word) + 1))
    sys.setprofile(count)
    try:
        assert copy_program(long) is None
    finally:
        sys.setprofile(None)
    assert steps < 16 * MAX_JUDGED
    assert copy_program(word + b" " + long[:MAX_JUDGED // 2] + b"; rsync --server") == "rsync"


@given(st.binary(max_size=200))
def test_any_command_is_judged(command: bytes) -> None:
    copy_program(command)
