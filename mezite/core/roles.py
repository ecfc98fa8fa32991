"""Roles: what a document says of them, strictly read, and which nodes their labels match."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

from msgspec import Struct

from mezite.core.duration import format_duration, parse_duration
from mezite.core.model import MAX_PRINCIPALS, MIN_CERTIFICATE_TTL, check_login, check_name, shown
from mezite.errors import InvalidInput, did_you_mean

_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")

# --- documents -----------------------------------------------------------------------------


def _mapping(value: object, path: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"expected a mapping, found {shown(value)}", path)
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known, "known keys")
            raise InvalidInput(f"unknown key; {hint}", f"{path}.{key}" if path else str(key))
    return value


def _boolean(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"expected true or false, found {shown(value)}", path)
    return value


def _texts(value: object, path: str) -> tuple[str, ...]:
    """A text or a list of texts, never empty, without repeats."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise InvalidInput(f"expected a list of texts, found {shown(value)}", path)
    if not items:
        raise InvalidInput("an empty list means nothing here; name at least one or drop the key", path)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidInput(f"expected a text, found {shown(item)}; quote it", f"{path}[{index}]")
    return tuple(dict.fromkeys(items))


# --- labels --------------------------------------------------------------------------------


class LabelMatcher(Struct, frozen=True):
    """One label key and the values it may have, any of them.

    A value is exact, ``*`` for any value, or a regular expression if it starts
    with ``^`` and ends with ``$``.  The key ``*`` goes with the value ``*``
    only and matches every node, labelled or not.
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def from_item(cls, key: object, value: object, path: str) -> LabelMatcher:
        here = f"{path}.{key}"
        if key != "*" and (not isinstance(key, str) or not _LABEL_KEY.fullmatch(key)):
            raise InvalidInput(f"{shown(key)} is not a label key", path)
        values = _texts(value, here)
        if key == "*" and values != ("*",):
            raise InvalidInput('the key "*" takes the value "*" only, for every node', here)
        for text in values:
            if not text or len(text) > 256:
                raise InvalidInput("a label value has 1 to 256 characters", here)
            if _is_pattern(text):
                try:
                    re.compile(text)
                except re.error as error:
                    raise InvalidInput(f"bad regular expression {shown(text)}: {error}", here) from None
            elif "*" in text and text != "*":
                raise InvalidInput(
                    f'{shown(text)}: "*" stands alone; for a part of a value write a regular '
                    "expression that starts with ^ and ends with $",
                    here,
                )
        return cls(str(key), values)

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.key == "*":
            return True
        value = labels.get(self.key)
        if value is None:
            return False
        return (
            "*" in self.values
            or value in self.values
            or any(_pattern(one).fullmatch(value) for one in self.values if _is_pattern(one))
        )


def _is_pattern(value: str) -> bool:
    return len(value) >= 2 and value.startswith("^") and value.endswith("$")


_pattern = lru_cache(maxsize=1024)(re.compile)


# --- roles ---------------------------------------------------------------------------------


class Rules(Struct, frozen=True):
    """One side of a role: the nodes and the logins it speaks of.

    No matchers means *no* nodes, no logins means *no* logins.
    """

    node_labels: tuple[LabelMatcher, ...] = ()
    logins: tuple[str, ...] = ()

    @classmethod
    def from_document(cls, document: object, path: str) -> Rules:
        parts = _mapping(document, path, ("node_labels", "logins"))
        matchers: tuple[LabelMatcher, ...] = ()
        if "node_labels" in parts:
            here = f"{path}.node_labels"
            labels = parts["node_labels"]
            if not isinstance(labels, Mapping):
                raise InvalidInput(f"expected a mapping of labels, found {shown(labels)}", here)
            if not labels:
                raise InvalidInput('empty means no node; name labels, write "*": "*" for every '
                                   "node, or drop the key", here)
            matchers = tuple(LabelMatcher.from_item(key, value, here) for key, value in labels.items())
        logins: tuple[str, ...] = ()
        if "logins" in parts:
            here = f"{path}.logins"
            logins = tuple(
                check_login(login, f"{here}[{index}]")
                for index, login in enumerate(_texts(parts["logins"], here))
            )
            if len(logins) > MAX_PRINCIPALS:
                raise InvalidInput(f"at most {MAX_PRINCIPALS} logins fit a certificate", here)
        return cls(matchers, logins)

    def to_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {}
        if self.node_labels:
            document["node_labels"] = {matcher.key: list(matcher.values) for matcher in self.node_labels}
        if self.logins:
            document["logins"] = list(self.logins)
        return document

    def covers_node(self, labels: Mapping[str, str]) -> bool:
        """Whether every matcher matches; never with no matcher at all."""
        return bool(self.node_labels) and all(matcher.matches(labels) for matcher in self.node_labels)


class Role(Struct, frozen=True, cache_hash=True):
    """What a bot may do: log in where, as whom, for how long."""

    name: str
    description: str = ""
    max_session_ttl: timedelta | None = None
    port_forwarding: bool = False
    file_copy: bool = False
    require_session_mfa: bool = False
    allow: Rules = Rules()
    deny: Rules = Rules()

    @classmethod
    def from_document(cls, document: object) -> Role:
        """The role that a ``kind: role`` document describes, strictly read.

        Raises :class:`InvalidInput` with the path of the fault in the document.
        """
        top = _mapping(document, "", ("kind", "version", "metadata", "spec"))
        if top.get("kind") != "role":
            raise InvalidInput(f"expected role, found {shown(top.get('kind'))}; write kind: role", "kind")
        if top.get("version", "v1") != "v1":
            raise InvalidInput(f"unknown version {shown(top['version'])}; write v1 or drop the key",
                               "version")
        for key in ("metadata", "spec"):
            if key not in top:
                raise InvalidInput("missing; a role has metadata and spec", key)
        metadata = _mapping(top["metadata"], "metadata", ("name", "description"))
        if "name" not in metadata:
            raise InvalidInput("missing; name the role", "metadata.name")
        description = metadata.get("description", "")
        if not isinstance(description, str) or len(description) > 1024:
            raise InvalidInput("expected a text of at most 1024 characters", "metadata.description")
        spec = _mapping(top["spec"], "spec", ("options", "allow", "deny"))
        options = _mapping(
            spec.get("options", {}),
            "spec.options",
            ("max_session_ttl", "port_forwarding", "file_copy", "require_session_mfa"),
        )
        return cls(
            name=check_name(metadata["name"], "metadata.name"),
            description=description,
            max_session_ttl=_session_ttl(options),
            port_forwarding=_boolean(options.get("port_forwarding", False), "spec.options.port_forwarding"),
            file_copy=_boolean(options.get("file_copy", False), "spec.options.file_copy"),
            require_session_mfa=_session_mfa(options),
            allow=Rules.from_document(spec.get("allow", {}), "spec.allow"),
            deny=Rules.from_document(spec.get("deny", {}), "spec.deny"),
        )

    def to_document(self) -> dict[str, Any]:
        """The document that :meth:`from_document` reads back as this role."""
        options: dict[str, Any] = {}
        if self.max_session_ttl is not None:
            options["max_session_ttl"] = format_duration(self.max_session_ttl)
        if self.port_forwarding:
            options["port_forwarding"] = True
        if self.file_copy:
            options["file_copy"] = True
        if self.require_session_mfa:
            options["require_session_mfa"] = "session"
        metadata: dict[str, Any] = {"name": self.name}
        if self.description:
            metadata["description"] = self.description
        spec: dict[str, Any] = {}
        for key, part in (
            ("options", options),
            ("allow", self.allow.to_document()),
            ("deny", self.deny.to_document()),
        ):
            if part:
                spec[key] = part
        return {"kind": "role", "version": "v1", "metadata": metadata, "spec": spec}


def _session_ttl(options: Mapping[str, Any]) -> timedelta | None:
    if "max_session_ttl" not in options:
        return None
    path = "spec.options.max_session_ttl"
    try:
        ttl = parse_duration(options["max_session_ttl"])
    except InvalidInput as error:
        raise InvalidInput(str(error), path) from None
    if ttl < MIN_CERTIFICATE_TTL:
        raise InvalidInput(f"at least {format_duration(MIN_CERTIFICATE_TTL)}", path)
    return ttl


def _session_mfa(options: Mapping[str, Any]) -> bool:
    value = options.get("require_session_mfa", "off")
    # YAML 1.1 reads a bare `off` as false.
    if value in ("", "off") or value is False:
        return False
    if isinstance(value, str) or value is True:
        return True
    raise InvalidInput(f"expected a text, found {shown(value)}", "spec.options.require_session_mfa")
