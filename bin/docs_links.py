"""A hook of mkdocs.

Files of the repository that pages link to are put into the site, so that no link is dead; a page
that the navigation does not name stands at the end of its part about operating.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"\]\((\.\./[^)#]+)(#[^)]*)?\)")


PART = "Operating it"


def on_config(config: Any) -> Any:
    docs = Path(config["docs_dir"])
    named = set(re.findall(r"[\w/-]+\.md", str(config["nav"])))
    left = [str(page.relative_to(docs)) for page in sorted(docs.rglob("*.md"))]
    next(part[PART] for part in config["nav"] if PART in part).extend(one for one in left if one not in named)
    return config


def on_files(files: Files, *, config: Any) -> Files:
    for page in files.documentation_pages():
        for target, _ in _LINK.findall(page.content_string):
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), target))
            if not path.startswith("docs/") and (ROOT / path).is_file():
                place = f"source/{path}.txt"
                if files.get_file_from_path(place) is None:
                    text = (ROOT / path).read_text(encoding="utf-8")
                    files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    def inside(found: re.Match[str]) -> str:
        base = posixpath.dirname(page.file.src_uri)
        path = posixpath.normpath(posixpath.join("docs", base, found[1]))
        if path.startswith("docs/"):
            return found[0]
        return f"]({posixpath.relpath(f'source/{path}.txt', base or '.')})"

    return _LINK.sub(inside, markdown)
