"""The docs do what they say: their shell blocks are typed, in order, on an empty machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.system.box import ROOT, Box, why_not
from tests.system.shellblocks import Block, blocks, pattern

INSTALLED = """
```bash
python3 -m venv --without-pip /opt/mezite
cp /deps/bin/pip /opt/mezite/bin/
export PATH=/opt/mezite/bin:$PATH
echo '127.0.0.1 mezite.example.com web-server-01 web-1' >> /etc/hosts
```
"""
IN_USE = INSTALLED + """
```bash
pip install . >/dev/null
useradd --create-home --shell /bin/bash deploy
printf '#!/bin/sh\\necho deployed\\n' > ~deploy/deploy.sh; chmod 755 ~deploy/deploy.sh
mkdir site; echo hello > site/index.html; mkdir /srv/www; chown deploy /srv/www
```
```yaml
# /etc/mezite/mezite.yaml
auth: {public_addr: mezite.example.com:3025}
ssh: {enabled: true, node_name: web-1, exec: system}
```
```yaml
# deploy.yaml
kind: role
metadata: {name: deploy}
spec:
  options: {file_copy: true}
  allow: {node_labels: {"*": ["*"]}, logins: [deploy]}
```
<!-- test: goes on, until it says "machines are served" -->
```bash
twistd -n --pidfile= mezite-auth
```
```bash
mezctl roles create --from-file=deploy.yaml
mezctl bots add --name=web --roles=deploy
```
<!-- test: goes on, until it says "generation 1" -->
```bash
mezd identity start --auth-server=mezite.example.com:3025 --join-token=tok-bot-… --outputs=files,agent
```
"""
OPERATING = ("server", "several-servers", "systemd", "monitoring", "authorities", "operators", "machines",
             "backup")
READINGS = {
    "README": (INSTALLED, ["README.md"]),
    "the quick start": ("", ["docs/quickstart.md"]),
    "the pages on operating": (IN_USE, [f"docs/{name}.md" for name in OPERATING]),
}
"""What goes before, and the pages whose blocks are then typed on one machine, from the first to the last."""
PAGES = [page for _, pages in READINGS.values() for page in pages]
NOT_FOLLOWED = ("docs/performance.md",)
"""Measurements: a test of them would be one."""


def of(page: str) -> list[Block]:
    return list(blocks((ROOT / page).read_text(encoding="utf-8"), page))


def all_pages() -> list[str]:
    return ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))]


def test_what_is_not_run_says_why() -> None:
    """A block for a shell is run here, or a comment above it says why not."""
    silent = [str(block) for page in all_pages() if page not in (*PAGES, *NOT_FOLLOWED)
              for block in of(page) if block.is_for_a_shell and not block.not_run]
    assert silent == []


@pytest.fixture
def box(tmp_path: Path) -> Box:
    why = why_not()
    for program, package in (("/usr/sbin/sshd", "openssh-server"),
                             ("/usr/lib/openssh/sftp-server", "openssh-sftp-server")):
        if not Path(program).exists():
            why = why or f"needs {program} (Debian: {package})"
    if why:
        pytest.skip(f"the commands of the docs are NOT tried: {why}")
    return Box(tmp_path)


def follow(box: Box, block: Block) -> None:
    """Does what *block* tells its reader to do."""
    if block.stops:
        box.interrupt(block.stops)
    if block.file:
        box.put(block.file, block.text)
    if not block.is_for_a_shell:
        return
    if block.goes_on_until:
        box.leave_running(block.text, block.goes_on_until)
        return
    for typed, shown in block.commands():
        printed = box.type(typed)
        if shown is not None:
            found = pattern(shown).search(printed)
            assert found, f"{block}: shown is\n{shown}\nbut {typed} printed\n{printed}"


@pytest.mark.parametrize("reading", READINGS)
def test_a_reader_who_types_the_pages_gets_what_they_show(
    box: Box, reading: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block that is not marked otherwise is typed as it stands; what is left out is told."""
    before, pages = READINGS[reading]
    found = [block for page in pages for block in of(page)]
    unknown = [str(block) for block in found if not block.is_understood()]
    assert not unknown, f"neither run nor marked: {', '.join(unknown)}"
    left_out = [f"{block}: {block.not_run or block.language}" for block in found
                if block.not_run is not None or not (block.is_for_a_shell or block.file)]
    typed = [block for block in found if block.not_run is None]
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  not run: {one}" for one in left_out))
    assert any(block.is_for_a_shell for block in typed)
    with box:
        for block in [*blocks(before, "what goes before"), *typed]:
            try:
                follow(box, block)
            except AssertionError as error:
                raise AssertionError(f"{block}: {error}\n{box.logs()}") from None
