"""No page names a command or an option that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, faults, typed
from tests.system.shellblocks import blocks

OF_OTHERS = {
    # option: whose it is
    "--since": "mezctl restore", "--postgres": "bin/soak", "--stolen": "bin/audit-check", "--check": "bin/*",
    "--config-settings": "pip", "--dbname": "pg_restore", "--file": "pg_dump", "--format": "pg_dump",
    "--no-owner": "pg_restore", "--uid": "twistd", "--gid": "twistd", "--chroot": "twistd",
    "--umask": "twistd", "--pidfile": "twistd", "--logfile": "twistd",
    "--create-home": "useradd", "--shell": "useradd", "--system": "useradd", "--append": "usermod",
    "--groups": "usermod", "--reactor": "twistd",
    "--version": "all",
}


def of_ours() -> set[str]:
    """Every option of our programs and scripts."""
    from refdocs.commands import PROGRAMS, walk

    found = {name for name, program in PROGRAMS.items() for _, one in walk(program, name)
             for param in one.params for name in (*param.opts, *param.secondary_opts)}
    for script in (ROOT / "bin").rglob("*"):
        if script.is_file() and script.suffix in ("", ".py") and "refdocs" not in script.parts:
            found |= set(re.findall(r"--[a-z][a-z-]+", script.read_text(encoding="utf-8")))
    return {name for name in found if name.startswith("--")} | {"--config", "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page: Path) -> None:
    """Commands of mezctl, mezd and msh, in blocks and in running text, with their options."""
    wrong = [f"{command}: {fault}" for command in typed(page.read_text(encoding="utf-8"), page.name)
             for fault in faults(command)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_a_page_names_is_somebodys(page: Path) -> None:
    """Of our programs, of our scripts, or of a program that the test knows."""
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
    assert named - of_ours() - set(OF_OTHERS) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_test_understands_the_blocks(page: Path) -> None:
    """No comment for the tests is misspelt, no block is of an unknown language."""
    found = list(blocks(page.read_text(encoding="utf-8"), page.name))
    assert [str(block) for block in found if not block.is_understood()] == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("mezctl bots add --name=a --roles=b", []),
        ("mezctl --format json audit ls --all", []),
        ("mezctl --socket PATH identity status", []),
        ("msh ssh --login=deploy web-1 -- ./deploy.sh --now", []),
        ("mezctl bots ad", ["ad is no command of bots"]),
        ("mezctl bots add --nam=a", ["--nam is no option of mezctl … add"]),
        ("mezd identity start --one-shots", ["--one-shots is no option of mezd … start"]),
    ],
)
def test_a_wrong_command_is_found(command: str, wrong: list[str]) -> None:
    assert faults(command) == wrong
