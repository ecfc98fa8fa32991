"""The daemon's settings: flags over environment over a file over defaults."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mezite.config import paths
from mezite.config.outputs import (
    EXTRA_KEYS,
    FIRST,
    KINDS,
    NO_EXTRAS,
    Extras,
    OutputConfig,
    extras_from,
    further_from,
    kinds_from,
)
from mezite.config.token import STDIN, TokenSource
from mezite.core.duration import format_duration, parse_duration
from mezite.core.lifetime import MIN_INTERVAL
from mezite.core.model import MIN_CERTIFICATE_TTL
from mezite.core.request import MAX_WISH
from mezite.discreet import Discreet
from mezite.errors import InvalidInput, UsageError

DEFAULT_PORT = 3025
SYSTEM_CAS = "system"
"""``--ca-file=system``: the publicly trusted CAs of this machine."""
LOG_FORMATS = ("text", "json")

KEYS = (
    "auth-server",
    "join-token",
    "join-token-file",
    "destination",
    "renewal-interval",
    "certificate-ttl",
    "one-shot",
    "outputs",
    "ca-pin",
    "ca-file",
    "control-socket",
    "diag-addr",
    "log-format",
)
FILE_KEYS = ("destinations", *EXTRA_KEYS)
"""Not to be had by flags or in the environment."""
_ALIASES = {"token": "join-token"}
_ALTERNATIVES = (("join-token", "join-token-file"), ("ca-pin", "ca-file"))
"""Of these a higher layer's one sets aside a lower layer's other one."""
_PIN = re.compile(r"[0-9a-f]{32}")
_V6_AND_PORT = re.compile(r"\[(.+)\](?::(\d{1,5}))?")
_NAME_AND_PORT = re.compile(r"([^\s:/\"'\[\]]+)(?::(\d{1,5}))?")


class DaemonConfig(Struct, frozen=True):
    destination: Path
    """Absolute."""
    auth_servers: tuple[tuple[str, int], ...] = ()
    """Host and port of each; none: those that the state on disk remembers."""
    token: TokenSource | None = None
    renewal_interval: timedelta | None = None
    certificate_ttl: timedelta | None = None
    one_shot: bool = False
    outputs: tuple[str, ...] = KINDS[:1]
    """Of the first output."""
    extras: Extras = NO_EXTRAS
    """Of the first output."""
    further: tuple[OutputConfig, ...] = ()
    ca_pin: str | None = None
    ca_file: Path | None = None
    ca_system: bool = False
    control_socket: Path | None = None
    """``None``: ``.mezite/control.sock`` in the destination."""
    diag: tuple[str, int] | None = None
    """Host and port for diagnostics; ``None``: nowhere."""
    log_format: str = LOG_FORMATS[0]
    of_program: bool = False
    """A program's own: keywords in the place of flags."""

    def called(self, key: str) -> str:
        """The setting *key* as its reader writes it: ``--ca-file``, or in a program ``ca_file``."""
        return key.replace("-", "_") if self.of_program else f"--{key}"

    def all_outputs(self) -> tuple[OutputConfig, ...]:
        """The first one, whose TTL is the daemon's, and the further ones."""
        return (OutputConfig(FIRST, self.destination, self.outputs, None, self.extras), *self.further)


class _Setting(Discreet, frozen=True):
    hidden = ("value",)

    value: Any
    name: str
    """As the person wrote it: ``--ca-pin``, ``MEZITE_CA_PIN``, ``FILE: ca-pin``."""

    def fault(self, problem: str) -> UsageError:
        return UsageError(f"{self.name}: {problem}")

    def text(self) -> str:
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            raise self.fault(f"expected a text, found the number {self.value}; put it in quotes")
        if not isinstance(self.value, str) or not self.value or "\0" in self.value:
            raise self.fault("expected a text that is not empty")
        return self.value

    def path(self) -> Path:
        try:
            return paths.expanded(self.text())
        except UsageError as error:
            raise self.fault(str(error)) from None


def load(flags: Mapping[str, Any], environ: Mapping[str, str], uid: int) -> DaemonConfig:
    """The settings that *flags* (``config`` among them; ``None`` where not given) and
    *environ* make; raises :class:`UsageError`."""
    settings: dict[str, _Setting] = {}
    file = flags.get("config") or environ.get("MEZITE_CONFIG")
    if file:
        _overlay(settings, _from_file(paths.expanded(file)))
    _overlay(settings, _from_environment(environ))
    _overlay(settings, _from_flags(flags))
    return _config(settings, environ, uid)


def from_keywords(keywords: Mapping[str, Any]) -> DaemonConfig:
    """The same for a program: names as those of the flags, with ``_``, ``None`` where not given.

    Faults name the keyword.  Nothing else is looked at, no environment and no file.
    """
    settings: dict[str, _Setting] = {}
    given = {name: value for name, value in keywords.items() if value is not None}
    _overlay(settings, {name.replace("_", "-"): _Setting(value, name) for name, value in given.items()})
    return replace(_config(settings, {}, 0), of_program=True)


def _overlay(settings: dict[str, _Setting], layer: Mapping[str, _Setting]) -> None:
    for first, second in _ALTERNATIVES:
        if first in layer and second in layer:
            raise layer[second].fault(f"given together with {layer[first].name}; give one of them")
        if first in layer or second in layer:
            settings.pop(first, None)
            settings.pop(second, None)
    settings.update(layer)


def _from_flags(flags: Mapping[str, Any]) -> dict[str, _Setting]:
    names = {flag.replace("_", "-"): value for flag, value in flags.items()}
    return {key: _Setting(names[key], f"--{key}") for key in KEYS if names.get(key) is not None}


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Setting]:
    """An empty variable counts as none: so do CI systems pass on what is not set."""
    found: dict[str, _Setting] = {}
    for key in (*KEYS, *_ALIASES):
        name = "MEZITE_" + key.upper().replace("-", "_")
        if environ.get(name):
            target = _ALIASES.get(key, key)
            if target in found:
                raise UsageError(f"{name}: given together with {found[target].name}; give one of them")
            found[target] = _Setting(environ[name], name)
    return found


def _from_file(path: Path) -> dict[str, _Setting]:
    from mezite.config.reading import Section, read_yaml  # YAML takes time to load, and is seldom needed

    section = Section.from_value(read_yaml(path), str(path))
    found: dict[str, _Setting] = {}
    for written in section.values:
        key = written.replace("_", "-")
        key = _ALIASES.get(key, key)
        if key not in (*KEYS, *FILE_KEYS):
            known = (*KEYS, *FILE_KEYS)
            section.known(known, also=[name.replace("-", "_") for name in known])
        if key in found:
            raise section.fault(written, f"given together with {found[key].name}; give one of them")
        if section.values[written] is not None:
            found[key] = _Setting(section.values[written], f"{path}: {written}")
    return found


def _config(settings: Mapping[str, _Setting], environ: Mapping[str, str], uid: int) -> DaemonConfig:
    interval = _duration(settings, "renewal-interval", MIN_INTERVAL)
    ttl = _duration(settings, "certificate-ttl", MIN_CERTIFICATE_TTL)
    if interval is not None and ttl is not None and interval >= ttl:
        raise settings["renewal-interval"].fault(
            f"the renewal interval {format_duration(interval)} is not shorter than the certificate's "
            f"TTL {format_duration(ttl)}; choose a shorter one"
        )
    ca_file = settings.get("ca-file")
    ca_system = ca_file is not None and ca_file.value == SYSTEM_CAS
    destination = settings.get("destination")
    where = destination.path() if destination else paths.identity_dir(environ, uid)
    one_shot = _boolean(settings.get("one-shot"))
    outputs = KINDS[:1]
    if "outputs" in settings:
        outputs = kinds_from(settings["outputs"].value, settings["outputs"].fault)

    def fault(key: str, problem: str) -> UsageError:
        return settings[key].fault(problem)

    extras = extras_from({key: settings[key].value for key in EXTRA_KEYS if key in settings}, fault)
    further: tuple[OutputConfig, ...] = ()
    if "destinations" in settings:
        named = settings["destinations"]
        further = further_from(named.value, named.name, where.absolute())
    if one_shot:
        _fit_for_one_shot(settings, (OutputConfig(FIRST, where, outputs, None, extras), *further))
    for one in further:
        if interval is not None and one.ttl is not None and interval >= one.ttl:
            raise settings["renewal-interval"].fault(
                f"the renewal interval {format_duration(interval)} is not shorter than the TTL "
                f"{format_duration(one.ttl)} of the output {one.name}; choose a shorter one"
            )
    return DaemonConfig(
        destination=where.absolute(),
        auth_servers=_addresses(settings.get("auth-server")),
        token=_token(settings),
        renewal_interval=interval,
        certificate_ttl=ttl,
        one_shot=one_shot,
        outputs=outputs,
        extras=extras,
        further=further,
        ca_pin=_pin(settings.get("ca-pin")),
        ca_file=ca_file.path() if ca_file and not ca_system else None,
        ca_system=ca_system,
        control_socket=settings["control-socket"].path().absolute() if "control-socket" in settings else None,
        diag=_diag(settings.get("diag-addr")),
        log_format=_log_format(settings.get("log-format")),
    )


def _fit_for_one_shot(settings: Mapping[str, _Setting], outputs: tuple[OutputConfig, ...]) -> None:
    """An agent and a hook need a process that goes on."""
    for key, is_given in (
        ("outputs", any("agent" in one.kinds for one in outputs)),
        ("on-renew", any(one.extras.on_renew for one in outputs)),
    ):
        if is_given:
            named = settings.get(key) or settings["destinations"]
            raise named.fault(
                "an agent ends with its process, and a one-shot run is over at once; use files"
                if key == "outputs"
                else "a one-shot run is over at once: run the commands after it"
            )


def _duration(settings: Mapping[str, _Setting], key: str, least: timedelta) -> timedelta | None:
    """Within what a request can say: a server does not even understand more."""
    setting = settings.get(key)
    if setting is None:
        return None
    try:
        duration = parse_duration(setting.value)
    except InvalidInput as error:
        raise setting.fault(str(error)) from None
    if not least <= duration <= MAX_WISH:
        raise setting.fault(
            f"{format_duration(duration)} is out of bounds; at least {format_duration(least)}, "
            f"at most {format_duration(MAX_WISH)}"
        )
    return duration


def _addresses(setting: _Setting | None) -> tuple[tuple[str, int], ...]:
    """One, or several as a list or separated by commas."""
    if setting is None:
        return ()
    parts = setting.value if isinstance(setting.value, list) and setting.value else setting.text().split(",")
    if not all(isinstance(part, str) for part in parts):
        raise setting.fault("expected addresses, each host:port")
    try:
        found = tuple(dict.fromkeys(split_address(part.strip()) for part in parts))
    except InvalidInput as error:
        raise setting.fault(str(error)) from None
    if any(port == 0 for _, port in found):
        raise setting.fault("no server listens on port 0; write host:port")
    return found


def _diag(setting: _Setting | None) -> tuple[str, int] | None:
    """Host and port, both named: there is no usual port for it; 0 takes any."""
    if setting is None:
        return None
    text = setting.text()
    match = _V6_AND_PORT.fullmatch(text) or _NAME_AND_PORT.fullmatch(text)
    if match is None or match[2] is None:
        raise setting.fault(f"{text!r} is not host:port; write one such as 127.0.0.1:3082")
    try:
        return split_address(text)
    except InvalidInput as error:
        raise setting.fault(str(error)) from None


def _log_format(setting: _Setting | None) -> str:
    if setting is None:
        return LOG_FORMATS[0]
    if setting.value not in LOG_FORMATS:
        raise setting.fault(f"expected {' or '.join(LOG_FORMATS)}, found {setting.value!r}")
    return setting.text()


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``v6`` or ``[v6]:port``; the port is 3025 by default."""
    if _is_v6(text):
        return text, DEFAULT_PORT
    match = _V6_AND_PORT.fullmatch(text)
    if match is None or not _is_v6(match[1]):
        match = _NAME_AND_PORT.fullmatch(text)
    host = _in_ascii(match[1]) if match is not None else None
    if match is None or host is None or int(match[2] or DEFAULT_PORT) > 65535:
        raise InvalidInput(f"{text!r} is not an address; write host:port, such as auth.example.com:3025")
    return host, int(match[2] or DEFAULT_PORT)


def _in_ascii(host: str) -> str | None:
    """As DNS has it: gRPC does not translate names of other alphabets (RFC 3490)."""
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return None


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _token(settings: Mapping[str, _Setting]) -> TokenSource | None:
    if "join-token-file" in settings:
        setting = settings["join-token-file"]
        if setting.text() == STDIN:
            return TokenSource(text=STDIN, name=setting.name)
        return TokenSource(file=setting.path().absolute(), name=setting.name)
    if "join-token" in settings:
        setting = settings["join-token"]
        if not isinstance(setting.value, str):
            raise setting.fault("expected a text")
        return TokenSource(text=setting.value, name=setting.name)
    return None


def _boolean(setting: _Setting | None) -> bool:
    if setting is None:
        return False
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    found = known.get(str(setting.value).lower())
    if found is None:
        raise setting.fault(f"expected true or false, found {setting.value!r}")
    return found


def _pin(setting: _Setting | None) -> str | None:
    if setting is None:
        return None
    if not _PIN.fullmatch(setting.text()):
        raise setting.fault("expected 32 lower-case hex digits, as the last part of a join token")
    return setting.text()
