"""`msh ssh`: the system's ssh, with this machine's identity.

Standard library and click only: nothing may stand between a script and ssh.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

import mezite
from mezite.cli import failures
from mezite.config import paths
from mezite.errors import MeziteError, UsageError

PROGRAM = "msh"
VARIABLE = "MEZITE_IDENTITY"
_SUFFIX = "-cert.pub"
_CERTIFICATE = "ssh_key-cert.pub"
_CONFIG = "ssh_config"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mezite.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def main() -> None:
    """SSH with the identity that mezd keeps on this machine."""


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--login", metavar="LOGIN", help="The account to log in as; LOGIN@NODE says the same.")
@click.option("--cert", metavar="PATH",
              help=f"Certificate, or directory of an identity.  Default: {VARIABLE}, "
                   "then what mezd has written last.")
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(login: str | None, cert: str | None, node: str, command: tuple[str, ...]) -> None:
    """Log in to NODE, or run COMMAND there: msh ssh --login=deploy web-1 -- ./deploy.sh"""
    try:
        argv = ssh_argv(login, cert, node, command, os.environ)
        _exec(argv)
    except MeziteError as error:
        sys.exit(failures.report(PROGRAM, error))


def _exec(argv: Sequence[str]) -> NoReturn:
    program = shutil.which(argv[0])
    if program is None:
        raise UsageError("there is no ssh on the PATH; install the OpenSSH client")
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
        if name is not None and (not name or name.startswith("-") or not name.isprintable() or " " in name):
            raise UsageError(f"{name!r} is no {what}")
    argv = ["ssh", *find_identity(cert, environ).options()]
    if login is not None:
        argv += ["-l", login]
    # After `--` ssh takes no further option, neither as the node nor behind it.
    return [*argv, "--", host, *words]


@dataclass(frozen=True, slots=True)
class FoundIdentity:
    """The files of an identity, to be used together."""

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


def find_identity(cert: str | None, environ: Mapping[str, str]) -> FoundIdentity:
    """By ``--cert``, ``MEZITE_IDENTITY`` or the destination that mezd has written last."""
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
    raise UsageError(
        f"no identity found; looked for --cert (not given), {VARIABLE} (not set) and {noted} "
        "(where mezd notes the identity it has written last: none); "
        "run `mezd identity start`, or give --cert=PATH"
    )


def _identity_at(path: Path, source: str) -> FoundIdentity:
    path = path.expanduser().absolute()
    if path.is_dir():
        path = path / _CERTIFICATE
    if not path.is_file():
        raise UsageError(f"{source}: {path} is not there; is mezd running, and is this its destination?")
    # A link into the set of the moment: followed once, here, so that a renewal meanwhile
    # cannot put the key of one set beside the certificate of another.
    one_set = path.resolve().parent
    if (one_set / _CONFIG).is_file():
        return FoundIdentity(config=one_set / _CONFIG)
    if not path.name.endswith(_SUFFIX):
        raise UsageError(f"{source}: {path} is not a certificate; name the file that ends with {_SUFFIX}")
    if not path.with_name(path.name.removesuffix(_SUFFIX)).is_file():
        raise UsageError(f"{source}: there is no private key beside {path}")
    return FoundIdentity(certificate=path)
