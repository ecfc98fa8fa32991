"""The auth server's configuration: built-in defaults < file < ``MEZITE_*``."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from msgspec import Struct

from mezite.config import database, paths
from mezite.config.database import DatabaseConfig
from mezite.config.files import read_small
from mezite.config.limits import limits_from
from mezite.config.reading import Section, read_yaml, split_address
from mezite.core.admission import Limits
from mezite.core.duration import format_duration
from mezite.core.model import check_login, check_name, host_port
from mezite.discreet import Discreet
from mezite.errors import InvalidInput, UsageError

DEFAULT_PORT = 3025
MIN_AUDIT_KEEP = timedelta(days=7)
MAX_AUDIT_KEEP = timedelta(days=36_500)
"""The calendar has to reach back as far."""
DEFAULT_PRUNING = timedelta(hours=1)
_PRUNING = (timedelta(seconds=1), timedelta(days=1))
STOP_GRACE = timedelta(seconds=5)
"""How long calls in flight may take when the server is told to stop."""
MAX_WORKERS = 60
MAX_PASSPHRASE = 1023
"""Bytes: OpenSSL takes no longer one."""
MAX_PASSPHRASE_FILE = 4096

_TOP = ("cluster_name", "data_dir", "database", "auth", "ssh", "diag", "audit", "retention", "limits", "log",
        "ca_key_passphrase", "ca_key_passphrase_file")
_AUTH_KEYS = ("listen_addr", "public_addr", "admin_socket", "admin_group", "tls", "workers")
_SSH_KEYS = ("enabled", "listen_addr", "node_name", "host_names", "labels", "authorization",
             "authorized_principals_file", "trusted_user_ca_keys", "revoked_keys", "exec", "run_as",
             "sftp_server", "end_sessions_at_expiry", "public_addr")

_ENVIRONMENT = {
    "MEZITE_CLUSTER_NAME": ("cluster_name",),
    "MEZITE_DATA_DIR": ("data_dir",),
    "MEZITE_CA_KEY_PASSPHRASE": ("ca_key_passphrase",),
    "MEZITE_CA_KEY_PASSPHRASE_FILE": ("ca_key_passphrase_file",),
    "MEZITE_AUTH_LISTEN_ADDR": ("auth", "listen_addr"),
    "MEZITE_AUTH_PUBLIC_ADDR": ("auth", "public_addr"),
    "MEZITE_AUTH_ADMIN_SOCKET": ("auth", "admin_socket"),
    "MEZITE_AUTH_WORKERS": ("auth", "workers"),
    "MEZITE_LOG_LEVEL": ("log", "level"),
    "MEZITE_LOG_FORMAT": ("log", "format"),
    **database.ENVIRONMENT,
}


class SshConfig(Struct, frozen=True):
    """The internal Conch node."""

    listen_host: str
    listen_port: int
    node_name: str
    host_names: tuple[str, ...]
    labels: Mapping[str, str]
    authorization: str
    authorized_principals_file: str | None
    trusted_user_ca_keys: tuple[Path, ...]
    revoked_keys: tuple[Path, ...]
    exec: str
    run_as: str | None
    sftp_server: str | None
    end_sessions_at_expiry: bool
    public_addr: str
    """Where `msh` and ssh_config find the node."""


class ServerConfig(Discreet, frozen=True):
    hidden = ("ca_key_passphrase",)

    cluster_name: str
    data_dir: Path
    database: DatabaseConfig
    listen_host: str
    listen_port: int
    public_addrs: tuple[str, ...]
    """This server's own address, and behind it those of others on the same database."""
    workers: int
    """Processes that serve machines; 1: the server's own."""
    admin_socket: Path
    admin_group: str | None
    tls_certificate: Path | None
    tls_key: Path | None
    ssh: SshConfig | None
    diag: tuple[str, int] | None
    """Host and port of the diagnostics; ``None``: nowhere."""
    audit_keep: timedelta | None
    """How long audit events are kept; ``None``: for ever."""
    prune_every: timedelta
    """How often what is over is looked for and forgotten."""
    limits: Limits
    log_level: str
    log_format: str
    ca_key_passphrase: bytes | None = None

    @property
    def public_host(self) -> str:
        """What TLS names this server by."""
        return split_address(self.public_addrs[0])[0]

    @classmethod
    def load(cls, path: Path | None, environ: Mapping[str, str], uid: int) -> ServerConfig:
        """The configuration in *path*, or in the default file if there is one,
        with what ``MEZITE_*`` variables set.  Raises :class:`UsageError`."""
        if path is None:
            path = existing(paths.SERVER_CONFIG)
        document = read_yaml(path) if path else None
        source = str(path) if path else "configuration"
        top = Section.from_value(document, source)
        for name, keys in _ENVIRONMENT.items():
            if environ.get(name):
                values = top.values
                for key in keys[:-1]:
                    inner = values.get(key) or {}
                    if not isinstance(inner, dict):
                        raise UsageError(f"{source}: {key}: expected a mapping of keys")
                    values[key] = values = dict(inner)
                values[keys[-1]] = environ[name]
        return cls.from_section(top, environ, uid)

    @classmethod
    def from_section(cls, top: Section, environ: Mapping[str, str], uid: int) -> ServerConfig:
        top.known(_TOP)
        diag = top.section("diag")
        diag.known(("listen_addr",))
        diag_address = diag.address("listen_addr")
        audit = top.section("audit")
        audit.known(("keep",))
        log = top.section("log")
        log.known(("level", "format"))
        auth = top.section("auth")
        auth.known(_AUTH_KEYS)
        tls = auth.section("tls")
        tls.known(("certificate", "key"))
        certificate, key = tls.text("certificate"), tls.text("key")
        if (certificate is None) != (key is None):
            raise tls.fault("key" if key is None else "certificate", "missing; both or none are set")
        host_name = socket.gethostname()
        data_dir = _place(top, "data_dir", paths.data_dir(environ, uid))
        listen = auth.address("listen_addr", f"0.0.0.0:{DEFAULT_PORT}") or ""
        listen_host, listen_port = split_address(listen)
        default_socket = paths.admin_sockets(environ, uid)[0] if uid == 0 else data_dir / "admin.sock"
        return cls(
            cluster_name=_named(top, "cluster_name", host_name),
            data_dir=data_dir,
            database=DatabaseConfig.from_section(top.section("database")),
            listen_host=listen_host,
            listen_port=listen_port,
            public_addrs=auth.addresses("public_addr") or (_reachable(listen_host, listen_port, host_name),),
            workers=auth.number("workers", 1, MAX_WORKERS, 1),
            admin_socket=_place(auth, "admin_socket", default_socket),
            admin_group=auth.text("admin_group"),
            tls_certificate=Path(certificate) if certificate else None,
            tls_key=Path(key) if key else None,
            ssh=_ssh(top.section("ssh"), host_name),
            diag=split_address(diag_address) if diag_address else None,
            audit_keep=_audit_keep(audit),
            prune_every=_prune_every(top.section("retention")),
            limits=limits_from(top.section("limits")),
            log_level=log.choice("level", ("debug", "info", "warn", "error"), "info"),
            log_format=log.choice("format", ("text", "json"), "text"),
            ca_key_passphrase=_passphrase(top),
        )


def existing(path: Path) -> Path | None:
    """*path*, where a file is there; one that this account may not look at is not taken for missing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; let this account read it, or name another file with --config"
        ) from None
    return path


def _place(section: Section, key: str, default: Path) -> Path:
    try:
        return paths.expanded(section.text(key) or str(default)).absolute()
    except UsageError as error:
        raise section.fault(key, str(error)) from None


def _reachable(listen_host: str, port: int, host_name: str) -> str:
    """What to print for clients: the host's name where we listen on every address."""
    host = host_name if listen_host in ("0.0.0.0", "::") else listen_host
    return host_port(host, port)


def _audit_keep(audit: Section) -> timedelta | None:
    keep = audit.duration("keep")
    if keep is not None and keep < MIN_AUDIT_KEEP:
        raise audit.fault("keep", f"at least {format_duration(MIN_AUDIT_KEEP)}, to outlive what it tells of")
    if keep is not None and keep > MAX_AUDIT_KEEP:
        raise audit.fault("keep", f"at most {format_duration(MAX_AUDIT_KEEP)}; leave it out for ever")
    return keep


def _prune_every(retention: Section) -> timedelta:
    retention.known(("prune_every",))
    every = retention.duration("prune_every") or DEFAULT_PRUNING
    least, most = _PRUNING
    if not least <= every <= most:
        raise retention.fault("prune_every", f"from {format_duration(least)} to {format_duration(most)}")
    return every


def _named(section: Section, key: str, default: str) -> str:
    try:
        return check_name(section.text(key, default))
    except InvalidInput as error:
        raise section.fault(key, str(error)) from None


def _passphrase(top: Section) -> bytes | None:
    text, file = top.secret("ca_key_passphrase"), top.text("ca_key_passphrase_file")
    if text and file:
        raise top.fault("ca_key_passphrase_file", "set this or ca_key_passphrase, not both")
    key, read = "ca_key_passphrase", (text or "").encode()
    if file:
        key = "ca_key_passphrase_file"
        try:
            read = read_small(Path(file), MAX_PASSPHRASE_FILE).strip()
        except OSError as error:
            raise top.fault(key, f"{file}: {error.strerror}") from None
        if not read:
            raise top.fault(key, f"{file} is empty")
    if len(read) > MAX_PASSPHRASE:
        raise top.fault(key, f"the passphrase is longer than {MAX_PASSPHRASE} bytes")
    return read or None


def _ssh(ssh: Section, host_name: str) -> SshConfig | None:
    ssh.known(_SSH_KEYS)
    if not ssh.boolean("enabled", False):
        return None
    listen_host, listen_port = split_address(ssh.address("listen_addr", "127.0.0.1:3022") or "")
    node_name = _named(ssh, "node_name", host_name)
    labels = ssh.section("labels").values
    for key, value in labels.items():
        if not isinstance(value, str) or not value:
            raise ssh.fault(f"labels.{key}", f"expected a text, found {value!r}; quote it")
    run_as = ssh.text("run_as")
    if run_as is not None:
        try:
            check_login(run_as)
        except InvalidInput as error:
            raise ssh.fault("run_as", str(error)) from None
    sftp_server = ssh.text("sftp_server")
    if sftp_server is not None and not Path(sftp_server).is_absolute():
        raise ssh.fault("sftp_server", "expected an absolute path, such as /usr/lib/openssh/sftp-server")
    default_names = (node_name, host_name, *(() if listen_host in ("0.0.0.0", "::") else (listen_host,)))
    return SshConfig(
        listen_host=listen_host,
        listen_port=listen_port,
        node_name=node_name,
        host_names=tuple(dict.fromkeys((node_name, *ssh.texts("host_names", default_names)))),
        labels=labels,
        authorization=ssh.choice("authorization", ("rbac", "principals"), "rbac"),
        authorized_principals_file=_principals_file(ssh),
        trusted_user_ca_keys=tuple(Path(path) for path in ssh.texts("trusted_user_ca_keys")),
        revoked_keys=_absolute(ssh, "revoked_keys"),
        exec=ssh.choice("exec", ("builtin", "system"), "builtin"),
        run_as=run_as,
        sftp_server=sftp_server,
        end_sessions_at_expiry=ssh.boolean("end_sessions_at_expiry", False),
        public_addr=ssh.address("public_addr") or _reachable(listen_host, listen_port, host_name),
    )


def _absolute(section: Section, key: str) -> tuple[Path, ...]:
    paths = tuple(Path(path) for path in section.texts(key))
    for path in paths:
        if not path.is_absolute():
            raise section.fault(key, f"expected absolute paths, found {path}")
    return paths


def _principals_file(ssh: Section) -> str | None:
    pattern = ssh.text("authorized_principals_file")
    if pattern is None:
        return None
    if ssh.text("authorization") != "principals":
        raise ssh.fault("authorized_principals_file", "only with authorization: principals")
    tokens = pattern.replace("%%", "").split("%")[1:]
    if not Path(pattern).is_absolute() or not all(token.startswith("u") for token in tokens):
        why = "expected an absolute path, with %u for the login and %% for a percent sign"
        raise ssh.fault("authorized_principals_file", why)
    return pattern
