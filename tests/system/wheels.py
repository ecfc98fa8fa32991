"""Wheels, so that pip installs as from an index, and nothing is fetched: Mezite's is built from the
tree, those of what it needs are packed again from what is installed here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags

from tests.system.box import sources


def make_wheels(directory: Path, build_in: Path) -> None:
    """*directory* has wheels of Mezite, and of all that ``pip install mezite`` needs."""
    directory.mkdir()
    build_in.mkdir()
    sources(build_in)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", directory, build_in],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for one in needed("mezite").values():
        _pack(one, directory)


def needed(name: str) -> dict[str, Distribution]:
    """What *name* needs without extras, and what that needs, by name."""
    found: dict[str, Distribution] = {}
    left = [Requirement(name)]
    while left:
        asked = left.pop()
        for line in distribution(asked.name).requires or []:
            one = Requirement(line)
            wanted = one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)
            )
            if wanted and (one.name not in found or one.extras):
                found[one.name] = distribution(one.name)
                left.append(one)
    return found


def _pack(installed: Distribution, directory: Path) -> None:
    """The wheel that *installed* came from, but for its scripts, which pip makes anew."""
    words = (installed.read_text("WHEEL") or "").splitlines()
    tags = {line.removeprefix("Tag: ") for line in words if line.startswith("Tag: ")}
    tag = next(str(tag) for tag in sys_tags() if str(tag) in tags)
    name = installed.name.replace("-", "_").replace(".", "_").lower()
    with zipfile.ZipFile(directory / f"{name}-{installed.version}-{tag}.whl", "w") as wheel:
        for file in installed.files or []:
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(str(file.locate()), str(file))
