"""Small files: whole or not at all, from pipes, too, and never without an end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mezite.config.files import read_small


def test_a_file_is_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (b"", b"a", b"x" * 100):
        path.write_bytes(content)
        assert read_small(path, 100) == content
    path.write_bytes(b"x" * 101)
    with pytest.raises(OSError, match="it holds more than 100 bytes") as caught:
        read_small(path, 100)
    assert caught.value.filename == str(path)


def test_a_pipe_is_read_to_its_end_however_it_comes() -> None:
    """As one of the shell's <(…)."""
    reading, writing = os.pipe()
    try:
        def write() -> None:
            os.write(writing, b"first ")
            os.write(writing, b"second\n")
            os.close(writing)

        writer = threading.Thread(target=write)
        writer.start()
        assert read_small(Path(f"/dev/fd/{reading}"), 100) == b"first second\n"
        writer.join(30)
    finally:
        os.close(reading)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="nothing came out of that pipe in 0 s"):
        read_small(path, 100, pipe_wait_s=0)
