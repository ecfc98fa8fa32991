"""Several outputs in a configuration file: what they may say, and every fault with its place."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from mezite.config.daemon import DaemonConfig, load
from mezite.config.outputs import Extras, OutputConfig
from mezite.errors import UsageError

FULL = """
destination: /d/first
outputs: [files, agent]
roles: [deploy]
owner: www-data
group: "33"
mode: 0640
on_renew: [[/bin/systemctl, reload, nginx], [/bin/true]]
on-renew-timeout: 10s
destinations:
  - name: logs
    destination: /d/logs
    outputs: agent
    roles: [logs, more]
    certificate_ttl: 15m
    group: adm
  - {name: plain, destination: /d/plain}
"""


def config(tmp_path: Path, document: Any) -> DaemonConfig:
    path = tmp_path / "mezd.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load({"config": str(path)}, {"HOME": "/home/x"}, 1000)


def test_all_of_it(tmp_path: Path) -> None:
    extras = Extras(
        roles=("deploy",), owner="www-data", group="33", mode=0o640,
        on_renew=(("/bin/systemctl", "reload", "nginx"), ("/bin/true",)),
        on_renew_timeout=timedelta(seconds=10),
    )
    assert config(tmp_path, FULL).all_outputs() == (
        OutputConfig("default", Path("/d/first"), ("files", "agent"), None, extras),
        OutputConfig(
            "logs", Path("/d/logs"), ("agent",), timedelta(minutes=15),
            Extras(roles=("logs", "more"), group="adm"),
        ),
        OutputConfig("plain", Path("/d/plain")),
    )


def one(**changes: Any) -> dict[str, Any]:
    return {"destinations": [{"name": "a", "destination": "/d/a", **changes}]}


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"destinations": {}}, "destinations: expected a list"),
        ({"destinations": [{"name": str(n), "destination": f"/d/{n}"} for n in range(8)]}, "at most 7"),
        ({"destinations": ["/srv/logs"]}, "destinations[0]: expected a name and a destination"),
        (one(name=None), "name: expected"),
        (one(name="default"), "not 'default'"),
        (one(name="../x"), "name: expected"),
        (one(destination=None), "destination: expected a directory"),
        (one(outputs="socket"), "unknown output 'socket'"),
        (one(rolls=["x"]), "did you mean roles?"),
        (one(roles=[]), "not empty"),
        (one(roles="x"), "expected a list"),
        (one(roles=["a\nb"]), "expected a list of names"),
        (one(mode="0644"), "no mode for a private key"),
        (one(mode="0660"), "no mode for a private key"),
        (one(mode="0040"), "no mode for a private key"),
        (one(mode="rw-"), 'such as "0640"'),
        (one(mode=True), 'such as "0640"'),
        (one(on_renew="systemctl reload x"), "a list of words"),
        (one(on_renew=["systemctl"]), "a list of words"),
        (one(on_renew=[[]]), "a list of words"),
        (one(on_renew=[["systemctl", "reload"]]), "by its whole path"),
        (one(on_renew=[["/bin/x", 1]]), "1 is no text"),
        (one(on_renew_timeout="2h"), "from 1s to 1h"),
        (one(certificate_ttl="soon"), "duration"),
        ({"destination": "/d", **one()}, "lie in each other"),
        ({"destinations": [{"name": "a", "destination": "/d/a"}, {"name": "a", "destination": "/d/b"}]},
         "a stands twice"),
        ({"destinations": [{"name": "a", "destination": "/d/a"}, {"name": "b", "destination": "/d/a/b"}]},
         "lie in each other"),
        ({"renewal_interval": "15m", **one(certificate_ttl="15m")}, "of the output a"),
        ({"one_shot": True, **one(outputs="agent")}, "use files"),
        ({"one_shot": True, "on_renew": [["/bin/true"]]}, "run the commands after it"),
        ({"mode": "0777"}, "mode: 0777"),
    ],
    ids=str,
)
def test_faults_name_their_place_and_the_way_out(tmp_path: Path, document: Any, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(tmp_path, document)
    assert part in str(caught.value)
    assert "mezd.yaml" in str(caught.value)


@pytest.mark.parametrize("written", ["link", "link/below", "other/../first", "first/."])
def test_one_directory_by_two_names_is_one(tmp_path: Path, written: str) -> None:
    for name in ("first", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("first")
    document = {"destination": f"{tmp_path}/first", **one(destination=f"{tmp_path}/{written}")}
    with pytest.raises(UsageError, match=r"destinations\[0\]: destination: .* lie in each other"):
        config(tmp_path, document)


def test_they_are_not_of_the_command_line() -> None:
    """A flag or a variable of that name is none."""
    found = load({"owner": "x"}, {"HOME": "/h", "MEZITE_OWNER": "x", "MEZITE_DESTINATIONS": "x"}, 1000)
    assert (found.extras, found.further) == (Extras(), ())
