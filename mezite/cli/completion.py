"""`completion`: what makes a shell complete the program's commands, options and names.

The shells' own parts come from click; here is what they do not know: options
with their value after an equals sign, and that an error must not show.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete


def variable(program: str) -> str:
    """The variable by which the shell's part asks the program."""
    return f"_{program.upper()}_COMPLETE"


class Bash(BashComplete):
    """Bash takes ``--bot=name`` for three words."""

    def source(self) -> str:
        # Not BashComplete's, which starts a bash to look for its version.
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], "" if incomplete == "=" else incomplete


class _WholeWord(ShellComplete):
    """The shell takes ``--bot=name`` for one word, and replaces all of it."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if not equals or not option.startswith("--"):
            return found
        return [
            CompletionItem(f"{option}={item.value}", type=item.type, help=item.help)
            if item.type == "plain" else item
            for item in found
        ]


class Zsh(_WholeWord, ZshComplete):
    pass


class Fish(_WholeWord, FishComplete):
    pass


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def answer(command: click.Command, program: str, instruction: str) -> int:
    """What the shell asked for is on standard output; the exit code."""
    shell = SHELLS.get(instruction.partition("_")[0])
    if shell is None:
        return 1
    try:
        told = shell(command, {}, program, variable(program)).complete()
    except Exception:
        # Whatever it is: it would land in the middle of the line that is being typed.
        return 1
    click.echo(told)
    return 0


def source(root: click.Context, shell: str) -> str:
    """What *shell* is to read, so that it asks the program of *root*."""
    program = str(root.info_name)
    return SHELLS[shell](root.command, {}, program, variable(program)).source()
