"""Exit codes, the server's reasons, errors, and why the node refuses."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import mezite
from mezite import errors
from mezite.cli import failures
from mezite.rpc.status import STATUS_OF
from refdocs.markdown import NOTE, cell, code, plain, table
from refdocs.words import NODE, REASONS

PACKAGE = Path(mezite.__file__).parent
_CARRIERS = {"CertificateRejected", "Rejected", "Refusal", "refused"}
"""Records and errors whose first argument is a code of a refusal at the node."""


def page() -> str:
    return NOTE + (
        "# Codes\n\nCodes never change their meaning. Error lines end with theirs: `mezd: … (token_used)`. "
        "What to do about each: [troubleshooting](../troubleshooting.md).\n\n"
        + _exits() + _reasons() + _errors() + _node()
    )


def _exits() -> str:
    rows = [
        (str(failures.DONE), "done"),
        (str(failures.FAILED), "failed, and worth another try: no answer, or a server that cannot work now"),
        (str(failures.USAGE), "asked wrongly: a flag, a file, a setting"),
        (str(failures.REFUSED), "refused: by the server, by the pin, or because what was named is not there"),
        ("130", "ended by Ctrl-C"),
    ]
    return (
        "## Exit codes\n\nOf `mezctl`, `mezd` and `msh`; what a command says of its own stands "
        "[there](commands.md). `msh ssh` and `msh scp` end with the code of ssh and scp.\n\n"
        + table(("code", "what"), rows)
    )


def _reasons() -> str:
    rows = []
    for reason in errors.Reason:
        refused = errors.Refused(reason, "")
        rows.append((
            code(reason.code), reason.reason_class.value, STATUS_OF[reason].name,
            str(failures.exit_code(refused)), cell(REASONS.get(reason.code, "–")),
        ))
    classes = "".join(f"- `{one.value}`: {_class_words(one)}\n" for one in errors.ReasonClass)
    return (
        "## Reasons of the auth server\n\nWhy a join, a renewal or a leave is refused. The class says what a "
        "machine can do about it:\n\n" + classes + "\n"
        + table(("reason", "class", "gRPC status", "exit code", "when"), rows)
    )


def _class_words(one: errors.ReasonClass) -> str:
    """The docstring below a member of the enumeration."""
    body = ast.parse(inspect.getsource(errors.ReasonClass)).body[0]
    assert isinstance(body, ast.ClassDef)
    for member, words in zip(body.body, body.body[1:], strict=False):
        if (isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name)
                and member.targets[0].id == one.name and isinstance(words, ast.Expr)
                and isinstance(words.value, ast.Constant)):
            return str(words.value.value)[0].lower() + str(words.value.value)[1:]
    return ""


def _errors() -> str:
    rows = []
    for kind in _below(errors.MeziteError):
        if not isinstance(vars(kind).get("code"), str):
            continue  # each one of these has a code of its own
        exit_code = next((number for of, number in failures._CODES if issubclass(kind, of)), failures.FAILED)
        about = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
        rows.append((code(str(kind.code)), str(exit_code), cell(plain(about))))
    return "## Errors of the programs\n\n" + table(("code", "exit code", "what"), sorted(rows))


def _below(kind: type[errors.MeziteError]) -> Iterator[type[errors.MeziteError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _node() -> str:
    rows = [(code(name), cell(NODE.get(name, REASONS.get(name, "–")))) for name in node_codes()]
    return (
        "## Refusals of the node and of certificates\n\nIn the audit log (`authz.denied`, `port.forward`), "
        "and in `mezctl certs inspect`; ssh itself is told no more than `Permission denied`.\n\n"
        + table(("code", "when"), rows)
    )


def node_codes() -> list[str]:
    """Those that the code of certificates and of the node gives."""
    found: set[str] = set()
    for package in ("certs", "ssh"):
        for path in sorted((PACKAGE / package).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {
                target.id: statement.value.value
                for statement in tree.body if isinstance(statement, ast.Assign)
                and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
                for target in statement.targets if isinstance(target, ast.Name)
            }
            found |= set(_codes_in(tree, constants))
    return sorted(found)


def _codes_in(tree: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        first: ast.expr | None = None
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            first = node.args[0] if name in _CARRIERS else None
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            first = node.value.elts[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            text = first.value
        elif isinstance(first, ast.Name):
            text = constants.get(first.id, "")
        else:
            continue
        if text.islower() and text.replace("_", "").isalpha():
            yield text
