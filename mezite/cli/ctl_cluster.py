"""`mezctl nodes` and `ca`."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli.asking import Asking, Command, Group, listed, paged, pass_asking
from mezite.cli.output import hint, write_line
from mezite.cli.program import contents, files, named
from mezite.errors import UsageError

_MAX_KEY = 64 * 1024
_WANTED_KEY = "name the public key of one host, such as /etc/ssh/ssh_host_ed25519_key.pub"

# --- nodes ---------------------------------------------------------------------------------


@click.group(cls=Group)
def nodes() -> None:
    """SSH nodes that the cluster knows."""


@nodes.command("ls")
@paged
@pass_asking
def nodes_ls(asking: Asking, limit: int | None, after: str | None) -> None:
    """List all nodes."""
    columns = {
        "NAME": lambda node: node["name"],
        "ADDRESS": lambda node: node["address"],
        "LABELS": lambda node: node["labels"],
    }
    asking.show_list(
        "nodes.ls", "nodes", columns, limit=limit, after=after,
        none="no nodes; the server's own one starts with ssh.enabled: true in its configuration",
    )


# --- ca ------------------------------------------------------------------------------------


@click.group(cls=Group)
def ca() -> None:
    """Certificate authorities: what SSH servers and clients trust.

    Which there are is in `mezctl status`.
    """


@ca.command("export")
@click.option(
    "--type", "kind", type=click.Choice(["user", "host", "server"]), required=True,
    help="user: for sshd's TrustedUserCAKeys; host: lines for known_hosts; server: PEM, for mezd --ca-file.",
)
@pass_asking
def export(asking: Asking, kind: str) -> None:
    """Print the public keys of the authorities that are trusted now.

    \b
    mezctl ca export --type=user > /etc/ssh/mezite_user_ca.pub
    echo 'TrustedUserCAKeys /etc/ssh/mezite_user_ca.pub' >> /etc/ssh/sshd_config
    """
    asking.show(asking.call("ca.export", type=kind), _write_keys)


def _write_keys(answer: Any) -> None:
    for key in answer["keys"]:
        for line in key["text"].splitlines():
            write_line(line)


@ca.command("sign-host", cls=Command)
@click.argument("key", shell_complete=files)
@click.option("--principals", required=True, multiple=True, metavar="NAME[,NAME]",
              help="Its names and addresses, as users type them.")
@click.option("--ttl", metavar="DURATION", help="How long it is good; default 30d, at most 366d.")
@pass_asking
def sign_host(asking: Asking, key: str, principals: tuple[str, ...], ttl: str | None) -> None:
    """Sign the host key of an SSH server, so that machines know it: they trust the Host CA.

    KEY is the host's public key file, or - for standard input; the certificate is printed.

    \b
    mezctl ca sign-host --principals=web-1,10.0.0.5 web-1.pub > web-1-cert.pub

    In the host's sshd_config: HostCertificate and where it lies there.
    """
    wanted = {"public_key": _public_key(key), "principals": listed(principals), "ttl": ttl}
    asking.show(asking.call("ca.sign_host", **wanted), _write_signed)


def _public_key(file: str) -> str:
    """The one line of *file*; what may be a private key goes nowhere."""
    text = contents(file, _MAX_KEY, _WANTED_KEY)
    if b"PRIVATE KEY" in text:
        raise UsageError(f"{named(file)} holds a private key, which stays where it is; {_WANTED_KEY}")
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(lines) != 1:
        raise UsageError(f"{named(file)} holds {len(lines)} lines; {_WANTED_KEY}")
    return lines[0]


def _write_signed(answer: Any) -> None:
    write_line(answer["certificate"])
    hint(f"good for {', '.join(answer['principals'])} until {answer['valid_before']}; sign again before that")


@ca.command("rotate", cls=Command)
@click.option(
    "--type", "kind", type=click.Choice(["user", "host", "server"]), required=True, help="Which authority."
)
@click.option(
    "--stage", type=click.Choice(["announce", "switch", "retire"]),
    help="Refuse unless this is the next step; default: take whichever is next.",
)
@click.option(
    "--grace-period", metavar="DURATION", default="72h", show_default=True,
    help="The least time since the step before, in which every machine should have renewed.",
)
@click.option("--now", is_flag=True, help="Take the step without waiting for that.")
@pass_asking
def rotate(asking: Asking, kind: str, stage: str | None, grace_period: str, now: bool) -> None:
    """Put a new authority in place of an old one: run it three times, with time between.

    \b
    1. announce  a new one is made and published; the old one signs
    2. switch    the new one signs; the old one is trusted still
    3. retire    the old one is trusted no longer

    Machines hear of each step when they renew, the server's own node at once, and a stock
    sshd when you export the user CAs again: after steps 1 and 3.
    """
    wanted = {"type": kind, "stage": stage, "grace_period": grace_period, "now": now}
    asking.show(asking.call("ca.rotate", **wanted), _write_rotated)


_DONE = {
    "announce": "A new {type} CA is published and signs nothing yet: {fingerprint}",
    "switch": "The new {type} CA signs from now on: {fingerprint}",
    "retire": "The old {type} CA is trusted no longer: {fingerprint}",
}


def _write_rotated(answer: Any) -> None:
    write_line(_DONE[answer["stage"]].format(**answer))
    if answer["type"] == "user" and answer["stage"] != "switch":
        hint("for each stock sshd: mezctl ca export --type=user > its TrustedUserCAKeys file")
    if answer["type"] == "host" and answer["stage"] == "switch":
        hint("for each stock sshd that has a certificate: mezctl ca sign-host once more")
    if answer["type"] == "server" and answer["stage"] == "switch":
        hint("join tokens made before prove the old one: make new ones (mezctl bots rotate-token)")
    if answer["next_stage"]:
        hint(f"next, after {answer['not_before']}: mezctl ca rotate --type={answer['type']} "
             f"({answer['next_stage']})")
