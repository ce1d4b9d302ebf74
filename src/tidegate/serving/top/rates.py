"""What happened between two scrapes: rates, quantiles and shares of each batcher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.serving.top.snapshot import Histogram, Snapshot, Watched

__all__ = ["Row", "compare", "quantile"]

_ERRORS = ("failed", "expired", "closed", "rejected")


@dataclass(frozen=True)
class Row:
    """One batcher over an interval; None stands for what cannot be told.

    Attributes:
        server: Whose it is, empty if there is one server.
        batcher: Its name.
        requests: Rows answered per second.
        errors: Rows per second that failed, expired, or were refused or rejected.
        request: Seconds that half and 99 % of the rows took at most, queue and model together.
        queue: Seconds that they waited for the model.
        batch: Seconds that half and 99 % of the model's calls took.
        size: Mean rows in one call.
        dispatched: Shares of the batches by why they went, those above 0.
        queue_depth: Rows that wait now.
        instances: Instances by state now, those that there are.
    """

    server: str
    batcher: str
    requests: float | None
    errors: float | None
    request: tuple[float | None, float | None]
    queue: tuple[float | None, float | None]
    batch: tuple[float | None, float | None]
    size: float | None
    dispatched: Mapping[str, float]
    queue_depth: float
    instances: Mapping[str, int]


def compare(before: Snapshot | None, now: Snapshot, *, server: str = "") -> list[Row]:
    """A row for each batcher that there is now, by name.

    Args:
        before: An earlier scrape of the same server, or None if there is none.
        now: This one.
        server: What the server is called.
    """
    seconds = 0.0 if before is None else now.at - before.at
    known = {} if before is None else before.batchers
    return [
        _row(server, name, known.get(name), watched, seconds)
        for name, watched in sorted(now.batchers.items())
    ]


def _row(server: str, name: str, before: Watched | None, now: Watched, seconds: float) -> Row:
    there = {state: round(count) for state, count in now.instances.items() if count > 0}
    if seconds <= 0:
        nothing = (None, None)
        return Row(
            server, name, None, None, nothing, nothing, nothing, None, {}, now.queue_depth, there
        )
    # A batcher that is new, or of a server that was started anew, counts from 0.
    if before is None or _fell(before.outcomes, now.outcomes):
        before = Watched()
    outcomes = _gained(before.outcomes, now.outcomes)
    reasons = _gained(before.dispatched, now.dispatched)
    batches = sum(reasons.values())
    gained = {
        kind: _difference(before.histograms[kind], histogram)
        for kind, histogram in now.histograms.items()
    }
    sizes = gained["size"]
    return Row(
        server=server,
        batcher=name,
        requests=outcomes.get("completed", 0.0) / seconds,
        errors=sum(outcomes.get(outcome, 0.0) for outcome in _ERRORS) / seconds,
        request=(quantile(gained["request"], 0.5), quantile(gained["request"], 0.99)),
        queue=(quantile(gained["queue"], 0.5), quantile(gained["queue"], 0.99)),
        batch=(quantile(gained["batch"], 0.5), quantile(gained["batch"], 0.99)),
        size=sizes.sum / sizes.count if sizes.count > 0 else None,
        dispatched={why: count / batches for why, count in reasons.items() if count > 0},
        queue_depth=now.queue_depth,
        instances=there,
    )


def _fell(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return any(now.get(key, 0.0) < value for key, value in before.items())


def _gained(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {key: max(0.0, value - before.get(key, 0.0)) for key, value in now.items()}


def _difference(before: Histogram, now: Histogram) -> Histogram:
    buckets = {edge: max(0.0, n - before.buckets.get(edge, 0.0)) for edge, n in now.buckets.items()}
    return Histogram(buckets, max(0.0, now.count - before.count), max(0.0, now.sum - before.sum))


def quantile(histogram: Histogram, q: float) -> float | None:
    """The `q` quantile as Prometheus' ``histogram_quantile`` has it, evenly within a bucket.

    Infinite if it lies beyond the last edge, None if there are no values.
    """
    edges = sorted(histogram.buckets)
    if not edges or histogram.buckets[edges[-1]] <= 0:
        return None
    rank = q * histogram.buckets[edges[-1]]
    low, below = 0.0, 0.0
    for edge in edges:
        up_to = histogram.buckets[edge]
        if up_to >= rank and up_to > below:
            if math.isinf(edge):
                return math.inf
            return low + (edge - low) * (rank - below) / (up_to - below)
        low, below = edge, max(below, up_to)
    return math.inf
