"""Every query of the Grafana dashboard and of the alert rules names metrics, labels and parts that `/metrics` has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from app.metrics.state import PARTS
from tests import ROOT
from tests.support.scraping import Samples, labels_of

METRIC = re.compile(r"\btunesmith_\w+")
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
SELECTED = re.compile(r"(tunesmith_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "deploy" / "grafana" / "tunesmith.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> Iterator[tuple[str, set[str]]]:
    """Each expression, with the labels that its legend or its summary shows."""
    for panel in panels():
        yield from ((target["expr"], set(SHOWN.findall(target["legendFormat"]))) for target in panel["targets"])
    for rule in rules():
        yield rule["expr"], set(SHOWN.findall(rule["annotations"]["summary"]))


def test_every_query_names_metrics_and_labels_that_there_are(everything: Samples) -> None:
    exposed = labels_of(everything)

    for query, shown in queries():
        named = METRIC.findall(query)
        assert named, query
        assert set(named) <= exposed.keys(), query
        grouped = {label.strip() for labels in GROUPED.findall(query) for label in labels.split(",")}
        for name in named:
            assert grouped <= exposed[name], (query, name)
        assert shown <= grouped, query
        for name, matchers in SELECTED.findall(query):
            assert {label for label, _ in MATCHER.findall(matchers)} <= exposed[name], query


def test_every_metric_is_on_the_dashboard(everything: Samples) -> None:
    drawn = {name for panel in panels() for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    exposed = {name for name in labels_of(everything) if not name.endswith(("_count", "_sum", "_created"))}

    assert drawn == exposed


def test_every_part_that_an_alert_asks_for_is_one(everything: Samples) -> None:
    asked = {
        part
        for rule in rules()
        for _, matchers in SELECTED.findall(rule["expr"])
        for label, value in MATCHER.findall(matchers)
        if label == "part"
        for part in value.split("|")
    }

    assert asked == set(PARTS)


def test_panels_and_rules_have_names_of_their_own() -> None:
    numbers = [panel["id"] for panel in panels()]
    alerts = [rule["alert"] for rule in rules()]

    assert len(set(numbers)) == len(numbers)
    assert len(set(alerts)) == len(alerts)
    assert all(rule["labels"]["severity"] in ("warning", "critical") for rule in rules())
