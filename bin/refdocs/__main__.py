"""Writes the pages, or says which one is not current."""

from __future__ import annotations

import sys
from pathlib import Path

from refdocs import codes, commands, events, metrics, settings

DOCS = Path(__file__).parent.parent.parent / "docs" / "reference"
PAGES = {
    "commands.md": commands.page,
    "configuration.md": settings.page,
    "codes.md": codes.page,
    "events.md": events.page,
    "metrics.md": metrics.page,
}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: bin/reference [--check]\n")
        return 2
    stale = []
    for name, page in PAGES.items():
        made, kept = page(), DOCS / name
        if arguments:
            if not kept.exists() or kept.read_text(encoding="utf-8") != made:
                stale.append(f"docs/reference/{name}")
        else:
            DOCS.mkdir(exist_ok=True)
            kept.write_text(made, encoding="utf-8")
    for name in stale:
        sys.stderr.write(f"bin/reference: {name} is not current; run bin/reference\n")
    return 1 if stale else 0


sys.exit(main(sys.argv[1:]))
