"""`msh`: the system's ssh and scp with this machine's identity, and where that is.

Standard library and click only: nothing may stand between a script and ssh.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from msgspec import Struct

import mezite
from mezite.cli import failures
from mezite.cli.completion_command import completion
from mezite.cli.program import Program, files
from mezite.config import paths
from mezite.errors import MeziteError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "msh"
VARIABLE = "MEZITE_IDENTITY"
_SUFFIX = "-cert.pub"
_CERTIFICATE = "ssh_key-cert.pub"
_CONFIG = "ssh_config"
_AGENT = "agent.sock"
_SETS = "sets"
_NO_DAEMON = "start it with: mezd identity start; a one-shot identity needs none"


def _known_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The nodes that the identity's ssh_config names, behind whatever login is there."""
    from click.shell_completion import CompletionItem

    login, at, begins = incomplete.rpartition("@")
    config = find_identity(ctx.params.get("cert"), os.environ).config
    lines = config.read_text().splitlines() if config is not None else []
    hosts = [word for line in lines if line.startswith("Host ") for word in line.split()[1:]]
    return [
        CompletionItem(login + at + host) for host in hosts
        if host.startswith(begins) and not set(host) & set("*?!")
    ]


@click.group(name=PROGRAM, cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mezite.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def main() -> None:
    """SSH with the identity that mezd keeps on this machine."""


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--login", metavar="LOGIN", help="The account to log in as; LOGIN@NODE says the same.")
@click.option("--cert", metavar="PATH", shell_complete=files,
              help=f"Certificate, or directory of an identity.  Default: {VARIABLE}, "
                   "then what mezd has written last.")
@click.argument("node", shell_complete=_known_nodes)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(login: str | None, cert: str | None, node: str, command: tuple[str, ...]) -> None:
    """Log in to NODE, or run COMMAND there.

    msh ssh --login=deploy web-1 -- ./deploy.sh

    With options of ssh's own: ssh -F DIR/ssh_config -v deploy@web-1, where DIR is the identity's directory.
    """
    _exec(ssh_argv(login, cert, node, command, os.environ))


_cert_option = click.option(
    "--cert", metavar="PATH", shell_complete=files,
    help=f"Certificate, or directory of an identity, as with ssh ({VARIABLE}).",
)


@main.command()
@click.option("--login", metavar="LOGIN", help="The account on the nodes; LOGIN@NODE:PATH says the same.")
@_cert_option
@click.option("-r", "recursive", is_flag=True, help="Whole directories.")
@click.option("-p", "preserve", is_flag=True, help="Keep times and modes.")
@click.option("-q", "quiet", is_flag=True, help="No progress.")
@click.argument("what", metavar="FILES...", nargs=-1, required=True, type=click.UNPROCESSED,
                shell_complete=files)
def scp(
    login: str | None, cert: str | None, recursive: bool, preserve: bool, quiet: bool, what: tuple[str, ...]
) -> None:
    """Copy files to and from a node.

    The last of FILES is where to.

    msh scp -r site deploy@web-1:/srv/www
    """
    flags = [flag for flag, given in (("-r", recursive), ("-p", preserve), ("-q", quiet)) if given]
    _exec(scp_argv(login, cert, flags, what, os.environ))


@main.command()
@_cert_option
@click.option("--shell", type=click.Choice(["sh", "fish"]), default="sh", help="Whose syntax; default: sh.")
def env(cert: str | None, shell: str) -> None:
    """Print exports for git, rsync and Ansible.

    To be used as eval "$(msh env)".  The paths are those that outlive a renewal.
    """
    for name, value in variables(cert, os.environ).items():
        if shell == "fish":
            click.echo(f"set -gx {name} {_fish(value)}")
        else:
            click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
@_cert_option
@click.option("--format", "format_", type=click.Choice(["text", "json", "yaml"]), default="text",
              help="Default: text.")
def status(cert: str | None, format_: str) -> None:
    """Say which identity is used, and how it is.

    Exit codes: 0 when its daemon is ready, 1 when not, 2 when there is none.
    """
    sys.exit(_status(find_identity(cert, os.environ), format_))


def _status(found: FoundIdentity, format: str) -> int:
    from mezite.admin import client
    from mezite.cli import identity_text, output

    home, trouble = found.destination, "no daemon keeps this identity"
    if home is not None:
        try:
            daemon = client.connect([str(home / ".mezite/control.sock")], remedy=_NO_DAEMON)
            answer = daemon.call("identity.status")
            if format == "text":
                identity_text.write_status(answer)
            else:
                output.write(answer, format)
            return failures.DONE if answer.get("ready") else failures.FAILED
        except MeziteError as error:
            trouble = f"no daemon: {error}"
    certificate = found.certificate or (found.config.with_name(_CERTIFICATE) if found.config else None)
    if format != "text":
        # What a daemon would answer, as far as it is known without one.
        output.write({
            "ready": False, "not_ready_reason": trouble, "destination": home and str(home),
            "certificate": certificate and str(certificate),
        }, format)
        return failures.FAILED
    output.hint(f"{PROGRAM}: {trouble}")
    assert certificate is not None
    output.write_line(f"Certificate: {certificate}")
    _write_certificate(certificate)
    return failures.FAILED


def _write_certificate(path: Path) -> None:
    """As ssh-keygen has it, without the extensions that are ours, which it shows as bytes.

    What `mezctl certs inspect` has would double what a released msh weighs.
    """
    import subprocess

    from mezite.cli import output

    if shutil.which("ssh-keygen") is None:
        return
    done = subprocess.run(
        ["ssh-keygen", "-L", "-f", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )
    if done.returncode:
        raise UsageError(f"{path} is not a certificate; restart mezd: it writes the set anew")
    for line in done.stdout.splitlines()[1:]:
        if "@mezite.com" not in line:
            output.write_line(line.expandtabs())


main.add_command(completion)


def _exec(argv: Sequence[str]) -> NoReturn:
    program = shutil.which(argv[0])
    if program is None:
        raise UsageError(f"there is no {argv[0]} on the PATH; install the OpenSSH client")
    sys.stdout.flush()
    os.execv(program, list(argv))


def ssh_argv(
    login: str | None,
    cert: str | None,
    node: str,
    command: Sequence[str],
    environ: Mapping[str, str],
) -> list[str]:
    """The command line of ssh.  Raises :class:`UsageError`; reads only the file system."""
    words = list(command)
    if words and words[0] == "--":
        del words[0]
    elif words and words[0].startswith("-"):
        raise UsageError(f"options go before NODE; put -- before a command that begins with {words[0]!r}")
    user, at, host = node.rpartition("@")
    if at and login is not None and user != login:
        raise UsageError(f"two logins: --login={login} and {user}@; give one of them")
    login = user if at else login
    for what, name in (("login", login), ("node", host)):
        if name is not None:
            _check_name(what, name)
    argv = ["ssh", *find_identity(cert, environ).options()]
    if login is not None:
        argv += ["-l", login]
    # After `--` ssh takes no further option, neither as the node nor behind it.
    return [*argv, "--", host, *words]


def _check_name(what: str, name: str) -> None:
    """Nothing that ssh could take for an option."""
    if not name or name.startswith("-") or not name.isprintable() or " " in name:
        raise UsageError(f"{name!r} is no {what}; give --login=LOGIN NODE, or LOGIN@NODE")


def scp_argv(
    login: str | None,
    cert: str | None,
    flags: Sequence[str],
    files: Sequence[str],
    environ: Mapping[str, str],
) -> list[str]:
    """The command line of scp.  Raises :class:`UsageError`; reads only the file system."""
    if len(files) < 2:
        raise UsageError("what to copy, and where to? msh scp FILE… LOGIN@NODE:PATH")
    options = find_identity(cert, environ).options()
    if login is not None:
        _check_name("login", login)
        options += ["-o", f"User={login}"]
    # After `--` scp takes no further option, whatever a file is called.
    return ["scp", *flags, *options, "--", *files]


def variables(cert: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment by which other programs use the identity, renewed or not."""
    found = find_identity(cert, environ)
    home = found.destination
    if home is None:
        raise UsageError("only a directory that mezd keeps outlives a renewal; give that by --cert")
    config = str(home / _CONFIG)
    values = {VARIABLE: str(home)}
    if (home / _AGENT).exists():
        values["SSH_AUTH_SOCK"] = str(home / _AGENT)
    ssh_command = f"ssh -F {shlex.quote(config)}"
    values |= {"GIT_SSH_COMMAND": ssh_command, "RSYNC_RSH": ssh_command}
    values["ANSIBLE_SSH_ARGS"] = f"-F {shlex.quote(config)}"
    return values


def _fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class FoundIdentity(Struct, frozen=True):
    """The files of an identity, to be used together."""

    destination: Path | None = None
    """The directory that mezd keeps, where it is one."""
    config: Path | None = None
    """Of one set of a destination: everything else is in it."""
    certificate: Path | None = None
    """One that lies anywhere else, with its key beside it."""

    def options(self) -> list[str]:
        if self.config is not None:
            return ["-F", str(self.config)]
        assert self.certificate is not None
        key = self.certificate.with_name(self.certificate.name.removesuffix(_SUFFIX))
        options = ["-i", str(key), "-o", f"CertificateFile={_quoted(self.certificate)}",
                   "-o", "IdentitiesOnly=yes"]
        known_hosts = self.certificate.with_name("known_hosts")
        if known_hosts.exists():
            options += ["-o", f"UserKnownHostsFile={_quoted(known_hosts)}",
                        "-o", "StrictHostKeyChecking=yes"]
        return options


def _quoted(path: Path) -> str:
    """*path* as a value of ssh_config, where % starts a token."""
    text = str(path)
    if any(char in '"\\' or not char.isprintable() for char in text) or "${" in text:
        raise UsageError(f"ssh cannot take the file name {text!r}; move the file")
    return '"' + text.replace("%", "%%") + '"'


def find_identity(cert: str | None, environ: Mapping[str, str], uid: int | None = None) -> FoundIdentity:
    """By ``--cert``, ``MEZITE_IDENTITY``, the destination that mezd has written last, or
    the default one of *uid* (default: who runs this): a systemd unit's mezd notes nothing."""
    if cert:
        return _identity_at(Path(cert), "--cert")
    if environ.get(VARIABLE):
        return _identity_at(Path(environ[VARIABLE]), VARIABLE)
    noted = paths.last_identity(environ)
    try:
        last = noted.read_text().strip()
    except (OSError, UnicodeDecodeError):
        last = ""
    if last:
        return _identity_at(Path(last), f"the last identity of mezd, noted in {noted}")
    usual = paths.identity_dir(environ, os.geteuid() if uid is None else uid)
    if (usual / _CERTIFICATE).is_file():
        return _identity_at(usual, "mezd's default destination")
    raise UsageError(
        f"no identity found; looked for --cert (not given), {VARIABLE} (not set) and {noted} "
        f"(where mezd notes the identity it has written last: none), and there is none in {usual}; "
        "run `mezd identity start`, or give --cert=PATH"
    )


def _identity_at(path: Path, source: str) -> FoundIdentity:
    path = paths.expanded(str(path)).absolute()
    try:
        if path.is_dir():
            path = path / _CERTIFICATE
        if not path.is_file():
            raise UsageError(f"{source}: {path} is not there; is mezd running, and is this its destination?")
    except OSError as error:
        raise UsageError(
            f"{source}: {path}: {error.strerror}; become the account that it belongs to, or give --cert=PATH"
        ) from None
    # A link into the set of the moment: followed once, here, so that a renewal meanwhile
    # cannot put the key of one set beside the certificate of another.
    one_set = path.resolve().parent
    if (one_set / _CONFIG).is_file():
        home = one_set.parent.parent if one_set.parent.name == _SETS else None
        return FoundIdentity(destination=home, config=one_set / _CONFIG)
    if not path.name.endswith(_SUFFIX):
        raise UsageError(f"{source}: {path} is not a certificate; name the file that ends with {_SUFFIX}")
    if not path.with_name(path.name.removesuffix(_SUFFIX)).is_file():
        raise UsageError(
            f"{source}: there is no private key beside {path}; name the directory that mezd keeps"
        )
    return FoundIdentity(certificate=path)
