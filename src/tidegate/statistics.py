"""The snapshot that Batcher.statistics() returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ExecutorStatistics", "HistogramStatistics", "Statistics"]


@dataclass(frozen=True)
class HistogramStatistics:
    """Counts by bucket; buckets are at most 25 % wide, empty ones are left out.

    Attributes:
        upper_edges: Exclusive upper edge of each bucket, ascending, in the histogram's unit.
        counts: Values in each bucket.
        count: All values.
        sum: Their sum.
    """

    upper_edges: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    sum: float

    @property
    def mean(self) -> float:
        """Mean of all values, 0 if there are none."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Upper edge of the bucket that holds the `q` quantile, 0 if there are no values."""
        below = 0
        for edge, count in zip(self.upper_edges, self.counts, strict=True):
            below += count
            if below >= q * self.count:
                return edge
        return 0.0


@dataclass(frozen=True)
class ExecutorStatistics:
    """One instance of the model.

    Attributes:
        state: ``"idle"``, ``"busy"``, ``"lent"`` (to a leading caller) or ``"gone"`` (closed).
        busy_for: Seconds that its current batch has been with the model; one that only grows is
            stuck.
    """

    state: str
    busy_for: float


@dataclass(frozen=True)
class Statistics:
    """What a batcher has done so far; all counts are rows unless said otherwise.

    ``submitted`` rows end in exactly one of ``completed``, ``failed``, ``cancelled``, ``expired``
    and ``closed``, or are still waiting (``queue_depth``) or with the model.

    Attributes:
        submitted: Queued.
        completed: Answered.
        failed: The model raised, or answered with an exception.
        cancelled: Taken back by their callers before the model saw them.
        expired: Their timeout passed while they waited.
        closed: Refused by close(), or abandoned with the model when close() ran out of time.
        rejected: Never queued, because the queue was full.
        batches: That the model ran, each in one call or, with ``padding_policy="batch_down"``,
            in several.
        rows: Rows in those batches.
        led: Batches that a waiting caller ran itself.
        padding_rows: Rows that models were called with besides, up to an allowed batch size.
        tokens: Of the ragged rows that models were called with.
        padding_tokens: What padded rows had besides, those of padding rows included.
        queue_depth: Waiting now.
        dispatched: Batches by why they went: ``full``, ``idle`` (an executor was free), ``delay``
            (``max_queue_delay`` was up), ``drain`` (while closing), ``cost``
            (``max_batch_cost`` was reached, or the next request would have gone beyond it).
        queue_duration: Seconds from submission to the model's start.
        request_duration: Seconds from submission to the batch's end.
        batch_duration: Seconds that the model took for one batch.
        batch_size: Rows of one batch.
        executors: One entry per instance of the model.
    """

    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    closed: int
    rejected: int
    batches: int
    rows: int
    led: int
    padding_rows: int
    tokens: int
    padding_tokens: int
    queue_depth: int
    dispatched: Mapping[str, int]
    queue_duration: HistogramStatistics
    request_duration: HistogramStatistics
    batch_duration: HistogramStatistics
    batch_size: HistogramStatistics
    executors: tuple[ExecutorStatistics, ...]

    @property
    def mean_batch_size(self) -> float:
        """Rows per batch, 0 before the first."""
        return self.rows / self.batches if self.batches else 0.0


_HISTOGRAMS = ("queue_duration", "request_duration", "batch_duration", "batch_size")


def from_engine(raw: dict[str, Any]) -> Statistics:
    """The snapshot as the extension module gives it, as a Statistics."""
    fields = dict(raw)
    for name in _HISTOGRAMS:
        fields[name] = HistogramStatistics(**fields[name])
    fields["executors"] = tuple(ExecutorStatistics(*entry) for entry in fields["executors"])
    return Statistics(**fields)
