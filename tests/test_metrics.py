"""Metrics: what Prometheus reads is well formed, and says what happened."""

from __future__ import annotations

import gc
import math
import random
import subprocess
import sys
import weakref
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

import tidegate
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import identity
from tidegate import Batcher, ConfigError, ModelPool, QueueFullError, TensorSpec
from tidegate.metrics import DURATION_EDGES, SIZE_EDGES, Collector, _Buckets
from tidegate.statistics import HistogramStatistics

NAMES = {
    "tidegate_requests": "counter",
    "tidegate_queue_duration_seconds": "histogram",
    "tidegate_request_duration_seconds": "histogram",
    "tidegate_batch_duration_seconds": "histogram",
    "tidegate_batch_size": "histogram",
    "tidegate_dispatch": "counter",
    "tidegate_padding_rows": "counter",
    "tidegate_tokens": "counter",
    "tidegate_padding_tokens": "counter",
    "tidegate_queue_depth": "gauge",
    "tidegate_instances": "gauge",
}


def registry_of(*batchers: Batcher) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collector(batchers))
    return registry


def scrape(registry: CollectorRegistry) -> dict[str, Metric]:
    """What a server would get, read as Prometheus reads it, and checked as promtool does."""
    text = generate_latest(registry).decode()
    families = {family.name: family for family in parse(text)}
    for family in families.values():
        check(family)
    return families


def check(family: Metric) -> None:
    assert family.documentation
    assert family.type == NAMES[family.name]
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
    assert len(set(series)) == len(series), "a series twice"
    assert not any(sample.name.endswith("_created") for sample in family.samples)
    if family.type == "counter":
        assert all(sample.name == f"{family.name}_total" for sample in family.samples)
    if family.type == "histogram":
        check_histograms(family)


def check_histograms(family: Metric) -> None:
    buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in family.samples:
        if sample.name == f"{family.name}_bucket":
            buckets[sample.labels["batcher"]].append((float(sample.labels["le"]), sample.value))
    for batcher, each in buckets.items():
        edges, counts = zip(*each, strict=True)
        assert list(edges) == sorted(set(edges))
        assert edges[-1] == math.inf
        assert list(counts) == sorted(counts), "cumulative"
        assert counts[-1] == value(family, "_count", batcher=batcher)
        assert value(family, "_sum", batcher=batcher) >= 0


def value(family: Metric, suffix: str = "", **labels: str) -> float:
    """The one sample with these labels."""
    (found,) = (
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and sample.labels == labels
    )
    return found


def outcomes(families: dict[str, Metric], batcher: str) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for sample in families["tidegate_requests"].samples
        if sample.labels["batcher"] == batcher
    }


# What is there


def test_the_names_types_and_labels_are_those_that_are_documented() -> None:
    with Batcher(identity, name="a") as batcher:
        families = scrape(registry_of(batcher))
    assert {family.name: family.type for family in families.values()} == NAMES
    labels = {
        family.name: {frozenset(sample.labels) for sample in family.samples}
        for family in families.values()
    }
    assert labels["tidegate_requests"] == {frozenset({"batcher", "outcome"})}
    assert labels["tidegate_dispatch"] == {frozenset({"batcher", "reason"})}
    assert labels["tidegate_instances"] == {frozenset({"batcher", "state"})}
    for name in ("queue_depth", "padding_rows", "tokens", "padding_tokens"):
        assert labels[f"tidegate_{name}"] == {frozenset({"batcher"})}
    assert all({"batcher"} <= each for kinds in labels.values() for each in kinds)


def test_a_strict_openmetrics_parser_takes_it_too() -> None:
    with Batcher(identity, name='with "quotes", a \\ and a \n new line') as batcher:
        batcher(ROW)
        text = openmetrics.generate_latest(registry_of(batcher))  # type: ignore[no-untyped-call]
    parsed = parse_openmetrics(text.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert set(families) == set(NAMES)
    assert value(families["tidegate_queue_depth"], batcher=batcher.name) == 0


def test_every_row_is_counted_under_its_outcome(model: Gated) -> None:
    def failing(rows: Any) -> Any:
        doubled = model(rows)
        return [ValueError("seven") if row[0] == 14 else row for row in doubled]

    batcher = Batcher(failing, name="m", max_batch_size=4, max_queue_size=4, caller_runs=False)
    registry = registry_of(batcher)
    batcher.submit(ROW)
    model.await_entry()
    assert batcher.submit(ROW).cancel()
    expiring = batcher.submit(ROW, timeout=0.01)
    batcher.submit(ROW + 7)
    batcher.submit(ROW)
    with pytest.raises(QueueFullError):
        batcher.submit(ROW)
    expiring.exception(PATIENCE)
    families = scrape(registry)
    assert value(families["tidegate_queue_depth"], batcher="m") == 2
    assert value(families["tidegate_instances"], batcher="m", state="busy") == 1
    model.gate.set()
    batcher.close()
    families = scrape(registry)
    assert outcomes(families, "m") == {
        "completed": 2,
        "failed": 1,
        "cancelled": 1,
        "expired": 1,
        "closed": 0,
        "rejected": 1,
    }
    assert value(families["tidegate_queue_depth"], batcher="m") == 0
    assert value(families["tidegate_instances"], batcher="m", state="gone") == 1
    assert value(families["tidegate_instances"], batcher="m", state="idle") == 0
    assert value(families["tidegate_request_duration_seconds"], "_count", batcher="m") == 3
    assert value(families["tidegate_batch_duration_seconds"], "_count", batcher="m") == 2


def test_batches_are_counted_by_size_and_by_why_they_went() -> None:
    with Batcher(identity, name="m", max_batch_size=64) as batcher:
        for size in (64, 64, 3):
            batcher.submit_many(np.zeros((size, 3))).result(PATIENCE)
        families = scrape(registry_of(batcher))
    sizes = families["tidegate_batch_size"]
    assert value(sizes, "_sum", batcher="m") == 131
    # A full batch of a power of two is at most that, not something more.
    assert value(sizes, "_bucket", batcher="m", le="64.0") == 3
    assert value(sizes, "_bucket", batcher="m", le="32.0") == 1
    assert value(sizes, "_bucket", batcher="m", le="4.0") == 1
    assert value(sizes, "_bucket", batcher="m", le="2.0") == 0
    dispatch = families["tidegate_dispatch"]
    assert value(dispatch, "_total", batcher="m", reason="full") == 2
    assert value(dispatch, "_total", batcher="m", reason="idle") == 1
    assert value(dispatch, "_total", batcher="m", reason="delay") == 0


def test_rows_and_tokens_of_padding_are_counted() -> None:
    with Batcher(
        lambda batch: batch.lengths,
        name="m",
        inputs=TensorSpec((None,), np.int64),
        collate="pad",
        pad_to=[4, 8],
        max_batch_size=4,
        allowed_batch_sizes=[4],
    ) as batcher:
        batcher([1, 2, 3])  # four rows of four
        batcher([1, 2, 3, 4, 5])  # four rows of eight
        families = scrape(registry_of(batcher))
    assert value(families["tidegate_padding_rows"], "_total", batcher="m") == 6
    assert value(families["tidegate_tokens"], "_total", batcher="m") == 8
    assert value(families["tidegate_padding_tokens"], "_total", batcher="m") == 13 + 27
    assert value(families["tidegate_batch_size"], "_sum", batcher="m") == 2


def test_batches_that_went_for_their_cost_are_counted() -> None:
    with Batcher(identity, name="m", cost_fn=lambda row: 1, max_batch_cost=1) as batcher:
        batcher(ROW)
        dispatch = scrape(registry_of(batcher))["tidegate_dispatch"]
    assert value(dispatch, "_total", batcher="m", reason="cost") == 1


def test_every_instance_is_counted_once() -> None:
    with Batcher(ModelPool(lambda: identity, instances=3), name="m") as batcher:
        registry = registry_of(batcher)
        until(lambda: value(scrape(registry)["tidegate_instances"], batcher="m", state="idle") == 3)


# Buckets


def core_edge(value: int) -> int:
    """The exclusive upper edge of the core's bucket that holds so many nanoseconds."""
    if value < 4:
        return value + 1
    width = 1 << (value.bit_length() - 3)
    return value // width * width + width


def test_no_bucket_counts_a_value_above_its_edge() -> None:
    chance = random.Random(1)
    values = [int(10 ** chance.uniform(0, 11.5)) for _ in range(3000)]
    values += [round(edge * 1e9) + near for edge in DURATION_EDGES for near in (-1, 0, 1)]
    held: dict[int, int] = defaultdict(int)
    for each in values:
        held[core_edge(each)] += 1
    edges = sorted(held)
    histogram = HistogramStatistics(
        tuple(edge * 1e-9 for edge in edges),
        tuple(held[edge] for edge in edges),
        len(values),
        sum(values) * 1e-9,
    )
    cumulated = _Buckets("duration_edges", DURATION_EDGES, 1e-9).cumulated(histogram)
    assert [float(edge) for edge, _ in cumulated] == [*DURATION_EDGES, math.inf]
    for edge, count in cumulated[:-1]:
        most = round(float(edge) * 1e9)
        assert count <= sum(each <= most for each in values)
        # Nor is any that lies further below than a bucket is wide left out.
        assert count >= sum(each * 1.25 <= most for each in values)
    assert cumulated[-1][1] == len(values)


def test_what_is_beyond_the_cores_last_bucket_is_in_the_last() -> None:
    histogram = HistogramStatistics((float(2**41) * 1e-9,), (3,), 3, 1e6)
    buckets = _Buckets("duration_edges", [1.0, 5000.0], 1e-9)
    assert buckets.cumulated(histogram) == [("1.0", 0), ("5000.0", 0), ("+Inf", 3)]


def test_edges_of_ones_own_are_used() -> None:
    with Batcher(identity, name="m") as batcher:
        batcher(ROW)
        registry = CollectorRegistry()
        registry.register(Collector(batcher, duration_edges=[0.25, 600], size_edges=[1, 50]))
        families = scrape(registry)
    assert value(families["tidegate_batch_size"], "_bucket", batcher="m", le="1.0") == 1
    durations = families["tidegate_batch_duration_seconds"]
    assert value(durations, "_bucket", batcher="m", le="600.0") == 1
    assert len([each for each in durations.samples if each.name.endswith("_bucket")]) == 3


@pytest.mark.parametrize(
    "edges", [[], [2, 1], [1, 1], [0, 1], [-1, 1], [1, math.inf], [math.nan], ["low"], None, 1]
)
def test_edges_that_do_not_ascend_are_refused(edges: Any) -> None:
    with pytest.raises(ConfigError, match="duration_edges must be finite and ascend"):
        Collector([], duration_edges=edges)


def test_the_default_edges_ascend() -> None:
    assert list(DURATION_EDGES) == sorted(set(DURATION_EDGES))
    assert list(SIZE_EDGES) == sorted(set(SIZE_EDGES))


# Which batchers


def test_batchers_of_one_name_have_series_of_their_own_that_they_keep() -> None:
    there = [Batcher(identity, name="m") for _ in range(3)]
    registry = CollectorRegistry()
    registry.register(Collector(lambda: there))
    there[1](ROW)
    assert {
        label: outcomes(scrape(registry), label)["completed"] for label in ("m", "m#2", "m#3")
    } == {"m": 0, "m#2": 1, "m#3": 0}
    there.pop(0).close()
    gc.collect()
    families = scrape(registry)
    assert outcomes(families, "m") == {}
    assert outcomes(families, "m#2")["completed"] == 1
    for batcher in there:
        batcher.close()


def test_a_batcher_that_is_named_twice_is_shown_once() -> None:
    with Batcher(identity, name="m") as batcher:
        assert len(scrape(registry_of(batcher, batcher))["tidegate_queue_depth"].samples) == 1


def test_batchers_may_come_and_go() -> None:
    there: list[Batcher] = []
    registry = CollectorRegistry()
    registry.register(Collector(lambda: iter(there)))
    assert scrape(registry)["tidegate_queue_depth"].samples == []
    batcher = Batcher(identity, name="m")
    there.append(batcher)
    batcher(ROW)
    assert outcomes(scrape(registry), "m")["completed"] == 1
    watched = weakref.ref(batcher)
    there.clear()
    batcher.close()
    del batcher
    gc.collect()
    assert watched() is None, "the collector keeps it"
    assert scrape(registry)["tidegate_queue_depth"].samples == []


def test_two_collectors_do_not_fit_into_one_registry() -> None:
    registry = registry_of()
    with pytest.raises(ValueError, match="tidegate_requests"):
        registry.register(Collector([]))


@pytest.mark.parametrize("wrong", [identity, [identity], ["m"], 5, None, ModelPool([identity])])
def test_something_else_than_batchers_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="a Collector needs Batchers"):
        Collector(wrong)


def test_a_decorated_function_stands_for_its_batcher() -> None:
    @tidegate.batch(name="decorated")
    def double(rows: Any) -> Any:
        return rows * 2

    class Model:
        @tidegate.batch(name="of an object")
        def double(self, rows: Any) -> Any:
            return rows * 2

    model = Model()
    for batchers in (double, [double, model.double], lambda: [double]):
        registry = CollectorRegistry()
        registry.register(Collector(batchers))
        double(ROW)
        families = scrape(registry)
        assert value(families["tidegate_batch_size"], "_count", batcher="decorated") > 0
    with pytest.raises(ConfigError, match=r"without arguments .* got .*\(self, rows"):
        Collector(Model.double)
    double.close()
    model.double.close()


def test_a_function_that_returns_something_else_is_refused_at_the_scrape() -> None:
    collector = Collector(lambda: [identity])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="a Collector needs Batchers, got function"):
        list(collector.collect())


# Under load


def test_scrapes_under_load_only_ever_grow() -> None:
    with Batcher(identity, name="m", max_batch_size=8) as batcher:
        registry = registry_of(batcher)
        work = [in_thread(lambda: [batcher(ROW) for _ in range(300)]) for _ in range(4)]
        scrapes = [in_thread(lambda: [scrape(registry) for _ in range(10)]) for _ in range(2)]
        for thread in scrapes:
            before: dict[Any, float] = {}
            for families in thread.outcome():
                now = {
                    (sample.name, *sorted(sample.labels.items())): sample.value
                    for family in families.values()
                    if family.type != "gauge"
                    for sample in family.samples
                }
                assert all(now[series] >= count for series, count in before.items())
                before = now
        for thread in work:
            thread.outcome()
        families = scrape(registry)
    assert outcomes(families, "m")["completed"] == 1200
    assert value(families["tidegate_request_duration_seconds"], "_count", batcher="m") == 1200
    assert value(families["tidegate_batch_size"], "_sum", batcher="m") == 1200


def test_without_prometheus_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; import tidegate.metrics"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: tidegate.metrics needs prometheus_client: "
        "pip install 'tidegate[metrics]'"
    )
