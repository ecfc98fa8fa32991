"""The files of docs/examples, as those read them for whom they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((EXAMPLES / name).read_text()) if one is not None]


def document(name: str) -> dict[str, Any]:
    (found,) = documents(name)
    return found


def resource(name: str, kind: str) -> dict[str, Any]:
    (found,) = [one for one in documents(name) if one["kind"] == kind]
    return found


def containers(name: str) -> Iterator[dict[str, Any]]:
    for one in documents(name):
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        yield from (*pod.get("initContainers", ()), *pod.get("containers", ()))


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, continued lines joined: word and rest."""
    text = (EXAMPLES / "docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
