"""What one scrape says: the metrics of each batcher, taken from Prometheus' text format."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Histogram", "Snapshot", "Watched", "parse"]

_HISTOGRAMS = {
    "tidegate_queue_duration_seconds": "queue",
    "tidegate_request_duration_seconds": "request",
    "tidegate_batch_duration_seconds": "batch",
    "tidegate_batch_size": "size",
}


@dataclass
class Histogram:
    """Cumulative counts by upper edge, the last of which is infinite.

    Attributes:
        buckets: Upper edges, ascending, and how many values are at most that.
        count: All values.
        sum: Their sum.
    """

    buckets: dict[float, float] = field(default_factory=dict)
    count: float = 0.0
    sum: float = 0.0


@dataclass
class Watched:
    """One batcher.

    Attributes:
        outcomes: Rows by what became of them.
        dispatched: Batches by why they went.
        instances: Instances by state.
        queue_depth: Rows that wait.
        histograms: By ``"queue"``, ``"request"``, ``"batch"`` (seconds) and ``"size"`` (rows).
    """

    outcomes: dict[str, float] = field(default_factory=dict)
    dispatched: dict[str, float] = field(default_factory=dict)
    instances: dict[str, float] = field(default_factory=dict)
    queue_depth: float = 0.0
    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram() for name in _HISTOGRAMS.values()}
    )


@dataclass(frozen=True)
class Snapshot:
    """One server at one moment.

    Attributes:
        at: When, in seconds of any clock that only goes forward.
        batchers: Its batchers by name.
    """

    at: float
    batchers: dict[str, Watched]


def parse(text: str, at: float) -> Snapshot:
    """The batchers in a page of metrics; what else is on it is left out.

    Raises:
        ValueError: It is no page of metrics.
    """
    batchers: defaultdict[str, Watched] = defaultdict(Watched)
    families = text_string_to_metric_families(text)
    for family in families:
        if not family.name.startswith("tidegate_"):
            continue
        for sample in family.samples:
            if "batcher" in sample.labels:
                watched = batchers[sample.labels["batcher"]]
                _take(watched, family.name, sample.name, sample.labels, sample.value)
    return Snapshot(at, dict(batchers))


def _take(watched: Watched, family: str, sample: str, labels: dict[str, str], value: float) -> None:
    if family == "tidegate_requests":
        watched.outcomes[labels.get("outcome", "")] = value
    elif family == "tidegate_dispatch":
        watched.dispatched[labels.get("reason", "")] = value
    elif family == "tidegate_instances":
        watched.instances[labels.get("state", "")] = value
    elif family == "tidegate_queue_depth":
        watched.queue_depth = value
    elif family in _HISTOGRAMS:
        histogram = watched.histograms[_HISTOGRAMS[family]]
        kind = sample.removeprefix(family)
        if kind == "_bucket":
            histogram.buckets[float(labels["le"])] = value
        elif kind == "_count":
            histogram.count = value
        elif kind == "_sum":
            histogram.sum = value
