"""`mezctl roles`."""

from __future__ import annotations

import sys
from typing import Any

import click

from mezite.cli.asking import Asking, Group, paged, pass_asking
from mezite.cli.names import names
from mezite.cli.output import write, write_line
from mezite.cli.program import files, named
from mezite.errors import InvalidInput, UsageError


def _labels(role: Any) -> object:
    labels = role["spec"].get("allow", {}).get("node_labels", {})
    return [f"{key}={'|'.join(values)}" for key, values in labels.items()]


_COLUMNS = {
    "NAME": lambda role: role["metadata"]["name"],
    "LOGINS": lambda role: role["spec"].get("allow", {}).get("logins"),
    "NODE LABELS": _labels,
    "MAX TTL": lambda role: role["spec"].get("options", {}).get("max_session_ttl"),
    "DESCRIPTION": lambda role: role["metadata"].get("description"),
}


@click.group(cls=Group)
def roles() -> None:
    """Roles: where bots may log in, as whom, and for how long.

    A change holds at once: for nodes, and for the next renewal of every bot
    that has the role.
    """


@roles.command("create")
@click.option("--from-file", required=True, metavar="FILE", help="YAML or JSON; - for standard input.",
              shell_complete=files)
@pass_asking
def create(asking: Asking, from_file: str) -> None:
    """Create a role from a file, or put it in place of the one of its name.

    \b
    kind: role
    metadata:
      name: ci-deployer
    spec:
      options:
        max_session_ttl: 1h
      allow:
        node_labels:
          env: [staging, production]
        logins: [deploy]
      deny:
        logins: [root]
    """
    source = named(from_file)
    document = _read(from_file, source)
    try:
        answer = asking.call("roles.put", document=document)
    except InvalidInput as error:
        raise UsageError(f"{source}: {error}") from None
    asking.show(answer, _write_put)


def _write_put(answer: Any) -> None:
    done = "created" if answer["created"] else "updated"
    write_line(f"Role {done}: {answer['role']['metadata']['name']}")


def _read(from_file: str, source: str) -> Any:
    # Here, not above: only this command needs YAML.
    from mezite.config.paths import expanded
    from mezite.config.reading import MAX_FILE, parse_yaml, read_yaml

    if from_file == "-":
        document = parse_yaml(sys.stdin.buffer.read(MAX_FILE + 1), source)
    else:
        document = read_yaml(expanded(from_file))
    if document is None:
        raise UsageError(f"{source}: empty; a role has kind, metadata and spec")
    _check_json(document, source)
    return document


def _check_json(document: Any, source: str) -> None:
    """YAML knows more than JSON: what would change on its way is refused here."""
    rest = [("", document)]
    while rest:
        path, value = rest.pop()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise UsageError(f"{source}: {path or 'the top'}: the key {key!r} is no text; quote it")
            rest += [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        elif isinstance(value, list):
            rest += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif not _is_json(value):
            raise UsageError(f"{source}: {path or 'the top'}: {value!s:.60} is no text; quote it")


def _is_json(value: object) -> bool:
    if isinstance(value, float):
        return value - value == 0  # neither infinite nor NaN
    return value is None or isinstance(value, str | int)


@roles.command("ls")
@paged
@pass_asking
def ls(asking: Asking, limit: int | None, after: str | None) -> None:
    """List all roles."""
    asking.show_list(
        "roles.ls", "roles", _COLUMNS, limit=limit, after=after,
        none="no roles yet; create one: mezctl roles create --from-file=FILE",
    )


@roles.command("get")
@click.argument("name", shell_complete=names("roles"))
@pass_asking
def get(asking: Asking, name: str) -> None:
    """Print a role as `roles create` takes it back."""
    document = asking.call("roles.get", name=name)["role"]
    if not asking.is_text:
        write(document, asking.format)
        return
    import yaml

    # Not write_line: what a terminal would act on stays escaped, as YAML does it.
    click.echo(yaml.safe_dump(document, sort_keys=False, default_flow_style=False), nl=False)


@roles.command("delete")
@click.argument("name", shell_complete=names("roles"))
@pass_asking
def delete(asking: Asking, name: str) -> None:
    """Delete a role that no bot uses."""
    asking.show(
        asking.call("roles.delete", name=name), lambda gone: write_line(f"Role deleted: {gone['name']}")
    )
