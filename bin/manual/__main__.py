"""``bin/man [FOLDER]``: writes mezctl.1, mezctl-bots.1 and so on, by default to man/."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

import click

import mezite
from manual.roff import page, page_name, subcommands
from mezite.cli import mezctl, mezd, msh

PROGRAMS: dict[str, click.Command] = {"mezctl": mezctl.mezctl, "mezd": mezd.main, "msh": msh.main}
ABOUT = {
    "mezctl": "operate a Mezite cluster",
    "mezd": "keep a machine's SSH identity",
    "msh": "ssh and scp with the identity of this machine",
}


def pages(date: str) -> dict[str, str]:
    """File name → page: one of each program, and one of each of its commands."""
    written: dict[str, str] = {}
    for program, command in PROGRAMS.items():
        root = click.Context(command, info_name=program)
        children = list(subcommands(root))
        names = [program, *map(page_name, children)]
        for ctx in [root, *children]:
            about = ABOUT.get(page_name(ctx)) or ctx.command.get_short_help_str(300)
            see = names if ctx is root else [program]
            written[f"{page_name(ctx)}.1"] = page(
                ctx, date=date, version=mezite.__version__, about=about, see=see
            )
    return written


def main(folder: Path) -> None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.1"):
        old.unlink()
    for name, text in pages(f"{when:%Y-%m-%d}").items():
        (folder / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bin/man", description="Writes the man pages.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("man"))
    main(parser.parse_args().folder)
