"""What a loop reads: answers and their latencies, batches, padding, processor time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from time import perf_counter

import numpy as np

from benchmarks.gpu.journal import Metrics
from benchmarks.gpu.tasks import Tally

__all__ = ["Meter"]


class Meter:
    """Reads answers, calls, processor time and the clock at both ends of a window.

    Args:
        tally: Returns what the model has been given so far.

    Attributes:
        latencies: In seconds; whoever gets an answer appends to it.
    """

    def __init__(self, tally: Callable[[], Tally]) -> None:
        self._tally = tally
        self.latencies: list[float] = []
        self.begin()

    def begin(self) -> None:
        """Forgets what was before."""
        self.latencies = []
        self._before = self._read()

    def _read(self) -> tuple[Tally, float, float]:
        return dataclasses.replace(self._tally()), time.process_time(), perf_counter()

    def metrics(self) -> Metrics:
        """What there was since begin()."""
        latencies = self.latencies  # while others still append to it
        count = len(latencies)
        (then, cpu_then, clock_then), (now, cpu_now, clock_now) = self._before, self._read()
        if not count:
            raise RuntimeError("no request was answered while the clock ran")
        p50, p99, p999 = np.percentile(latencies[:count], [50, 99, 99.9])
        batches, seen = now.batches - then.batches, now.seen - then.seen
        return {
            "throughput": count / (clock_now - clock_then),
            "p50": float(p50),
            "p99": float(p99),
            "p999": float(p999),
            "mean_batch": (now.rows - then.rows) / max(1, batches),
            # A Batcher counts rows when a batch ends, the model when it begins.
            "padding": max(0.0, 1 - (now.useful - then.useful) / max(1, seen)),
            "cpu_us": (cpu_now - cpu_then) / count * 1e6,
        }
