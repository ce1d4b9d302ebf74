"""The Grafana dashboard: it asks for metrics and labels that the collector has."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.gated import ROW
from tests.helpers import identity
from tidegate import Batcher
from tidegate.metrics import Collector

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "docs/grafana/tidegate.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of every series of the collector, by the series' name."""
    registry = CollectorRegistry()
    with Batcher(identity) as batcher:
        batcher(ROW)
        registry.register(Collector(batcher))
        samples = [sample for family in registry.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_series_and_label_that_is_asked_for_exists(
    expression: str, labels: dict[str, set[str]]
) -> None:
    asked = re.findall(r"\btidegate_\w+", expression)
    assert asked
    used = set(re.findall(r"(\w+)=~?\"", expression))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        used |= set(grouped.split(", "))
    for name in asked:
        assert used <= labels[name], name


def test_every_family_of_the_collector_is_shown(labels: dict[str, set[str]]) -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels}
    assert all(any(family in each for each in EXPRESSIONS) for family in families), families


def test_the_choice_of_batchers_is_a_label_that_exists(labels: dict[str, set[str]]) -> None:
    (variable,) = (v for v in DASHBOARD["templating"]["list"] if v["name"] == "batcher")
    series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
    assert label in labels[series]
    assert variable["query"]["query"] == variable["definition"]


def test_rates_and_buckets_are_used_as_they_must_be() -> None:
    for expression in EXPRESSIONS:
        assert expression.count("(") == expression.count(")")
        # A counter is of no use but as a rate, and quantiles need the edges.
        for counter in re.findall(r"tidegate_\w+_(?:total|bucket|sum|count)\b", expression):
            assert re.search(
                rf"(rate|increase)\({counter}\{{[^}}]*\}}\[\$__rate_interval\]", expression
            )
        if "histogram_quantile" in expression:
            assert re.search(r"sum by \([^)]*\ble\)", expression)


def test_every_panel_can_be_drawn() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    for one, other in itertools.combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, "two panels overlap"
        assert one["x"] + one["w"] <= 24
