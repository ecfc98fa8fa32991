"""Standard streams that are closed, full, or of another encoding: the work and the exit code stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "tok-bot-a1b2c3d4e5f6-0123456789abcdef0123456789abcdef-00112233445566778899aabbccddeeff"
WRONG = ("--auth-server=127.0.0.1:1", f"--token={TOKEN}", "--renewal-interval=2h", "--certificate-ttl=1h")


def shell(redirections: str, module: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The program in that module, by a shell that redirects its streams."""
    code = f"from mezite.cli.{module} import main; main()"
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", code, *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ},
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "<&- >&-", ""])
def test_a_closed_stream_is_no_fault_of_the_command(redirections: str, tmp_path: Path) -> None:
    """Daemons are started so by old scripts.  Standard error shows that it came to where it must."""
    done = shell(redirections, "mezd", "identity", "start", "--auth-server=127.0.0.1:1",
                 f"--destination={tmp_path}/certs")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mezd: there is no identity in {tmp_path}/certs yet")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_the_exit_code_stands_where_nothing_can_be_told(redirections: str) -> None:
    done = shell(redirections, "mezd", "identity", "start", *WRONG)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_what_is_told_as_json_cannot_change_the_exit_code(tmp_path: Path) -> None:
    done = shell("2>/dev/full", "mezd", "identity", "start", "--auth-server=127.0.0.1:1", "--log-format=json",
                 f"--destination={tmp_path}/certs")
    assert done.returncode == 2


def test_a_full_standard_output_is_told() -> None:
    done = shell(">/dev/full", "mezctl", "completion", "bash")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mezctl: standard output: No space left on device (error)\n"


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    done = shell("| true", "mezctl", "completion", "bash")
    assert done.stderr == ""


def test_no_file_of_ours_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A hook, or a library, that writes to standard error would write into it."""
    code = (
        "from mezite.cli import streams; streams.open_all(); import os, sys\n"
        f"print(os.open({str(tmp_path)!r}, os.O_RDONLY) > 2, [os.get_inheritable(n) for n in (0, 1, 2)],"
        " repr(sys.stdin.read()), file=open(sys.argv[1], 'w'))"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, str(tmp_path / "told")],
        cwd=ROOT, check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == "True [True, True, True] ''\n"


@pytest.mark.parametrize(
    ("environ", "encoding", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", "Grüße \\u2192 für\n"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "ascii",
         "Gr\\xfc\\xdfe \\u2192 f\\xfcr\n"),
        ({"LC_ALL": "C"}, "utf-8", "Grüße → für\n"),
    ],
)
def test_what_the_terminals_encoding_does_not_know_is_escaped(
    environ: dict[str, str], encoding: str, shown: str
) -> None:
    """Roles are described in any language; one of them must not keep the others from being listed."""
    code = (
        "import click; from mezite.cli import output; from mezite.cli.program import Program\n"
        "@click.group(cls=Program, name='x')\ndef main(): ...\n"
        "@main.command()\ndef show(): output.write_line('Gr\\xfc\\xdfe \\u2192 f\\xfcr')\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show"], cwd=ROOT, capture_output=True, check=False,
        env={"PATH": os.environ["PATH"], **environ},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown.encode(encoding), b"")


@pytest.mark.parametrize(
    ("module", "words", "part"),
    [
        ("mezd", ("identity", "start", "--auth-server=a:1", "--token=-", "--destination"), "mistyped"),
        ("mezctl", ("certs", "inspect", "-"), "not a certificate that can be read"),
    ],
)
def test_bytes_on_standard_input_that_are_no_text(
    tmp_path: Path, module: str, words: tuple[str, ...], part: str
) -> None:
    place = [str(tmp_path / "certs")] if words[-1] == "--destination" else []
    done = subprocess.run(
        [sys.executable, "-c", f"from mezite.cli.{module} import main; main()", *words, *place],
        cwd=ROOT, capture_output=True, input=b"tok-bot-\xff\xfe\n", timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert (done.stderr.count(b"\n"), part in done.stderr.decode()) == (1, True), done.stderr
