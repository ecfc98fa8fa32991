"""Configuration files, strictly read: every fault names the file, the key and the way out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from mezite.core.duration import parse_duration
from mezite.errors import InvalidInput, UsageError, did_you_mean

MAX_FILE = 1024 * 1024
MAX_DEPTH = 20
"""Levels of a document; ours have five."""
MAX_VALUES = 100_000
"""Values in a document, with its aliases written out."""


class _StrictLoader(yaml.SafeLoader):
    """YAML as JSON would have it: a key twice in one mapping is an error."""


def _mapping_without_repeats(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        problem = ""
        if not isinstance(key, Hashable):
            problem = "a list or mapping is no key; quote it"
        elif key in seen:
            problem = f"the key {key!r} stands twice"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


class _Odd:
    """A number that is written in another form than its plain one: YAML reads 0123 as 83, and 22:22 as
    1342.  As a file's mode that is meant so; of a text, as a password, something else was meant."""


class _OddInt(_Odd, int): ...


class _OddFloat(_Odd, float): ...


def _number(loader: _StrictLoader, node: yaml.ScalarNode) -> int | float:
    if node.tag.endswith(":int"):
        whole = int(loader.construct_yaml_int(node))
        return whole if str(whole) == node.value else _OddInt(whole)
    found = float(loader.construct_yaml_float(node))
    return found if str(found) == node.value else _OddFloat(found)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _number)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _number)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def parse_yaml(text: bytes, source: str) -> Any:
    """The one document in *text*; a :class:`UsageError` names *source* and the line."""
    if len(text) > MAX_FILE:
        raise UsageError(f"{source}: larger than 1 MiB; that is no configuration")
    try:
        document = yaml.load(text.decode("utf-8"), Loader=_StrictLoader)  # one made from SafeLoader
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        is_text = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
        told = f"{'not YAML: ' if is_text else ''}{_problem(error)}"
        raise UsageError(f"{source}: {where}: {told}") from None
    except RecursionError:
        raise _too_deep(source) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{source}: not YAML: {' '.join(str(error).split())[:200]}") from None
    _check_values(document, source)
    return document


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without what stands there: it may be a password that was not quoted."""
    problem = str(error.problem or error.context)
    for about, meant in (("undefined alias", "*"), ("constructor for the tag", "!")):
        if about in problem:
            return f"quote a text that begins with {meant}"
    return problem


def _check_values(document: object, source: str) -> None:
    """Bounded in depth and breadth with every alias written out: whoever walks
    through it, or shows a part of it in a message, comes to an end.  And every
    text can be a file's name, or stand in a request."""
    level, count = [document], 1
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                below += value
            elif isinstance(value, str) and (half := _half_character(value)):
                raise UsageError(f"{source}: a text holds half a character, {half}; write the whole one")
            if count + len(below) > MAX_VALUES:
                raise UsageError(
                    f"{source}: more than {MAX_VALUES} values, aliases written out; that is no configuration"
                )
        if not below:
            return
        level, count = below, count + len(below)
    raise _too_deep(source)


def _half_character(text: str) -> str:
    """The first part of it that is one of a pair and stands alone, which YAML's escapes can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return ascii(text[error.start])[1:-1]
    return ""


def _too_deep(source: str) -> UsageError:
    return UsageError(f"{source}: nested deeper than {MAX_DEPTH} levels; that is no configuration")


def read_yaml(path: Path) -> Any:
    """The document in the file at *path*."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a readable file") from None
    return parse_yaml(text, str(path))


class Section(Struct):
    """One mapping of a configuration; ``close`` refuses the keys nobody asked for."""

    values: dict[str, Any]
    source: str
    path: str = ""

    @classmethod
    def from_value(cls, value: object, source: str, path: str = "") -> Section:
        if value is None:
            value = {}
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UsageError(f"{source}: {path or 'the file'}: expected a mapping of keys")
        return cls(dict(value), source, path)

    def fault(self, key: str, problem: str) -> UsageError:
        return UsageError(f"{self.source}: {self._name(key)}: {problem}")

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def known(self, keys: Sequence[str], also: Sequence[str] = ()) -> None:
        """Raises for the first key that is not among *keys*, or *also* good, with the nearest one."""
        for key in self.values:
            if key not in keys and key not in also:
                hint = did_you_mean(key, keys, "known here", also)
                raise self.fault(key, f"unknown key; {hint}")

    def section(self, key: str) -> Section:
        return Section.from_value(self.values.get(key), self.source, self._name(key))

    def secret(self, key: str) -> str | None:
        """As :meth:`text`, and no fault shows it."""
        try:
            return self.text(key)
        except UsageError:
            raise self.fault(key, "expected a text; quote it") from None

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, _Odd):
            raise self.fault(key, "YAML reads another number here than it looks like; quote it")
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.fault(key, f"expected a text, found {value!r}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, f"expected true or false, found {value!r}")
        return value

    def number(self, key: str, least: int, most: int, default: int) -> int:
        found = self.values.get(key)
        if found is None:
            return default
        # Texts come from the environment; YAML's true is an int to Python.
        if isinstance(found, str) and found.isascii() and found.isdigit():
            found = int(found[:9])
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise self.fault(key, f"expected a number from {least} to {most}, found {found!r}")
        return found

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        value = self.values.get(key)
        if value is None:
            return tuple(default)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.fault(key, f"expected a list of texts, found {value!r}")
        return tuple(value)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.text(key) or default
        if value not in choices:
            raise self.fault(key, f"expected one of {', '.join(choices)}, found {value!r}")
        return value

    def duration(self, key: str, default: timedelta | None = None) -> timedelta | None:
        value = self.values.get(key)
        if value is None:
            return default
        try:
            return parse_duration(value)
        except InvalidInput as error:
            raise self.fault(key, str(error)) from None

    def address(self, key: str, default: str | None = None) -> str | None:
        """``host:port``; IPv6 hosts in brackets."""
        value = self.text(key, default)
        if value is not None:
            try:
                split_address(value)
            except InvalidInput as error:
                raise self.fault(key, str(error)) from None
        return value


    def addresses(self, key: str) -> tuple[str, ...]:
        """One or several ``host:port``, as a list or separated by commas; empty where there is none."""
        value = self.values.get(key)
        if value is None:
            return ()
        parts = self.texts(key) if isinstance(value, list) else (self.text(key) or "").split(",")
        found = tuple(part.strip() for part in parts)
        if not found:
            raise self.fault(key, "an empty list names no server; leave the key out")
        for address in found:
            try:
                split_address(address)
            except InvalidInput as error:
                raise self.fault(key, str(error)) from None
        if len(set(found)) < len(found):
            raise self.fault(key, "an address stands twice")
        return found


def _can_be_looked_up(host: str) -> bool:
    if host.isascii():  # the codec would say the same, and is a megabyte that most never need
        return all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``; the port may be left out
    where there is a default.  Raises :class:`InvalidInput`."""
    host, colon, port_text = text.rpartition(":")
    portless = not colon or text.endswith("]") or (text.count(":") > 1 and not text.startswith("["))
    if portless and default_port is not None:
        host, port_text = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(char.isspace() or char in "/\"'" for char in host):
        raise InvalidInput(f"{text!r} is not an address; write host:port, such as auth.example.com:3025")
    if not _can_be_looked_up(host):
        raise InvalidInput(f"{host[:80]!r} is no host name that can be looked up")
    if not port_text.isascii() or not port_text.isdigit() or not 0 <= int(port_text[:9]) <= 65535:
        raise InvalidInput(f"{text!r} has no port from 0 to 65535; write host:port")
    return host, int(port_text)
