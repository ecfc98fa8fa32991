"""`completion`, the same command of all three programs."""

from __future__ import annotations

import click

from mezite.cli.helping import Command


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options and names.

    Names come from the server or the identity, where one answers at once.
    For each of mezctl, mezd and msh:

    \b
    bash  eval "$(mezctl completion bash)"    in ~/.bashrc
    zsh   eval "$(mezctl completion zsh)"     in ~/.zshrc, after compinit
    fish  mezctl completion fish | source     in ~/.config/fish/config.fish
    """
    from mezite.cli.completion import source

    click.echo(source(ctx.find_root(), shell))
