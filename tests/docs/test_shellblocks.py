"""What a page's comments and blocks mean to the tests."""

from __future__ import annotations

import pytest

from tests.system.shellblocks import blocks, pattern

PAGE = '''\
# A page

<!-- not run: needs systemd -->
```bash
systemctl start mezd
```

<!-- test: goes on, until it says "ready" -->

```bash
mezd identity start \\
  --one-shot
```
Words come in between, so this has no comment:
```console
$ mezctl bots ls
NAME  ROLES
$ mezctl bots show \\
  web
```
```yaml
# role.yaml
kind: role
```
1. In a list:
   <!-- test: after Ctrl-C in the terminal of mezd -->
   ```bash
   mezd identity leave
   ```
<!-- test: gose on -->
```bash
true
```
```brainfuck
+
```
'''


def test_what_each_block_is() -> None:
    systemd, going, shown, file, leave, misspelt, foreign = blocks(PAGE, "page")
    assert (systemd.not_run, systemd.line) == ("needs systemd", 4)
    assert going.goes_on_until == "ready"
    assert going.not_run is None
    assert shown.commands() == [("mezctl bots ls", "NAME  ROLES"), ("mezctl bots show \\\n  web", None)]
    assert (file.file, file.is_for_a_shell) == ("role.yaml", False)
    assert (leave.stops, leave.text) == ("mezd", "mezd identity leave")
    assert [misspelt.is_understood(), foreign.is_understood(), leave.is_understood()] == [False, False, True]


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("State: ready", "State:         ready", True),
        ("State: ready", "State: not ready", False),
        ("(expires: 2026-03-24T15:00:00Z)", "(expires: 2027-01-01T00:00:00Z)", True),
        ("(expires: 2026-03-24T15:00:00Z)", "(expires: never)", False),
        ("Join token: tok-bot-… (", f"Join token: tok-bot-{'a' * 12}-{'b' * 32}-{'c' * 32} (", True),
        ("Join token: tok-bot-… (", "Join token: tok-bot-aaaa (", False),
        ("one\n…\nlast", "one\ntwo\nthree\nlast", True),
        ("a.c", "abc", False),
    ],
)
def test_what_an_answer_must_be(shown: str, printed: str, fits: bool) -> None:
    """Any token and time, anything for three dots, wider columns; the rest to the letter."""
    assert bool(pattern(shown).search(printed)) is fits
