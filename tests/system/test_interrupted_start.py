"""Ctrl-C while a program is still loading: it ends by the signal, and says nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.processes import BIN, Process, environment, wait_for

pytestmark = pytest.mark.system

LOADING = """
import os
open(os.environ["LOADING"], "w").close()
open(os.environ["PIPE"]).read()
"""
"""In the place of a module that they load: it is never through with it."""


@pytest.mark.parametrize(
    ("program", "words", "module"),
    [
        ("mezctl", ("status",), "click"),
        ("mezd", ("identity", "status"), "click"),
        ("msh", ("status",), "click"),
        ("twistd", ("-n", "--pidfile=", "mezite-auth"), "yaml"),
    ],
)
def test_a_program_that_is_loading_ends_without_a_word(
    tmp_path: Path, program: str, words: tuple[str, ...], module: str
) -> None:
    (tmp_path / f"{module}.py").write_text(LOADING)
    os.mkfifo(tmp_path / "pipe")
    loading = tmp_path / "loading"
    env = environment(
        tmp_path, PYTHONPATH=str(tmp_path), LOADING=str(loading), PIPE=str(tmp_path / "pipe"),
    )
    process = Process([BIN / program, *words], env, tmp_path / "log")
    try:
        wait_for(lambda: loading.exists() or process.code is not None, "module that is loaded")
        assert process.stop(signal.SIGINT) == -signal.SIGINT, process.text()
        assert process.text() == ""
    finally:
        process.end_group()
