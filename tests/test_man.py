"""The man pages: everything that --help tells, and nothing that man(1) complains of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from manual.__main__ import PROGRAMS, main, pages
from manual.roff import page_name, subcommands

DATE = "2026-03-24"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1774360800")
    main(tmp_path / "man")
    return tmp_path / "man"


def everything(ctx: click.Context) -> Iterator[click.Context]:
    yield ctx
    for child in subcommands(ctx):
        yield from everything(child)


def test_a_page_for_each_program_and_each_of_its_commands(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"mezctl.1", "mezctl-bots.1", "mezd.1", "mezd-identity.1", "msh.1", "msh-ssh.1"} <= names
    for program, command in PROGRAMS.items():
        root = click.Context(command, info_name=program)
        assert {f"{page_name(one)}.1" for one in (root, *subcommands(root))} <= names


def test_the_same_sources_give_the_same_pages(folder: Path) -> None:
    assert {path.name: path.read_text() for path in folder.iterdir()} == pages(DATE)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc (Debian: mandoc)")
def test_mandoc_has_nothing_to_say(folder: Path) -> None:
    argv = ["mandoc", "-Tlint", "-W", "warning", *map(str, sorted(folder.iterdir()))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff (Debian: groff)")
def test_groff_has_nothing_to_say(folder: Path) -> None:
    for path in folder.iterdir():
        argv = ["groff", "-man", "-ww", "-Tutf8", "-z", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path.name


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc (Debian: mandoc)")
def test_every_command_and_option_is_shown_with_its_help(folder: Path) -> None:
    """As a reader sees it: words, whatever the line breaks."""
    shown = {}
    for path in folder.iterdir():
        done = subprocess.run(
            ["mandoc", "-Tutf8", str(path)], capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "LANG": "C.UTF-8"},
        )
        plain = subprocess.run(["col", "-b"], input=done.stdout, capture_output=True, text=True, timeout=60,
                               check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout
        shown[path.stem] = "".join(plain.split())
    for program, command in PROGRAMS.items():
        for ctx in everything(click.Context(command, info_name=program)):
            words = ctx.command_path.split()
            told = shown["-".join(words[:2])]
            assert "".join(words) in told
            for param in ctx.command.get_params(ctx):
                for part in param.get_help_record(ctx) or ():
                    if param.get_help_record(ctx) != (part, ""):
                        assert "".join(part.split()) in told, (ctx.command_path, part)


def test_what_roff_would_act_on_is_escaped() -> None:
    @click.command("odd", epilog="\b\n.so /etc/passwd\n'br")
    @click.option("--back", help="A \\fBbackslash\\fR, …")
    def odd(back: str) -> None:
        """.TH is how it begins

        'quoted' -- and `so` on
        """

    from manual.roff import page

    text = page(click.Context(odd, info_name="odd"), date=DATE, version="1", about="odd", see=[])
    assert text.isascii()
    requests = [line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))]
    assert set(requests) <= {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".BR"}
    assert "\\efBbackslash\\efR, \\[u2026]" in text
