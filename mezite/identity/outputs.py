"""What an identity looks like as files: their bytes, for one place they will lie at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from mezite.certs import keys, ssh
from mezite.core.model import Node
from mezite.discreet import Discreet
from mezite.errors import UsageError
from mezite.identity.records import OUTPUT, Held, KeyPair

SSH_KEY = "ssh_key"
CERTIFICATE = "ssh_key-cert.pub"
KNOWN_HOSTS = "known_hosts"
SSH_CONFIG = "ssh_config"
NAMES = (SSH_KEY, CERTIFICATE, KNOWN_HOSTS, SSH_CONFIG)
"""The key's comes first; a set may lack it."""
FILES = "files"
AGENT = "agent"
KINDS = (FILES, AGENT)
AGENT_SOCKET = "agent.sock"

_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}|::[A-Fa-f0-9:]{0,40}")


class Form(Struct, frozen=True):
    """Which files a set has, and what its ssh_config says."""

    with_key: bool = True
    agent_socket: str | None = None
    """Where an agent holds the same certificate."""
    owner_id: int | None = None
    """Whose the files are; ``None``: this account's."""
    group_id: int | None = None
    """Whose group may reach them; ``None``: nobody else may."""
    key_mode: int = 0o600

    def names(self) -> tuple[str, ...]:
        return NAMES if self.with_key else NAMES[1:]


FILES_ONLY = Form()


class Outputs(Discreet, frozen=True):
    """One identity, to be published: as a set of files, by an agent, or both."""

    hidden = ("ssh_key",)

    ssh_key: bytes
    """An OpenSSH private key file; it has random parts, so two of one key differ."""
    key: KeyPair
    certificate: bytes
    """The line of the file."""
    certificate_blob: bytes
    comment: str
    known_hosts: bytes
    nodes: tuple[Node, ...]

    @classmethod
    def from_held(cls, held: Held, output: str = OUTPUT) -> Outputs:
        """Raises :class:`KeyError` where *held* has no key for *output*."""
        pairs = zip(held.keys.ssh, held.certificates, strict=True)
        found = {key.output: (key.pair, certificate) for key, certificate in pairs}
        pair, certificate = found[output]
        comment = f"{held.bot}/{held.instance_id}/{held.generation}"
        private = keys.private_from_pem(pair.private_pem, None)
        return cls(
            ssh_key=keys.private_to_openssh(private, comment),
            key=pair,
            certificate=ssh.certificate_line(certificate, comment).encode() + b"\n",
            certificate_blob=certificate,
            comment=comment,
            known_hosts=known_hosts(held.trust.host_cas),
            nodes=held.trust.nodes,
        )

    def files(self, directory: str, form: Form = FILES_ONLY) -> dict[str, tuple[bytes, int]]:
        """Name → content and mode of the files that lie in *directory*."""
        files = {
            SSH_KEY: (self.ssh_key, form.key_mode),
            CERTIFICATE: (self.certificate, 0o644),
            KNOWN_HOSTS: (self.known_hosts, 0o644),
            SSH_CONFIG: (ssh_config(directory, self.nodes, form), 0o644),
        }
        return {name: files[name] for name in form.names()}

    def are(self, found: Mapping[str, bytes], directory: str, form: Form = FILES_ONLY) -> bool:
        """Whether *found*, name → content in *directory*, says the same as these."""
        wanted = {name: content for name, (content, _) in self.files(directory, form).items()}
        if found.keys() != wanted.keys():
            return False
        if any(found[name] != wanted[name] for name in wanted if name != SSH_KEY):
            return False
        if not form.with_key:
            return True
        try:
            key = serialization.load_ssh_private_key(found[SSH_KEY], None)
        except (ValueError, UnsupportedAlgorithm):
            return False
        line = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return keys.parse_public_line(line.decode()) == self.key.public


def known_hosts(host_cas: Sequence[bytes]) -> bytes:
    """``@cert-authority`` lines (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): any host with their certificate."""
    return "".join(f"@cert-authority * {keys.public_line(blob)}\n" for blob in host_cas).encode()


def ssh_config(directory: str, nodes: Sequence[Node], form: Form = FILES_ONLY) -> bytes:
    """A configuration for ``ssh -F`` with the files in *directory*.

    The paths in it are those of one set, so that a key is never read beside
    the certificate of another.  ssh takes the first value it finds: the known
    nodes come before ``Host *``.  Nodes that ssh_config cannot express are left out.
    """
    quoted = config_path(directory)
    lines = ["# Written by mezd for one identity set; a renewal writes a new one."]
    for node in nodes:
        host, _, port = node.address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (_NODE_NAME.fullmatch(node.name) and _HOST.fullmatch(host) and _PORT.fullmatch(port)):
            continue
        lines += [
            f"Host {node.name}",
            f"    HostName {host}",
            f"    Port {port}",
            f"    HostKeyAlias {node.name}",
        ]
    lines.append("Host *")
    if form.agent_socket is not None:
        lines.append(f'    IdentityAgent "{config_path(form.agent_socket)}"')
    if form.with_key:
        lines += [
            f'    IdentityFile "{quoted}/{SSH_KEY}"',
            f'    CertificateFile "{quoted}/{CERTIFICATE}"',
            "    IdentitiesOnly yes",
        ]
    else:
        # What the agent lists is the only identity: it is always the newest.
        lines.append("    IdentityFile none")
    lines += [
        f'    UserKnownHostsFile "{quoted}/{KNOWN_HOSTS}"',
        "    StrictHostKeyChecking yes",
    ]
    return "\n".join(lines).encode() + b"\n"


def config_path(path: str) -> str:
    """*path* as it goes between double quotes in ssh_config, where ``%`` starts a token.

    Raises :class:`UsageError` for what ssh would read otherwise: quotes,
    backslashes, control characters, ``${``.
    """
    if any(char in '"\\' or not char.isprintable() for char in path) or "${" in path:
        raise UsageError(
            f"the destination {path!r} holds characters that ssh cannot take in a file name "
            "(quotes, backslashes, ${ or control characters); choose another one"
        )
    return path.replace("%", "%%")
