"""`mezctl`: what operators say to the auth server, and to a machine's daemon.

It starts on every call of a script, so it imports little: a command's module
comes in when the command is asked for.
"""

from __future__ import annotations

import click

from mezite import __version__
from mezite.cli.asking import PROGRAM, Asking
from mezite.cli.program import FORMATS, LazyProgram, files

_COMMANDS = {
    "status": ("mezite.cli.ctl_status", "How the server is, and what in it wants your eye."),
    "roles": ("mezite.cli.ctl_roles", "Roles: where bots may log in, as whom, for how long."),
    "bots": ("mezite.cli.ctl_bots", "Bots: machine identities and their first join token."),
    "tokens": ("mezite.cli.ctl_tokens", "Further join tokens."),
    "instances": ("mezite.cli.ctl_instances", "Instances: the machines that have joined."),
    "locks": ("mezite.cli.ctl_locks", "Locks: stop a bot, instance, role, login or node at once."),
    "nodes": ("mezite.cli.ctl_cluster", "SSH nodes that the cluster knows."),
    "ca": ("mezite.cli.ctl_cluster", "Certificate authorities: what SSH servers and clients trust."),
    "audit": ("mezite.cli.ctl_audit", "The audit log: who did what."),
    "certs": ("mezite.cli.ctl_certs", "What a certificate says; no server is asked."),
    "backup": ("mezite.cli.ctl_backup", "A copy of the database, made while the server runs."),
    "db": ("mezite.cli.ctl_db", "The database itself: move it to PostgreSQL."),
    "restore": ("mezite.cli.ctl_restore", "Say that the database was put back from a backup."),
    "identity": ("mezite.cli.ctl_identity", "The daemon on this machine: its state; renew now."),
    "completion": ("mezite.cli.completion_command", "What makes a shell complete commands and names."),
}


@click.group(
    name=PROGRAM,
    cls=LazyProgram,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Start here:
  mezctl roles create --from-file=ci-deployer.yaml
  mezctl bots add --name=github-deploy --roles=ci-deployer --token-ttl=1h

\b
Exit codes: 0 done, 1 failed (unreachable), 2 asked wrongly, 3 refused.""",
)
@click.option(
    "--socket",
    metavar="PATH",
    shell_complete=files,
    help="The unix socket to ask; of several, by commas, the first that answers.  Default: "
    "MEZITE_ADMIN_SOCKET, or /run/mezite/admin.sock, or admin.sock in the server's data directory.",
)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text", help="Default: text.")
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def mezctl(ctx: click.Context, socket: str | None, format_: str) -> None:
    """Operates a Mezite cluster: machine identities for SSH."""
    ctx.obj = Asking(socket, format_)


def main() -> None:
    """The entry point."""
    mezctl(prog_name=PROGRAM)
