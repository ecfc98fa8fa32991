"""The Grafana dashboard and the alert rules, as files: what Grafana and Prometheus would make of them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs" / "grafana" / "mezite.json"
RULES = ROOT / "docs" / "prometheus" / "alerts.yaml"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)"
)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    """Of all panels, and of the variables' queries."""
    variables = dashboard()["templating"]["list"]
    asked = [variable["definition"] for variable in variables if "definition" in variable]
    return [target["expr"] for panel in panels() for target in panel["targets"]] + asked


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """Its model of a dashboard: ids, places on a grid of 24, a source that the viewer chooses."""
    found = dashboard()
    assert found["schemaVersion"] >= 36
    assert "id" not in found, "an id is the Grafana's that it comes from"
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in found["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert names == list("ABCDEFGH")[: len(names)]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {(source["type"], source["uid"]) for source in sources} == {("prometheus", "${datasource}")}


def test_variables_are_those_that_there_are() -> None:
    known = {variable["name"] for variable in dashboard()["templating"]["list"]} | {"__rate_interval"}
    text = json.dumps([panel["targets"] for panel in panels()])
    assert set(re.findall(r"\$\{?(\w+)", text)) <= known


def test_every_figure_of_ours_has_its_panel() -> None:
    """By the tables of docs/monitoring.md: what is worth collecting is worth a look."""
    documented = set()
    for line in (ROOT / "docs" / "monitoring.md").read_text().splitlines():
        if re.match(r"\| `(mezite|process)_", line):
            documented |= set(re.findall(r"`(mezite_\w+?)(?:\{[^`]*)?`", line.split("|")[1]))
    assert len(documented) > 15
    spoken = set(re.findall(r"mezite_\w+", " ".join(expressions())))
    assert {one for one in documented if not any(name.startswith(one) for name in spoken)} == set()


@needs_promtool
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """Each as a recording rule, with Grafana's variables in place."""
    rules = []
    for number, expression in enumerate(expressions()):
        if not expression.startswith("label_values("):
            text = re.sub(r"\$(server|machine)", ".*", expression.replace("$__rate_interval", "5m"))
            rules.append({"record": f"panel:{number}", "expr": text})
    assert len(rules) > 25
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


@needs_promtool
def test_the_alert_rules_are_sound() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
def test_the_alert_rules_say_what_they_should() -> None:
    """Each of them on a history that it is for, and on one that it is not for."""
    promtool("test", "rules", Path(__file__).with_name("alerts_test.yaml"))


def test_every_alert_rule_is_tried() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = {rule["alert"] for group in groups for rule in group["rules"]}
    tried = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())["tests"]
    assert rules == {one["alertname"] for test in tried for one in test["alert_rule_test"]}
