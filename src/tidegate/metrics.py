"""Prometheus metrics of batchers, read from the core's counters when somebody scrapes.

Nothing happens per request: a scrape takes one snapshot of each batcher. Needs the extra
``metrics``, ``pip install 'tidegate[metrics]'``.
"""

from __future__ import annotations

import inspect
import math
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tidegate.batcher import Batcher, HasBatcher, batcher_of
from tidegate.errors import ConfigError
from tidegate.statistics import HistogramStatistics, Statistics

try:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector as _Collector
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tidegate.metrics needs prometheus_client: pip install 'tidegate[metrics]'",
        name=error.name,
    ) from error

__all__ = ["DURATION_EDGES", "OUTCOMES", "SIZE_EDGES", "STATES", "Collector"]

_Source = Batcher | HasBatcher

OUTCOMES = ("completed", "failed", "cancelled", "expired", "closed", "rejected")
STATES = ("idle", "busy", "lent", "gone")

DURATION_EDGES = (
    *(1e-5, 2e-5, 3e-5, 5e-5),
    *(1e-4, 2e-4, 3e-4, 5e-4),
    *(1e-3, 2e-3, 3e-3, 5e-3),
    *(0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.2, 0.3, 0.5),
    *(1.0, 2.0, 3.0, 5.0),
    *(10.0, 20.0, 30.0, 60.0),
)
"""Upper edges of the buckets of durations, in seconds."""

SIZE_EDGES = tuple(float(2**power) for power in range(13))
"""Upper edges of the buckets of batch sizes, in rows: the powers of two from 1 to 4096."""

# What the core counts in: whole nanoseconds, whole rows. What is beyond its last bucket is in it.
_NANOSECOND, _ROW = 1e-9, 1.0
_BEYOND = 2.0**41


class Collector(_Collector):
    """What a Prometheus registry asks: ``registry.register(Collector(batchers))``.

    One collector serves all batchers of a process. A batcher is labelled with its name; a second
    one of the same name becomes ``name#2`` for as long as it lives.

    Args:
        batchers: Whose metrics; or a function that says so at each scrape, for batchers that come
            and go. The former are kept alive. A function under ``@tidegate.batch`` stands for its
            batcher.
        duration_edges: Upper edges of the buckets of durations, in seconds, ascending.
        size_edges: Upper edges of the buckets of batch sizes, in rows, ascending.

    Raises:
        ConfigError: `batchers` holds or is something else, or edges do not ascend from above 0.
    """

    def __init__(
        self,
        batchers: _Source | Iterable[_Source] | Callable[[], Iterable[_Source]],
        *,
        duration_edges: Sequence[float] = DURATION_EDGES,
        size_edges: Sequence[float] = SIZE_EDGES,
    ) -> None:
        self._now: Callable[[], Iterable[_Source]]
        one = batcher_of(batchers)
        if one is not None:
            batchers = (one,)
        # A Batcher is callable as well.
        if callable(batchers) and not isinstance(batchers, Batcher):
            self._now = _asked(batchers)
        elif isinstance(batchers, Iterable):
            given = _checked(batchers)
            self._now = lambda: given
        else:
            raise ConfigError(
                "a Collector needs Batchers or a function that returns them, got "
                f"{type(batchers).__name__}"
            )
        self._durations = _Buckets("duration_edges", duration_edges, _NANOSECOND)
        self._sizes = _Buckets("size_edges", size_edges, _ROW)
        self._labels: weakref.WeakKeyDictionary[Batcher, str] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()  # two scrapes at once

    def describe(self) -> Iterable[Metric]:
        """The metrics without values: by their names a registry knows them."""
        return _Families(self._durations, self._sizes).all

    def collect(self) -> Iterator[Metric]:
        """The metrics of all batchers, as they are now."""
        families = _Families(self._durations, self._sizes)
        for batcher in _checked(self._now()):
            families.add(self._label(batcher), batcher.statistics())
        yield from families.all

    def _label(self, batcher: Batcher) -> str:
        """Its name, or another while an older batcher has that: no two series may be the same."""
        with self._lock:
            label = self._labels.get(batcher)
            if label is None:
                taken = set(self._labels.values())
                label, number = batcher.name, 1
                while label in taken:
                    number += 1
                    label = f"{batcher.name}#{number}"
                self._labels[batcher] = label
            return label


def _checked(batchers: Iterable[Any]) -> tuple[Batcher, ...]:
    """Each batcher once, in order; raises ConfigError for anything else."""
    each: dict[Batcher, None] = {}
    for target in batchers:
        batcher = batcher_of(target)
        if batcher is None:
            raise ConfigError(f"a Collector needs Batchers, got {type(target).__name__}")
        each[batcher] = None
    return tuple(each)


def _asked(function: Callable[[], Iterable[_Source]]) -> Callable[[], Iterable[_Source]]:
    """`function`; raises ConfigError, now and not at each scrape, if it cannot be what is asked."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtin functions do not say
        return function
    try:
        signature.bind()
    except TypeError as error:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise ConfigError(
            "a Collector needs Batchers or a function without arguments that returns them, got "
            f"{name}{signature}"
        ) from error
    return function


class _Buckets:
    """Puts the core's buckets, at most 25 % wide, into those of Prometheus.

    A bucket of the core counts for ``le`` only if all that it can hold is at most that. So no
    ``le`` ever counts too many, and quantiles are never too low.
    """

    def __init__(self, setting: str, edges: Sequence[float], unit: float) -> None:
        self._unit = unit
        try:
            self._edges = [float(edge) for edge in edges]
        except (TypeError, ValueError, OverflowError):
            self._edges = []
        ascending = all(low < high for low, high in zip(self._edges, self._edges[1:], strict=False))
        if not self._edges or not ascending or not 0 < self._edges[0] <= self._edges[-1] < math.inf:
            raise ConfigError(f"{setting} must be finite and ascend from above 0, got {edges!r}")
        # Whole units; a little is added, since 3e-05 / 1e-09 may be a bit less than 30000.
        self._whole = [math.floor(edge / unit + 1e-3) for edge in self._edges]

    def cumulated(self, histogram: HistogramStatistics) -> list[tuple[str, float]]:
        """How many values are at most each edge, and at most +Inf."""
        counts = [0] * (len(self._edges) + 1)
        for edge, count in zip(histogram.upper_edges, histogram.counts, strict=True):
            largest = round(edge / self._unit) - 1
            place = (
                len(self._edges) if largest >= _BEYOND - 1 else bisect_left(self._whole, largest)
            )
            counts[place] += count
        buckets: list[tuple[str, float]] = []
        below = 0
        for name, count in zip([*map(repr, self._edges), "+Inf"], counts, strict=True):
            below += count
            buckets.append((name, float(below)))
        return buckets


class _Families:
    """One scrape's metrics; the names are part of the interface."""

    def __init__(self, durations: _Buckets, sizes: _Buckets) -> None:
        by_batcher = ["batcher"]
        self._buckets = {
            "queue_duration": durations,
            "request_duration": durations,
            "batch_duration": durations,
            "batch_size": sizes,
        }
        self._requests = CounterMetricFamily(
            "tidegate_requests",
            "Rows by what became of them; rejected ones were never queued.",
            labels=["batcher", "outcome"],
        )
        self._histograms = {
            "queue_duration": HistogramMetricFamily(
                "tidegate_queue_duration_seconds",
                "From a row's submission to the model's start.",
                labels=by_batcher,
            ),
            "request_duration": HistogramMetricFamily(
                "tidegate_request_duration_seconds",
                "From a row's submission to the end of its batch.",
                labels=by_batcher,
            ),
            "batch_duration": HistogramMetricFamily(
                "tidegate_batch_duration_seconds", "One call of the model.", labels=by_batcher
            ),
            "batch_size": HistogramMetricFamily(
                "tidegate_batch_size", "Rows of one call of the model.", labels=by_batcher
            ),
        }
        self._dispatch = CounterMetricFamily(
            "tidegate_dispatch", "Batches by why they went.", labels=["batcher", "reason"]
        )
        self._padding = {
            "padding_rows": CounterMetricFamily(
                "tidegate_padding_rows",
                "Rows that were added to batches, up to an allowed size.",
                labels=by_batcher,
            ),
            "tokens": CounterMetricFamily(
                "tidegate_tokens",
                "Tokens of the ragged rows that models were called with.",
                labels=by_batcher,
            ),
            "padding_tokens": CounterMetricFamily(
                "tidegate_padding_tokens",
                "Tokens that padded rows and padding rows had besides.",
                labels=by_batcher,
            ),
        }
        self._queue_depth = GaugeMetricFamily(
            "tidegate_queue_depth", "Rows that wait now.", labels=by_batcher
        )
        self._instances = GaugeMetricFamily(
            "tidegate_instances", "Instances of the model by state.", labels=["batcher", "state"]
        )

    @property
    def all(self) -> list[Metric]:
        """Every metric, in the order in which they are shown."""
        return [
            self._requests,
            *self._histograms.values(),
            self._dispatch,
            *self._padding.values(),
            self._queue_depth,
            self._instances,
        ]

    def add(self, label: str, now: Statistics) -> None:
        """Adds the series of one batcher."""
        for outcome in OUTCOMES:
            self._requests.add_metric([label, outcome], getattr(now, outcome))
        for name, family in self._histograms.items():
            histogram: HistogramStatistics = getattr(now, name)
            family.add_metric([label], self._buckets[name].cumulated(histogram), histogram.sum)
        for reason, batches in now.dispatched.items():
            self._dispatch.add_metric([label, reason], batches)
        for name, counter in self._padding.items():
            counter.add_metric([label], getattr(now, name))
        self._queue_depth.add_metric([label], now.queue_depth)
        states = [executor.state for executor in now.executors]
        for state in STATES:
            self._instances.add_metric([label, state], states.count(state))
