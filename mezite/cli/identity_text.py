"""A daemon's status as a person reads it, the same for `mezctl`, `mezd` and `msh`.  Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mezite.cli import output
from mezite.cli.terminal import BAD, GOOD, SOON, Marked

_SOON = 60
"""Seconds left of a certificate that want an eye, whatever is planned."""


def write_status(status: Any) -> None:
    """The lines of *status*, the answer to ``identity.status``."""
    status = status if isinstance(status, Mapping) else {}
    marks = _marks(status)
    output.details({label: Marked(text, marks.get(label)) for label, text in facts(status).items()})


def _marks(status: Mapping[str, Any]) -> dict[str, str]:
    """Label → what its line means."""
    marks = {"State": GOOD if status.get("ready") else BAD}
    left, due = status.get("seconds_left"), status.get("next_attempt_in_seconds")
    if left is not None and left <= 0:
        marks["Certificate"] = BAD
    elif left is not None and (left < _SOON or (due is not None and left <= due)):
        marks["Certificate"] = SOON
    if status.get("last_error"):
        marks["Last error"] = SOON if status.get("ready") else BAD
    for one in status.get("destinations") or []:
        if one.get("hook_failure"):
            marks[f"  on-renew of {one.get('name')}"] = BAD
    return marks


def facts(status: Mapping[str, Any]) -> dict[str, str]:
    """Label → text.  Whatever is missing is left out, or told as missing."""
    told: dict[str, str] = {}
    if status.get("ready"):
        told["State"] = "ready"
    else:
        told["State"] = f"NOT READY: {_why(status)}"
    if status.get("instance"):
        told["Bot"] = f"{status.get('bot')} (roles: {_list(status.get('roles'))})"
        told["Instance"] = f"{status['instance']}, generation {status.get('generation')}"
        told["Cluster"] = f"{status.get('cluster')}, served by {status.get('server')}"
        told["Logins"] = _list(status.get("principals"))
        told["Certificate"] = _certificate(status)
    else:
        told["Server"] = str(status.get("server"))
    due = status.get("next_attempt_in_seconds")
    if due is not None:
        what = "Next try" if status.get("state") == "waiting" else "Next renewal"
        told[what] = f"in {length(due)}" if due >= 1 else "now"
    told.update(_trouble(status.get("last_error")))
    skew = _skew(status.get("clock_skew_seconds"), status.get("clock_skew_give_or_take_seconds"))
    if skew:
        told["Clock"] = skew
    told["Written to"] = f"{status.get('destination')} ({_list(status.get('outputs'))})"
    destinations = status.get("destinations") or []
    for one in destinations:
        name = one.get("name")
        if len(destinations) > 1:
            told[f"  {name}"] = (
                f"{one.get('destination')} ({_list(one.get('outputs'))}): {_list(one.get('principals'))} "
                f"until {one.get('valid_before') or 'the next renewal brings it'}"
            )
        if one.get("hook_failure"):
            told[f"  on-renew of {name}"] = f"FAILED: {one['hook_failure']}"
    return told


def _why(status: Mapping[str, Any]) -> str:
    """Why it is not ready, without the last error, which has lines of its own."""
    reason = str(status.get("not_ready_reason") or "no reason was told")
    error = status.get("last_error")
    message = str(error.get("message")) if isinstance(error, Mapping) else ""
    before = reason.partition(f": {message}")[0] if message else ""
    return before or reason


def _certificate(status: Mapping[str, Any]) -> str:
    left = status.get("seconds_left")
    until = f"until {status.get('valid_before')}"
    if left is None:
        return until
    return f"{until}, {length(left)} left" if left > 0 else f"ENDED ({until})"


def _trouble(error: Any) -> dict[str, str]:
    if not isinstance(error, Mapping):
        return {"Last error": "none"}
    told = {"Last error": f"{error.get('message')} ({error.get('code')})"}
    if error.get("remedy"):
        told["What to do"] = str(error["remedy"])
    return told


def _skew(ahead: float | None, give_or_take: float | None) -> str:
    """Whose clock is ahead, as far as that is known at all."""
    if ahead is None:
        return ""
    about = f", give or take {give_or_take:g} s" if give_or_take else ""
    if abs(ahead) <= max(1.0, give_or_take or 0):
        return "agrees with the server's"
    return f"{length(abs(ahead))} {'behind' if ahead > 0 else 'ahead of'} the server's{about}"


def _list(names: Any) -> str:
    return ", ".join(map(str, names)) if names else "-"


def length(seconds: float) -> str:
    """Two units at most: ``45s``, ``12m 30s``, ``3h 5m``, ``6d 2h``."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, rest = divmod(rest, size)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(part for part in parts[:2] if part[0] != "0") or "0s"
