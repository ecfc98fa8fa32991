"""What the daemon publishes, and where: settings of one output, and of several."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from mezite.config.paths import expanded
from mezite.core.duration import format_duration, parse_duration
from mezite.core.model import MIN_CERTIFICATE_TTL
from mezite.core.request import MAX_WISH
from mezite.errors import InvalidInput, UsageError

KINDS: tuple[str, ...] = ("files", "agent")
"""The first one is the default."""
FIRST = "default"
"""The name of the output that every daemon has."""
EXTRA_KEYS = ("roles", "owner", "group", "mode", "on-renew", "on-renew-timeout")
"""Of the configuration file only, for the first output; the further ones have them, too."""
OUTPUT_KEYS = ("name", "destination", "outputs", "certificate-ttl", *EXTRA_KEYS)
MAX_OUTPUTS = 8
MAX_COMMANDS = 16
DEFAULT_TIMEOUT = timedelta(seconds=60)
MAX_TIMEOUT = timedelta(hours=1)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_MODE = re.compile(r"0?[0-7]{3}")

Fault = Callable[[str, str], UsageError]
"""A key, and what is wrong with it."""


class Extras(Struct, frozen=True):
    """What an output can have besides its place."""

    roles: tuple[str, ...] | None = None
    """``None``: all that the bot has."""
    owner: str | None = None
    group: str | None = None
    mode: int | None = None
    """Of the private key; ``None``: 0600, or 0640 with a group."""
    on_renew: tuple[tuple[str, ...], ...] = ()
    on_renew_timeout: timedelta = DEFAULT_TIMEOUT


NO_EXTRAS = Extras()


class OutputConfig(Struct, frozen=True):
    name: str
    destination: Path
    """Absolute."""
    kinds: tuple[str, ...] = KINDS[:1]
    ttl: timedelta | None = None
    extras: Extras = NO_EXTRAS


def extras_from(values: Mapping[str, Any], fault: Fault) -> Extras:
    """*values*: those of :data:`EXTRA_KEYS` that were given."""

    def texts(key: str) -> tuple[str, ...] | None:
        value = values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(map(_is_name, value)):
            raise fault(key, f"expected a list of names that is not empty, found {value!r}")
        return tuple(dict.fromkeys(value))

    def text(key: str) -> str | None:
        value = values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise fault(key, f"expected a text, found {value!r}")
        return value

    return Extras(
        roles=texts("roles"),
        owner=text("owner"),
        group=text("group"),
        mode=_mode(values.get("mode"), fault),
        on_renew=_commands(values.get("on-renew"), fault),
        on_renew_timeout=_duration(values, "on-renew-timeout", fault, timedelta(seconds=1), MAX_TIMEOUT)
        or DEFAULT_TIMEOUT,
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _mode(value: object, fault: Fault) -> int | None:
    if value is None:
        return None
    # YAML reads 0640 as a number in base 8, and "0640" as a text.
    text = f"{value:o}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _MODE.fullmatch(text):
        raise fault("mode", f'expected a mode such as "0640", found {value!r}')
    mode = int(text, 8)
    if mode & 0o137 or not mode & 0o400:
        raise fault(
            "mode", f"{mode:04o} is no mode for a private key: its owner reads it, a group at most reads it"
        )
    return mode


def _commands(value: object, fault: Fault) -> tuple[tuple[str, ...], ...]:
    if value is None:
        return ()
    form = 'expected a list of commands, each a list of words: [["systemctl", "reload", "nginx"]]'
    if not isinstance(value, list) or len(value) > MAX_COMMANDS:
        raise fault("on-renew", form)
    for words in value:
        if not isinstance(words, list) or not words:
            raise fault("on-renew", form)
        for word in words:
            if not isinstance(word, str) or "\0" in word:
                raise fault("on-renew", f"{form}; {word!r} is no text")
        if not Path(words[0]).is_absolute():
            raise fault("on-renew", f"{words[0]!r}: name the program by its whole path")
    return tuple(tuple(words) for words in value)


def _duration(
    values: Mapping[str, Any], key: str, fault: Fault, least: timedelta, most: timedelta
) -> timedelta | None:
    if values.get(key) is None:
        return None
    try:
        duration = parse_duration(values[key])
    except InvalidInput as error:
        raise fault(key, str(error)) from None
    if not least <= duration <= most:
        raise fault(key, f"from {format_duration(least)} to {format_duration(most)}")
    return duration


def kinds_from(value: object, fault: Callable[[str], UsageError]) -> tuple[str, ...]:
    """The kinds in a list, or in a text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise fault(f"expected outputs separated by commas, of {', '.join(KINDS)}")
    chosen = tuple(dict.fromkeys(name.strip() for name in names))
    for name in chosen:
        if name not in KINDS:
            raise fault(f"unknown output {name!r}; there are {', '.join(KINDS)}")
    return chosen


def further_from(value: object, source: str, first: Path) -> tuple[OutputConfig, ...]:
    """The further outputs: *value* is a list of mappings, *source* names it in errors."""
    if not isinstance(value, list) or len(value) >= MAX_OUTPUTS:
        raise UsageError(f"{source}: expected a list of at most {MAX_OUTPUTS - 1} further outputs")
    found = tuple(_further(one, f"{source}[{index}]") for index, one in enumerate(value))
    _check_apart(found, source, first)
    return found


def _further(value: object, source: str) -> OutputConfig:
    from mezite.config.reading import Section  # YAML takes time to load, and a file is seldom needed

    if not isinstance(value, Mapping):
        raise UsageError(f"{source}: expected a name and a destination, found {value!r}")
    section = Section.from_value(value, source)
    section.values = {key.replace("_", "-"): one for key, one in section.values.items()}
    section.known(OUTPUT_KEYS)

    def fault(key: str, problem: str) -> UsageError:
        return section.fault(key, problem)

    name, place = section.text("name"), section.text("destination")
    if name is None or not _NAME.fullmatch(name) or name == FIRST:
        raise fault("name", f"expected 1 to 32 letters, digits, '-' or '_', and not {FIRST!r}")
    if place is None:
        raise fault("destination", "expected a directory")
    kinds = KINDS[:1]
    if section.values.get("outputs") is not None:
        kinds = kinds_from(section.values["outputs"], lambda problem: fault("outputs", problem))
    return OutputConfig(
        name=name,
        destination=_path(place, fault),
        kinds=kinds,
        ttl=_duration(section.values, "certificate-ttl", fault, MIN_CERTIFICATE_TTL, MAX_WISH),
        extras=extras_from({key: section.values.get(key) for key in EXTRA_KEYS}, fault),
    )


def _path(text: str, fault: Fault) -> Path:
    try:
        return expanded(text).absolute()
    except UsageError as error:
        raise fault("destination", str(error)) from None


def _check_apart(found: Sequence[OutputConfig], source: str, first: Path) -> None:
    names = [one.name for one in found]
    for index, one in enumerate(found):
        if one.name in names[:index]:
            raise UsageError(f"{source}[{index}]: name: {one.name} stands twice")
        for other in (first, *(before.destination for before in found[:index])):
            here, there = _real(one.destination), _real(other)
            if here in (there, *there.parents) or there in here.parents:
                raise UsageError(
                    f"{source}[{index}]: destination: {one.destination} and {other} lie in each other; "
                    "give each output a directory of its own"
                )


def _real(place: Path) -> Path:
    """Where it leads to, by whatever links."""
    return Path(os.path.realpath(place))
