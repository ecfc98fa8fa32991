"""What the doctor makes of programs that say strange things; the rest is in tests/system/test_doctor.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from mezite.identity import doctor


def test_an_ssh_that_says_what_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper, or a module of PAM, with a message of another age."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nprintf 'OpenSSH_9.9 \\374, x' >&2\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (found,) = doctor.check_client(tmp_path)
    assert (found.level, found.text) == ("ok", "OpenSSH_9.9 \ufffd")
